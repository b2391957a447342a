"""Pictures of experts, patches and texts, and the page that holds them."""

import base64
import re

import keras
import numpy as np
import pytest
from matplotlib.colors import to_rgb

import keras_moe
from keras_moe import diagnostics
from keras_moe import layers
from keras_moe import visualize
from keras_moe.visualize import page as page_module
from keras_moe.visualize import texts
from keras_moe.visualize.canvas import weights
from tests.test_visualize import plan_of

pytestmark = pytest.mark.once


def captured(layer, inputs):
    with diagnostics.capture() as plans:
        layer(keras.ops.convert_to_tensor(inputs, "float32"))
    return plans


def test_load_and_similarity_are_those_of_the_plan():
    plan = plan_of(layers.ExpertChoiceMoE(3, 1.0, intermediate_dim=2), tokens=6)
    bars = visualize.expert_load(plan, "load").axes[0].patches
    np.testing.assert_allclose([bar.get_height() for bar in bars], 1 / 3)
    shown = visualize.expert_similarity(plan).axes[0].images[0].get_array()
    read = weights(plan)[0].sum(-1)  # (G,T,E)
    cosine = [
        read[g, :, 0] @ read[g, :, 2] / 2 for g in range(2)
    ]  # two slots each
    assert shown[0, 2] == pytest.approx(np.mean(cosine))
    np.testing.assert_allclose(np.diag(shown), 1, rtol=1e-6)


def test_regions_of_experts_add_up_their_slots():
    plan = plan_of(layers.SoftMoE(3, 2, intermediate_dim=2))
    figure = visualize.expert_regions(
        np.zeros((2, 8, 12)), plan, (2, 3), columns=1
    )
    read, taken = (keras.ops.convert_to_numpy(w) for w in plan.weights())
    expert = taken.sum((0, 1, 3)).argmax()
    wanted = read[1, 1:, expert].sum(-1).reshape(2, 3)
    shown = figure.axes[3].images[1].get_array()[..., 3]
    assert shown.argmax() == wanted.argmax()
    assert shown.argmin() == wanted.argmin()


def test_dropped_patches_are_hatched():
    layer = layers.TokenChoiceMoE(3, 1, capacity_factor=0.5, intermediate_dim=2)
    plan = plan_of(layer, tokens=6)
    figure = visualize.token_weights(np.ones((2, 4, 6)), plan, (2, 3))
    slots = weights(plan)[0].sum((2, 3))
    for row in range(2):
        weights_axis, image_axis = figure.axes[3 * row + 1 : 3 * row + 3]
        weight = weights_axis.images[-1].get_array()
        np.testing.assert_array_equal(weight.ravel(), slots[row])
        low, high = slots[row].min(), slots[row].max()
        scale = f"capacity slots\n{low:.0f} to {high:.0f}"
        assert weights_axis.get_title() == scale
        assert all(patch.get_hatch() for patch in image_axis.patches)
        corners = [patch.get_xy() for patch in image_axis.patches]
        assert corners == [
            (2 * (token % 3), 2 * (token // 3))
            for token in np.flatnonzero(slots[row] == 0)
        ]
    assert (slots == 0).any() and (slots > 0).any()
    soft = plan_of(layers.SoftMoE(3, 2, intermediate_dim=2))
    figure = visualize.token_weights(np.ones((2, 4, 6)), soft, (2, 3))
    assert len(figure.axes) == 2 * 2 + 1  # and the bar of colours


@pytest.mark.parametrize(
    "options, number",
    [
        ({"group_size": 2}, 4),
        ({"group_size": 2}, 3),  # a group is filled up
        ({"group_size": 3, "group_axis": "sequence"}, 2),
        ({"group_size": 2, "inference_mixing": "argmax"}, 2),
    ],
)
def test_tokens_have_the_colour_of_their_expert(options, number):
    layer = layers.MixtureOfTokens(3, intermediate_dim=2, **options)
    inputs = np.random.default_rng(0).normal(size=(number, 5, 4))
    plans = captured(layer, inputs)
    plan, found = plans[layer.path], plans.layers[layer.path]
    assert found is layer
    figure = visualize.token_experts([list("a b\nc")] * number, layer, plan)
    shown = figure.axes[0].images[0].get_array()
    # The same by the layer's own way back from groups to texts.
    taken = keras.ops.sum(plan.weights()[1], -1)
    tokens = keras.ops.convert_to_tensor(inputs, "float32")
    back = []
    for expert in range(3):
        _, _, join = layer.split(tokens, None, False)
        column = keras.ops.repeat(taken[..., expert, None], 4, -1)
        back.append(keras.ops.convert_to_numpy(join(column))[..., 0])
    most = np.stack(back, -1).argmax(-1)
    for expert in range(3):
        colours = {tuple(c) for c in np.array(shown[most == expert])[:, :3]}
        assert len(colours) <= 1
    assert len(np.unique(shown[..., :3].reshape(-1, 3), axis=0)) == len(
        np.unique(most)
    )
    written = {text.get_text() for text in figure.axes[0].texts}
    assert written == {"a", "␣", "b", "↵", "c"}


def test_the_six_busiest_experts_have_colours():
    most = np.repeat(np.arange(8), [3, 1, 5, 2, 9, 4, 6, 0])
    colours, labels = texts.expert_colours(most, 9)
    assert list(labels) == [
        *(f"expert {expert}" for expert in (0, 2, 3, 4, 5, 6)),
        "1 other expert",
    ]
    grey = (colours == to_rgb(texts.OTHERS)).all(-1)
    assert np.flatnonzero(grey).tolist() == [1, 7, 8]
    assert len(np.unique(colours, axis=0)) == 7


def test_tokens_that_do_not_fit():
    layer = layers.MixtureOfTokens(3, 2, intermediate_dim=2)
    plan = captured(layer, np.zeros((4, 5, 4)))[layer.path]
    with pytest.raises(ValueError, match="equally long and not empty"):
        visualize.token_experts(["ab", "abc"], layer, plan)
    with pytest.raises(ValueError, match="2 texts of 5 tokens"):
        visualize.token_experts(["abcde"] * 2, layer, plan)


def pictures(page):
    text = page.read_text(encoding="utf-8")
    assert "src=" in text and "http" not in text  # it loads nothing
    found = re.findall(r"data:image/png;base64,([^\"]+)", text)
    assert all(base64.b64decode(one)[:4] == b"\x89PNG" for one in found)
    return text, len(found)


def test_report_of_a_classifier(tmp_path, monkeypatch):
    from keras_moe import models

    monkeypatch.setattr(page_module, "ROWS", 2)  # the others are in numbers
    classifier = models.MoEViTImageClassifier.from_preset(
        "soft_moe_vit_tiny_fashion_mnist"
    )
    images = keras_moe.samples.fashion_mnist().images[:3]
    page = visualize.report(classifier, images, tmp_path / "report.html")
    text, number = pictures(page)
    assert "<h1>Routers of MoEViTImageClassifier</h1>" in text
    assert "batch of 3" in text
    # Three layers: load, similarity, regions of experts and slots, weights.
    assert number == 3 * 5 and text.count("<h2>") == 3
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize("mode", ["group", "argmax"])
def test_report_of_a_language_model(mode, tmp_path):
    from tests.models.language_support import make_causal

    model = make_causal(mode)
    page = visualize.report(model, ["to be", "or"], tmp_path / "r.html")
    text, number = pictures(page)
    assert number == 3 and "MoTCausalLM" in text


def test_report_of_any_model(tmp_path):
    inputs = {"a": keras.Input((6, 4)), "b": keras.Input((6, 4))}
    moe = layers.TokenChoiceMoE(3, 1, intermediate_dim=2)
    model = keras.Model(inputs, moe(inputs["a"] + inputs["b"]), name="a<b")
    batch = {name: np.ones((2, 6, 4), "float32") for name in "ab"}
    text, number = pictures(visualize.report(model, batch, tmp_path / "r.html"))
    assert number == 2 and "Routers of a&lt;b" in text and "batch of 2" in text


def test_report_without_routers(tmp_path):
    dense = keras.Sequential([keras.layers.Dense(2)], name="dense")
    with pytest.raises(ValueError, match="no keras_moe layer .* 'dense'"):
        visualize.report(dense, np.ones((1, 2)), tmp_path / "r.html")
    assert not any(tmp_path.iterdir())
