"""Models whose tokens are routed by themselves: causal, independent, upcycled.

By token choice without drops, and by Expert Choice with thresholds.
"""

import keras
import numpy as np
import pytest

import keras_moe
from keras_moe import models
from tests.models import support
from tests.models.language_support import LENGTH
from tests.models.language_support import TEXTS
from tests.models.language_support import logits_of
from tests.models.language_support import make_causal
from tests.support import numpy

OPTIONS = {
    "num_experts": 4,
    "top_k": 2,
    "capacity_factor": None,
    "normalize_gates": True,
    "scoring": "sigmoid",
    "balance_bias_rate": 0.01,
    "shared_intermediate_dim": 4,
    "balance_loss": 0.01,
}


BY_THRESHOLDS = {
    "num_experts": 4,
    "capacity_factor": 1.5,
    "selection": "threshold",
    "threshold_momentum": 0.5,
}


@pytest.fixture(scope="module", params=["token_choice", "expert_choice"])
def model(request):
    if request.param == "token_choice":
        return make_causal(router="token_choice", router_options=OPTIONS)
    model = make_causal(router="expert_choice", router_options=BY_THRESHOLDS)
    ids = np.random.default_rng(1).integers(0, 258, (8, LENGTH))
    inputs = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    model.backbone(inputs, training=True)
    (moved,) = [w for w in model.weights if w.name == "thresholds"]
    assert (numpy(moved) > 0).all()
    return model


def test_cached_generation_is_the_argmax_of_all_logits(model):
    prompt = np.array([[256, 97, 98]], "int32")
    ids = np.zeros((1, LENGTH), "int32")
    ids[:, :3] = prompt
    mask = np.arange(LENGTH)[None] < 3
    bare = models.MoTCausalLM(model.backbone)
    bare.compile("adam", sampler="greedy")
    written = bare.generate(
        {"token_ids": ids, "padding_mask": mask.astype("int32")},
        stop_token_ids=None,
    )["token_ids"]
    best = logits_of(model, np.asarray(written)).argmax(-1)
    np.testing.assert_array_equal(written[:, 3:], best[:, 2:-1])


def test_rows_and_later_tokens_do_not_matter(model):
    texts = model.generate(TEXTS)
    for text, prompt in zip(texts, TEXTS):
        assert model.generate(prompt) == text
    ids = np.random.default_rng(0).integers(0, 258, (2, LENGTH))
    other = np.where(np.arange(LENGTH) < 6, ids, (ids + 1) % 258)
    before, after = (logits_of(model, i)[:, :6] for i in (ids, other))
    np.testing.assert_allclose(before, after, rtol=1e-4, atol=1e-4)


@pytest.mark.once
def test_a_preset_keeps_the_router(model, tmp_path):
    model.save_to_preset(str(tmp_path / "preset"))
    again = models.MoTCausalLM.from_preset(str(tmp_path / "preset"))
    ids = np.random.default_rng(0).integers(0, 258, (2, LENGTH))
    np.testing.assert_allclose(
        logits_of(again, ids), logits_of(model, ids), rtol=1e-5, atol=1e-5
    )
    assert again.backbone.router_options == model.backbone.router_options


@pytest.mark.once
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"normalize_gates": True, "routed_scaling": 2.5},
        {"scoring": "sigmoid", "router_bias": True},
        {"scoring": "softmax_top_k", "balance_bias_rate": 0.1},
        {"shared_intermediate_dim": 8, "shared_gate": True},
    ],
)
def test_a_dense_model_begins_as_itself(options):
    dense = support.make_classifier("dense")
    sparse = keras_moe.upcycle(
        dense,
        "token_choice",
        4,
        router_options={
            "top_k": 2,
            "capacity_factor": None,
            "router_initializer": "zeros",
            **options,
        },
    )
    images = support.images_of()
    np.testing.assert_allclose(
        numpy(sparse(images)), numpy(dense(images)), rtol=1e-4, atol=1e-5
    )


@pytest.mark.once
def test_an_image_model_trains():
    classifier = support.make_classifier(
        backbone=support.make_backbone("token_choice", router_options=OPTIONS)
    )
    classifier.compile(
        "adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    images = support.images_of(4)
    history = classifier.fit(images, np.arange(4) % 3, epochs=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
