"""Pictures show what the plan says."""

import keras
import numpy as np
import pytest

import keras_moe
from keras_moe import samples
from keras_moe import visualize


def plan_of(layer, groups=2, tokens=7):
    tokens = np.random.default_rng(0).normal(size=(groups, tokens, 4))
    with keras_moe.diagnostics.capture() as plans:
        layer(keras.ops.convert_to_tensor(tokens, "float32"))
    return plans[layer.path]


def soft():
    return plan_of(keras_moe.layers.SoftMoE(3, 2, intermediate_dim=2))


def test_regions_are_what_the_most_used_slots_read(tmp_path):
    plan = soft()
    images = np.zeros((2, 8, 12, 1), "u1")
    figure = visualize.slot_regions(
        images, plan, (2, 3), columns=2, titles=["a", "b"], title="slots"
    )
    read, taken = (keras.ops.convert_to_numpy(w) for w in plan.weights())
    used = taken.sum((0, 1)).reshape(-1).argsort()[::-1][:2]
    axes = np.array(figure.axes).reshape(2, 3)
    for row in range(2):
        for column, slot in enumerate(used, start=1):
            # The first token is not of the grid, as a class token is.
            wanted = read[row, 1:].reshape(6, -1)[:, slot].reshape(2, 3)
            shown = axes[row, column].images[1].get_array()[..., 3]
            place = np.unravel_index(wanted.argmax(), wanted.shape)
            assert shown[place] == shown.max() == pytest.approx(0.85)
            assert shown[
                np.unravel_index(wanted.argmin(), wanted.shape)
            ] == pytest.approx(0)
    expert, slot = divmod(int(used[0]), 2)
    least, most = axes[0, 1].get_title().split("\n")[-1].split(" to ")
    read = read[0, 1:].reshape(6, -1)[:, used[0]]
    assert (float(least), float(most)) == pytest.approx(
        (read.min(), read.max()), rel=0.1
    )
    title = axes[0, 1].get_title()
    assert title.startswith(f"expert {expert}\nslot {slot}\n")
    figure.savefig(tmp_path / "slots.png")
    assert (tmp_path / "slots.png").read_bytes().startswith(b"\x89PNG")


def test_hard_plans_are_shown_too():
    layer = keras_moe.layers.ExpertChoiceMoE(3, 1.0, intermediate_dim=2)
    plan = plan_of(layer, tokens=6)
    figure = visualize.slot_regions(
        np.zeros((2, 4, 6, 3)), plan, (2, 3), columns=20
    )
    assert len(figure.axes) == 2 * (1 + 6)  # three experts of two slots


@pytest.mark.parametrize(
    "change, match",
    [
        ({"images": np.zeros((2, 8))}, "images must have the shape"),
        ({"images": np.zeros((2, 8, 12, 2))}, "images must have the shape"),
        ({"images": np.zeros((0, 8, 12))}, "must not be empty"),
        ({"images": np.zeros((3, 8, 12))}, "each of the 3 images"),
        ({"grid": (3, 3)}, "at least 9 tokens"),
        ({"plan": "soft"}, "plan must be a SoftPlan, a HardPlan or"),
        ({"titles": ["a"]}, "titles must be 2"),
    ],
)
def test_wrong_arguments(change, match):
    right = {"images": np.zeros((2, 8, 12)), "plan": soft(), "grid": (2, 3)}
    with pytest.raises(ValueError, match=match):
        visualize.slot_regions(**{**right, **change})


def test_samples_are_balanced_and_licensed():
    images, labels, classes = samples.fashion_mnist()
    assert images.dtype == np.uint8 and images.shape == (300, 28, 28, 1)
    np.testing.assert_array_equal(np.bincount(labels), np.full(10, 30))
    assert len(classes) == 10
    assert images.reshape(300, -1).std(1).min() > 10  # none is blank
    licence = samples.FOLDER / "LICENSE.fashion_mnist"
    assert "Zalando" in licence.read_text()
