"""Upcycled models begin as they say.

Which weight goes where is decided in numpy, and so most tests run once; what
reads and writes the weights runs on each backend.
"""

import keras
import keras_hub
import numpy as np
import pytest

import keras_moe
from keras_moe import models
from keras_moe.upcycling import weights
from tests.models import support

VIT = {
    "image_shape": (8, 12, 3),
    "patch_size": 4,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 8,
    "mlp_dim": 12,
}
IMAGES = support.images_of(2, VIT["image_shape"])
GPT = {
    "vocabulary_size": 17,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 8,
    "max_sequence_length": 6,
}
TEXTS = {
    "token_ids": np.arange(24).reshape(4, 6) % 17,
    "padding_mask": np.ones((4, 6), "int32"),
}


def vit(**changes):
    keras.utils.set_random_seed(0)
    return support.randomize(keras_hub.models.ViTBackbone(**VIT, **changes))


def dense(**changes):
    keras.utils.set_random_seed(0)
    return support.randomize(models.MoEViTBackbone(**{**VIT, **changes}))


def gpt(**changes):
    backbone = models.MoTBackbone(**GPT, mlp_dim=12, router=None, **changes)
    return support.randomize(backbone)


def same(model, other, inputs):
    return np.allclose(
        support.evaluate(model, inputs),
        support.evaluate(other, inputs),
        rtol=1e-4,
        atol=1e-4,
    )


# === From KerasHub's dense models ===


@pytest.mark.parametrize(
    "changes",
    [
        {"layer_norm_epsilon": 1e-3},
        pytest.param(
            {
                "use_class_token": False,
                "use_mha_bias": False,
                "use_mlp_bias": False,
                "use_patch_bias": False,
            },
            marks=pytest.mark.once,
        ),
    ],
)
def test_vit_with_all_experts_is_the_dense_one(changes):
    theirs = vit(**changes)
    ours = keras_moe.upcycle(
        theirs, "token_choice", 3, layers="all", router_options={"top_k": 3}
    )
    assert same(theirs, ours, IMAGES)
    assert ours.moe_layers == (0, 1)
    kernel = keras.ops.convert_to_numpy(ours.blocks[0].mlp.experts.up.kernel)
    assert kernel.shape == (3, 8, 12) and (kernel == kernel[0]).all()


def test_the_old_model_trains_on_beside_the_new_one():
    """They share no array: JAX deletes those that a step has replaced."""
    old = models.MoEViTImageClassifier(dense(), 3)
    new = keras_moe.upcycle(old, "token_choice", 2)
    before = new.predict(IMAGES, verbose=0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    old.compile(keras.optimizers.SGD(1.0), loss, metrics=[])
    old.train_on_batch(IMAGES, np.array([0, 2]))
    assert not np.allclose(old.predict(IMAGES, verbose=0), before)
    np.testing.assert_array_equal(new.predict(IMAGES, verbose=0), before)


@pytest.mark.once
def test_vit_classifier_keeps_head_and_preprocessing():
    converter = keras_hub.layers.ViTImageConverter(
        image_size=(8, 12), scale=1 / 127.5, offset=-1.0
    )
    theirs = keras_hub.models.ViTImageClassifier(
        vit(),
        num_classes=5,
        preprocessor=keras_hub.models.ViTImageClassifierPreprocessor(converter),
        intermediate_dim=7,
        pooling="gap",
    )
    support.randomize(theirs)
    ours = keras_moe.upcycle(
        theirs,
        "expert_choice",
        2,
        router_options={"capacity_factor": 2.0},
    )
    assert isinstance(ours, models.MoEViTImageClassifier)
    assert ours.backbone.moe_layers == (1,)
    pixels = support.pixels_of(2, (16, 24, 3))
    np.testing.assert_allclose(
        theirs.predict(pixels, verbose=0),
        ours.predict(pixels, verbose=0),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.once
def test_gpt2_keeps_its_logits_and_its_tokenizer():
    theirs = keras_hub.models.GPT2Backbone(**GPT, intermediate_dim=12)
    tokenizer = keras_hub.models.GPT2Tokenizer(
        {"<|endoftext|>": 0, "a": 1, "b": 2, "ab": 3, "Ġ": 4}, ["a b"]
    )
    preprocessor = keras_hub.models.GPT2CausalLMPreprocessor(
        tokenizer, sequence_length=6, add_start_token=False
    )
    theirs = keras_hub.models.GPT2CausalLM(theirs, preprocessor)
    support.randomize(theirs)
    ours = keras_moe.upcycle(
        theirs, "mixture_of_tokens", 2, router_options={"group_size": 4}
    )
    assert isinstance(ours, models.MoTCausalLM)
    assert not same(theirs, ours, TEXTS)  # mixed with the batch
    ours.inference_mixing = "self"
    assert same(theirs, ours, TEXTS)
    assert ours.preprocessor.sequence_length == 6
    assert ours.preprocessor.add_start_token is False
    texts = ["ab a", "b"]
    for mine, other in zip(ours.preprocessor(texts), preprocessor(texts)):
        keras.tree.map_structure(
            lambda a, b: np.testing.assert_array_equal(
                *map(keras.ops.convert_to_numpy, (a, b))
            ),
            mine,
            other,
        )


@pytest.mark.once
def test_presets_by_folder_and_name(tmp_path):
    theirs = keras_hub.models.ViTImageClassifier(vit(), num_classes=3)
    theirs.save_to_preset(tmp_path / "task")
    ours = keras_moe.upcycle(tmp_path / "task", "soft", 2)
    assert isinstance(ours, models.MoEViTImageClassifier)
    theirs.backbone.save_to_preset(tmp_path / "backbone")
    ours = keras_moe.upcycle(
        str(tmp_path / "backbone"),
        "token_choice",
        2,
        router_options={"top_k": 2},
    )
    assert same(theirs.backbone, ours, IMAGES)
    ours.save_to_preset(tmp_path / "ours")
    again = models.MoEViTBackbone.from_preset(str(tmp_path / "ours"))
    assert same(ours, again, IMAGES)
    ours = keras_moe.upcycle("mot_tiny_shakespeare", "token_choice")
    assert isinstance(ours, models.MoTCausalLM)


# === What a new layer begins with ===


@pytest.mark.once
def test_indifferent_token_choice_without_drops_is_the_dense_model():
    options = {"top_k": 2, "capacity_factor": 2.0}
    options["router_initializer"] = "zeros"
    model = dense()
    sparse = keras_moe.upcycle(model, "token_choice", 4, router_options=options)
    assert same(model, sparse, IMAGES)
    plain = keras_moe.upcycle(
        model, "token_choice", 4, router_options=options, rescale=False
    )
    assert not same(model, plain, IMAGES)
    for name in ("kernel", "bias"):
        scaled, kept = (
            keras.ops.convert_to_numpy(
                getattr(m.blocks[1].mlp.experts.down, name)
            )
            for m in (sparse, plain)
        )
        np.testing.assert_allclose(scaled, 2 * kept, rtol=1e-6)


@pytest.mark.once
@pytest.mark.parametrize(
    "options, modes",
    [
        ({"group_size": 2}, ("self",)),
        ({"group_size": 4}, ("self", "argmax")),
        ({"group_size": 2, "emit_over_experts": True}, ("self", "argmax")),
        ({"group_size": 2, "learn_temperature": True}, ("self",)),
    ],
)
def test_mixture_of_tokens_alone_is_the_dense_model(options, modes):
    model = gpt()
    sparse = keras_moe.upcycle(
        model, "mixture_of_tokens", 4, layers=[0], router_options=options
    )
    for mode in modes:
        sparse.inference_mixing = mode
        assert same(model, sparse, TEXTS), mode


@pytest.mark.once
def test_expert_choice_slots_give_the_total_weight():
    """Less than all slots: |Σ gates · E/c| is 1 on average over tokens."""
    model = dense(hidden_dim=16)
    sparse = keras_moe.upcycle(
        model, "expert_choice", 3, router_options={"capacity_factor": 1.5}
    )
    with keras_moe.diagnostics.capture() as plans:
        sparse(IMAGES)
    (plan,) = plans.values()
    gates = keras.ops.convert_to_numpy(plan.gate)
    tokens = plan.num_tokens * len(IMAGES)
    assert abs(gates.sum() * 3 / 1.5 / tokens - 1) < 0.15


@pytest.mark.once
def test_noise_is_seeded_and_of_the_size_asked_for():
    model = dense(hidden_dim=16, mlp_dim=32)

    def kernel(**arguments):
        new = keras_moe.upcycle(model, "soft", 4, **arguments)
        value = new.blocks[1].mlp.experts.up.kernel
        return keras.ops.convert_to_numpy(value)

    plain, noisy = kernel(), kernel(expert_noise=0.1)
    assert (plain == plain[0]).all()
    assert (noisy == kernel(expert_noise=0.1)).all()
    assert (noisy != kernel(expert_noise=0.1, seed=1)).any()
    share = (noisy - plain).std() / plain[0].std()
    assert abs(share - 0.1) < 0.01


# === Soft MoE: near, and nearer where calibrated ===


def gap(model, sparse, images):
    """Distance of the upcycled layer's outputs from the MLP's."""
    block, new = model.blocks[1], sparse.blocks[1]
    tokens = keras.Model(model.input, block.input)(images)
    tokens = block.mlp_norm(
        tokens + block.attention(block.attention_norm(tokens))
    )
    return weights.distance(new.mlp(tokens), block.mlp(tokens))


@pytest.mark.once
def test_soft_moe_is_near_and_calibration_brings_it_nearer():
    model = dense(image_shape=(16, 16, 3))
    images = support.images_of(8, (16, 16, 3))
    options = {"router_options": {"slots_per_expert": 8}}
    drawn = keras_moe.upcycle(model, "soft", 2, **options)
    layer = drawn.blocks[1].mlp
    assert abs(float(layer.scale) - 4 * 8**0.5) < 1e-5
    usual = keras_moe.upcycle(model, "soft", 2, **options)
    usual.blocks[1].mlp.scale.assign(1.0)
    set_ = keras_moe.upcycle(
        model, "soft", 2, calibration=images[:4], **options
    )
    gaps = [gap(model, m, images[4:]) for m in (usual, drawn, set_)]
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 0.5


def test_one_slot_for_each_token_and_large_scale_is_the_mlp():
    """The algebra's limit: every slot one token, every token its slot."""
    model = dense(image_shape=(8, 8, 3))
    image = support.images_of(1, (8, 8, 3))
    options = {"slots_per_expert": 2}
    sparse = keras_moe.upcycle(
        model, "soft", 2, router_options=options, calibration=image
    )
    assert gap(model, sparse, image) < 1e-2
