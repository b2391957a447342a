"""What classes are called: checked, saved, and put to outputs."""

import json

import numpy as np
import pytest

import keras_moe
from keras_moe import models
from keras_moe.models import MoEViTImageClassifier
from tests.models.support import make_backbone

NAMES = ("cat", "dog", "owl")
SHIPPED = "soft_moe_vit_tiny_fashion_mnist"


@pytest.fixture(scope="module")
def classifier():
    return MoEViTImageClassifier(
        make_backbone("dense"), 3, class_names=list(NAMES)
    )


def test_logits_become_names(classifier):
    best = classifier.decode_predictions(np.log([[1, 6, 3], [7, 1, 2]]), 2)
    assert [[name for name, _ in row] for row in best] == [
        ["dog", "owl"],
        ["cat", "owl"],
    ]
    np.testing.assert_allclose(
        [[score for _, score in row] for row in best], [[0.6, 0.3], [0.7, 0.2]]
    )


def test_probabilities_are_taken_as_they_are():
    task = MoEViTImageClassifier(
        make_backbone("dense"), 3, activation="softmax", class_names=NAMES
    )
    found = task.decode_predictions(np.array([[0.2, 0.5, 0.3]]))
    assert found == [[("dog", 0.5)]]


@pytest.mark.parametrize(
    "names", [["a", "b"], ["a", "b", "b"], ["a", "b", ""], [1, 2, 3], "abc", 3]
)
def test_names_that_do_not_fit(classifier, names):
    with pytest.raises(ValueError, match="^class_names must be None or 3 diff"):
        MoEViTImageClassifier(classifier.backbone, 3, class_names=names)
    with pytest.raises(ValueError, match="^class_names must be None or 3 diff"):
        classifier.class_names = names


def test_what_cannot_be_named(classifier):
    for value in (0, 2.5, True):
        with pytest.raises(ValueError, match="^top_k must be an integer of at"):
            classifier.decode_predictions(np.zeros((1, 3)), value)
    with pytest.raises(ValueError, match="^top_k must be at most num_classes"):
        classifier.decode_predictions(np.zeros((1, 3)), 4)
    with pytest.raises(ValueError, match=r"^predictions must .* \(batch, 3\)"):
        classifier.decode_predictions(np.zeros((1, 4)))
    bare = MoEViTImageClassifier(classifier.backbone, 3)
    assert bare.class_names is None and bare.get_config()["class_names"] is None
    with pytest.raises(ValueError, match="^class_names must be set, 3 strings"):
        bare.decode_predictions(np.zeros((1, 3)))


@pytest.mark.once
def test_names_are_saved(classifier, tmp_path):
    folder = tmp_path / "preset"
    classifier.save_to_preset(folder)
    load = MoEViTImageClassifier.from_preset
    assert load(folder).class_names == NAMES
    assert load(folder, class_names=["x", "y", "z"]).class_names[0] == "x"
    # A new head has names of its own, or none.
    assert load(folder, num_classes=3).class_names is None
    assert load(folder, num_classes=2).class_names is None
    named = load(folder, num_classes=2, class_names=["on", "off"])
    assert named.class_names == ("on", "off")
    with pytest.raises(ValueError, match="^class_names must be None or 2 diff"):
        load(folder, num_classes=2, class_names=NAMES)
    # Presets of earlier versions say nothing of names.
    task = json.loads((folder / "task.json").read_text())
    del task["config"]["class_names"]
    (folder / "task.json").write_text(json.dumps(task))
    (folder / "keras_moe.json").unlink()
    assert load(folder).class_names is None


@pytest.mark.once
def test_the_shipped_preset_names_its_classes():
    task = models.MoEViTImageClassifier.from_preset(SHIPPED)
    images, labels, names = keras_moe.samples.fashion_mnist()
    assert task.class_names == names
    found = task.classify(images[::30], top_k=2)
    right = [row[0][0] == names[k] for row, k in zip(found, labels[::30])]
    assert sum(right) >= 8
    assert all(a[1] >= b[1] for a, b in found)


def images(*shape):
    return np.zeros(shape, "float32")


@pytest.mark.parametrize(
    "value, text",
    [
        (None, "received None"),
        ([], r"received shape \(0,\)"),
        ("a.png", "received 'a.png'"),
        (["a.png"], "received <U5 for pixels"),
        (5, "received 5"),
        (images(0, 8, 8, 3), r"received shape \(0, 8, 8, 3\)"),
        (images(8, 8, 3), r"received shape \(8, 8, 3\)"),
        (images(2, 8, 8), r"received shape \(2, 8, 8\)"),
        (images(2, 8, 8, 7), r"received shape \(2, 8, 8, 7\)"),
        (images(2, 12, 8, 3), r"received shape \(2, 12, 8, 3\)"),
        ([images(8, 8, 3), images(4, 4, 3)], "do not have one size"),
        (images(2, 8, 8, 3).astype("complex64"), "received complex64"),
    ],
)
def test_images_that_do_not_fit(classifier, value, text):
    for method in ("predict", "fit", "evaluate", "predict_on_batch"):
        with pytest.raises(
            ValueError, match=f"^x must be a batch of at least one .*{text}"
        ):
            getattr(classifier, method)(value)


@pytest.mark.once
@pytest.mark.parametrize(
    "cls", [models.MoEViTImageClassifier, models.MoEViTBackbone]
)
def test_weights_have_their_channels(cls):
    with pytest.raises(
        ValueError,
        match=r"^image_shape must have 1 channels.*received \(28, 28, 3\)",
    ):
        cls.from_preset(SHIPPED, image_shape=(28, 28, 3))
