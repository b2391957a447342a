"""Models with blocks that some tokens skip: features, generation, files."""

import functools

import keras
import numpy as np
import pytest

import keras_moe
from keras_moe import diagnostics
from keras_moe import models
from keras_moe import planning
from keras_moe import visualize
from tests.conversion import texts
from tests.models import support
from tests.models.language.test_language_model import draw
from tests.models.language.test_language_model import make
from tests.models.language_support import make_preprocessor
from tests.support import numpy

PREDICTOR = {"capacity": 0.5, "inference": "predictor", "predictor_dim": 4}
THRESHOLD = {"capacity": 0.5, "inference": "threshold"}
DENSE = {"router": None, "router_options": None}


def language(depth_options, depth_layers=(1,), **options):
    """A dense model of large weights, that tells tokens apart."""
    backbone = make(
        depth_layers=depth_layers,
        depth_options=depth_options,
        **{**DENSE, **options},
    )
    for depths in backbone.depths:
        for weight in depths.weights:
            if weight.path.startswith("depths"):
                weight.assign(4 * weight)
        if depths.inference == "threshold":
            depths.threshold.assign([0.45])
    return backbone


def vision(depth_options=None, depth_layers=(1,), **options):
    return models.MoEViTBackbone(
        **support.TINY,
        depth_layers=depth_layers,
        depth_options={"capacity": 0.4, **(depth_options or {})},
        **options,
    )


def passed(backbone, ids):
    """Which tokens pass each block: Boolean (batch, tokens), by its layer."""
    inputs = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    with diagnostics.capture() as plans:
        backbone(inputs, training=False)
    found = {}
    for depths in backbone.depths:
        dispatch, _ = plans[depths.path].weights()
        found[depths.path] = numpy(dispatch)[:, :, 0].any(-1)
    return found


# === What is computed ===


@pytest.mark.once
def test_the_patches_that_pass_an_image_model_attend_to_each_other_alone():
    backbone = vision()
    support.randomize(backbone)
    images = support.images_of()
    block, (depths,) = backbone.blocks[1], backbone.depths
    before = keras.Model(backbone.input, backbone.blocks[0].output)
    tokens = numpy(before(images))
    scores = (tokens @ numpy(depths.router_kernel))[..., 0]
    assert tokens.shape[1] == 12
    outputs = tokens.copy()
    for one, score, out in zip(tokens, scores, outputs):
        rows = np.sort(np.argsort(-score)[:5])  # round(0.4 · 12)
        update = numpy(block(one[rows][None]))[0] - one[rows]
        out[rows] += score[rows, None] * update
    np.testing.assert_allclose(
        support.evaluate(backbone, images),
        numpy(backbone.norm(outputs)),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.once
def test_the_tokens_that_pass_a_text_model_keep_their_positions():
    """A token reads those that pass before it, at their places."""
    backbone = language(PREDICTOR, positions="rotary")
    ids, (depths,) = draw(), backbone.depths
    before = keras.Model(backbone.input, backbone.blocks[0].output)
    inputs = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    tokens = numpy(before(inputs))
    choice = passed(backbone, ids)["depths_1"]
    assert 0 < choice.mean() < 1
    outputs = tokens.copy()
    for number, rows in enumerate(map(np.flatnonzero, choice)):
        own = tokens[number, rows][None]
        places = rows[None].astype("int32")
        update = numpy(backbone.blocks[1](own, places=places)) - own
        score = own @ numpy(depths.router_kernel)
        outputs[number, rows] += (score * update)[0]
    np.testing.assert_allclose(
        numpy(backbone(inputs)),
        numpy(backbone.norm_layer(outputs)),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("depth_options", [PREDICTOR, THRESHOLD])
def test_later_tokens_change_nothing(depth_options):
    backbone, ids = language(depth_options, (0, 1)), draw()
    changed = ids.copy()
    changed[:, 5:] = draw(seed=1)[:, 5:]
    logits = functools.partial(texts.logits, backbone)
    before, after = logits(ids), logits(changed)
    np.testing.assert_allclose(before[:, :5], after[:, :5], atol=1e-5)
    assert np.abs(before[:, 5:] - after[:, 5:]).max() > 1e-3


# === Generation ===


EXPERTS = {"num_experts": 3, "top_k": 1, "capacity_factor": None}


@pytest.mark.parametrize(
    "depth_options, options",
    [
        ({**PREDICTOR, "inference_capacity": 0.3}, {"positions": "rotary"}),
        (THRESHOLD, {"router": "token_choice", "router_options": EXPERTS}),
    ],
    ids=["predictor", "threshold"],
)
def test_cached_is_uncached(depth_options, options):
    """Token by token, for prompts of different lengths."""
    backbone = language(depth_options, (1, 0), **options)
    model = models.MoTCausalLM(backbone)
    model.compile(sampler="greedy")
    mask = np.arange(8) < np.array([[3], [5], [2], [3]])
    ids = np.where(mask, draw(), 0)
    found = model.generate(
        {"token_ids": ids, "padding_mask": mask.astype("int32")},
        stop_token_ids=None,
    )
    for length in range(2, 8):
        next_ids = texts.logits(backbone, ids)[:, length - 1].argmax(-1)
        ids[:, length] = np.where(mask[:, length], ids[:, length], next_ids)
    np.testing.assert_array_equal(numpy(found["token_ids"]), ids)
    for choice in passed(backbone, ids).values():
        assert 0 < choice.mean() < 1


@pytest.mark.once
@pytest.mark.parametrize("depth_layers", [(), (1,)])
def test_a_loop_of_ones_own_reads_one_token_after_another(depth_layers):
    """With experts, whose mask is of the new token, not of the cache."""
    backbone = language(
        PREDICTOR if depth_layers else None,
        depth_layers,
        router="token_choice",
        router_options=EXPERTS,
    )
    ids, mask = draw(), np.ones((4, 8), "int32")
    cache, features = backbone.empty_cache(4, 8), []
    for index in range(8):
        tokens, cache = backbone.call_with_cache(
            ids[:, index : index + 1], cache, index, mask
        )
        features.append(numpy(tokens))
    np.testing.assert_allclose(
        np.concatenate(features, axis=1),
        numpy(backbone({"token_ids": ids, "padding_mask": mask})),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.once
@pytest.mark.parametrize("sampler", ["beam", "contrastive"])
def test_samplers_that_copy_the_cache(sampler):
    backbone = language(PREDICTOR)
    model = models.MoTCausalLM(backbone)
    prompts = {"token_ids": draw(2), "padding_mask": np.ones((2, 8), "int32")}
    prompts["padding_mask"][:, 3:] = 0
    model.compile(sampler=sampler)
    ids = numpy(model.generate(prompts, stop_token_ids=None))["token_ids"]
    np.testing.assert_array_equal(ids[:, :3], prompts["token_ids"][:, :3])
    assert ids.max() < 20


def test_generation_is_refused_where_tokens_compete():
    model = models.MoTCausalLM(language({"capacity": 0.5}))
    prompts = {"token_ids": draw(), "padding_mask": np.ones((4, 8), "int32")}
    text = "generate needs to know whether a token passes .* inference='top_k'"
    with pytest.raises(ValueError, match=text):
        model.generate(prompts, stop_token_ids=None)


# === Training, files and what else reads a model ===


def test_a_text_model_trains_and_comes_back_from_a_preset(tmp_path):
    model = models.MoTCausalLM(language(PREDICTOR))
    ids, mask = draw(), np.ones((4, 8), "int32")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)
    before = {w.path: numpy(w) for w in model.weights}
    model.train_on_batch({"token_ids": ids, "padding_mask": mask}, ids)
    for weight in model.backbone.depths[0].weights:
        assert (numpy(weight) != before[weight.path]).any(), weight.path
    model.save_to_preset(tmp_path / "preset")
    again = models.MoTCausalLM.from_preset(str(tmp_path / "preset"))
    assert again.backbone.get_config() == model.backbone.get_config()
    assert again.backbone.depth_layers == (1,)
    assert again.backbone.depth_options == PREDICTOR
    np.testing.assert_array_equal(
        texts.logits(model.backbone, ids), texts.logits(again.backbone, ids)
    )


@pytest.mark.once
def test_an_image_model_in_a_preset(tmp_path):
    backbone = vision({"inference": "threshold"}, class_token=True)
    support.randomize(backbone)
    backbone.save_to_preset(tmp_path / "preset")
    again = models.MoEViTBackbone.from_preset(str(tmp_path / "preset"))
    images = support.images_of()
    np.testing.assert_array_equal(
        support.evaluate(again, images), support.evaluate(backbone, images)
    )


@pytest.mark.once
def test_blocks_keep_the_paths_of_their_weights():
    plain = {w.path for w in support.make_backbone("dense").weights}
    assert {w.path for w in vision().weights} - plain == {
        "depths_1/router_kernel"
    }


@pytest.mark.once
def test_slots_are_counted_from_the_patches_that_pass():
    """Of 12 patches 5 pass; a factor of 2 makes 5 slots of each expert."""
    backbone = vision(
        router="soft",
        moe_layers=[1],
        router_options={"num_experts": 2, "capacity_factor": 2.0},
    )
    assert backbone.blocks[1].mlp.slot_embedding.shape == (8, 2, 5)


@pytest.mark.once
def test_upcycling_keeps_the_routers_of_tokens():
    backbone, images = vision(), support.images_of()
    support.randomize(backbone)
    sparse = keras_moe.upcycle(
        backbone, "token_choice", 2, router_options={"top_k": 2}, layers="all"
    )
    np.testing.assert_allclose(
        support.evaluate(sparse, images),
        support.evaluate(backbone, images),
        atol=1e-4,
    )
    with pytest.raises(
        ValueError, match="^calibration must be left .*for .1.."
    ):
        keras_moe.upcycle(backbone, "soft", 2, calibration=images)


@pytest.mark.once
def test_flops_of_the_tokens_that_pass():
    """round(0.4 · 12) = 5 of 12 tokens."""
    all_pass, some = vision({"capacity": 1.0}), vision()

    def block(tokens):
        return 8 * tokens * 8 * 8 + 4 * tokens**2 * 8 + 4 * tokens * 8 * 12

    difference = planning.flops(all_pass) - planning.flops(some)
    assert difference == block(12) - block(5)
    plain = planning.flops(support.make_backbone("dense"))
    assert planning.flops(all_pass) - plain == 2 * 12 * 8


@pytest.mark.once
def test_a_report_shows_the_tokens_that_pass(tmp_path):
    model = models.MoTCausalLM(
        language(
            PREDICTOR,
            router="token_choice",
            router_options={"num_experts": 3, "top_k": 1},
            vocabulary_size=258,
        ),
        make_preprocessor(),
    )
    page = visualize.report(model, ["to be", "or not"], tmp_path / "page.html")
    text = page.read_text(encoding="utf-8")
    assert "depths_1" in text and "reads only tokens that pass" in text


@pytest.mark.once
def test_negative_weights_are_no_dropped_tokens():
    backbone = language(PREDICTOR)
    ids = draw()
    inputs = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    with diagnostics.capture() as plans:
        backbone(inputs, training=False)
    plan = plans["depths_1"]
    assert numpy(plan.combine_weights).min() < 0
    share = passed(backbone, ids)["depths_1"].mean()
    facts = diagnostics.summarize(plan)
    assert facts["dropped"] == pytest.approx(1 - share)
    assert facts["load"].tolist() == [1.0]


# === Arguments that meet ===


def test_experts_that_mix_the_batch_are_refused():
    with pytest.raises(
        ValueError,
        match="^depth_layers must be other blocks than moe_layers where router"
        "='mixture_of_tokens', which mixes .*; received .0. in both",
    ):
        make(depth_layers=[0])
    make(depth_layers=[0], moe_layers=[1])


def test_options_are_those_of_the_layer():
    for options in ({"capacities": 0.5}, {"residual": False}, {"name": "one"}):
        with pytest.raises(
            ValueError,
            match="^depth_options must be arguments of MixtureOfDepths, capaci",
        ):
            vision(options)
    with pytest.raises(ValueError, match="^capacity must be at most 1; rec"):
        vision({"capacity": 2.0})
