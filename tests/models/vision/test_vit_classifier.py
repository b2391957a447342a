"""`MoEViTImageClassifier` as a KerasHub task: heads, presets, fine-tuning."""

import copy

import keras
import keras_hub
import numpy as np
import pytest
from keras_hub.src.tests.test_case import TestCase
from sklearn import datasets

from keras_moe import models
from keras_moe.models import MoEViTImageClassifier
from tests.models.support import close
from tests.models.support import evaluate
from tests.models.support import images_of
from tests.models.support import make_backbone
from tests.models.support import make_classifier
from tests.models.support import make_preprocessor
from tests.models.support import pixels_of
from tests.models.support import randomize

# === What KerasHub asks of every task ===


class KerasHubTest(TestCase):
    def test_task(self):
        self.run_task_test(
            cls=MoEViTImageClassifier,
            init_kwargs={
                "backbone": make_backbone(),
                "preprocessor": make_preprocessor(),
                "num_classes": 3,
            },
            # Larger than the model's images.
            train_data=(pixels_of(4, (20, 30, 3)), [0, 1, 2, 0]),
            expected_output_shape=(4, 3),
        )

    @pytest.mark.once
    def test_preprocessor(self):
        # `run_preprocessor_test` is for tokens; this is its first half.
        self.run_preprocessing_layer_test(
            cls=models.MoEViTImageClassifierPreprocessor,
            init_kwargs={"image_converter": models.image_converter((2, 2, 1))},
            input_data=(np.array([[[[0.0], [255.0]], [[51.0], [204.0]]]]), [1]),
            expected_output=([[[[-1.0], [1.0]], [[-0.6], [0.6]]]], [1]),
        )


# === Heads ===


@pytest.mark.parametrize("pooling", ["gap", "token", "map"])
@pytest.mark.parametrize("representation_size", [None, 5])
def test_heads(pooling, representation_size):
    classifier = make_classifier(
        backbone=make_backbone(class_token=pooling != "gap"),
        pooling=pooling,
        representation_size=representation_size,
    )
    randomize(classifier)
    images = images_of()
    tokens = evaluate(classifier.backbone, images)
    if pooling == "map":
        features = keras.ops.convert_to_numpy(classifier.pooler(tokens))
    else:
        features = tokens.mean(1) if pooling == "gap" else tokens[:, 0]
    layers = [classifier.output_dense]
    if representation_size:
        layers.insert(0, classifier.pre_logits)
    for layer in layers:
        kernel, bias = map(keras.ops.convert_to_numpy, layer.weights)
        features = features @ kernel + bias
        if layer is not layers[-1]:
            features = np.tanh(features)
    close(evaluate(classifier, images), features)
    config = classifier.get_config()
    assert config["pooling"] == pooling
    assert config["representation_size"] == representation_size


def test_attention_pooling_does_not_see_the_order():
    pooler = make_classifier(pooling="map").pooler
    tokens = np.random.default_rng(0).normal(size=(2, 6, 8)).astype("float32")
    run = keras.ops.convert_to_numpy
    close(run(pooler(tokens)), run(pooler(tokens[:, ::-1])))


def test_global_average_is_over_tokens_in_any_format():
    before = keras.config.image_data_format()
    expected = randomize(make_classifier())
    keras.config.set_image_data_format("channels_first")
    try:
        backbone = make_backbone(image_shape=(3, 12, 16))
        classifier = make_classifier(backbone=backbone)
    finally:
        keras.config.set_image_data_format(before)
    classifier.set_weights(expected.get_weights())
    images = images_of()
    outputs = evaluate(classifier, images.transpose(0, 3, 1, 2))
    close(outputs, evaluate(expected, images))


def test_start_of_the_head():
    """Zero kernel and a bias: every class is equally likely at first."""
    classifier = make_classifier(head_kernel_initializer="zeros", head_bias=-2)
    close(evaluate(classifier, images_of()), np.full((2, 3), -2.0), 0)


def test_config():
    classifier = make_classifier(
        pixels=True,
        pooling="map",
        representation_size=4,
        activation="softmax",
        dropout=0.2,
        head_kernel_initializer="zeros",
        head_bias=-1.5,
        head_dtype="bfloat16",
    )
    config = classifier.get_config()
    # KerasHub puts objects into the dictionaries that it is given.
    again = MoEViTImageClassifier.from_config(copy.deepcopy(config))
    assert again.get_config() == config
    assert again.output_dense.compute_dtype == "bfloat16"
    assert again.backbone.compute_dtype == "float32"


@pytest.mark.parametrize("activation, logits", [(None, 1), ("softmax", 0)])
def test_the_default_loss_knows_the_activation(activation, logits):
    classifier = make_classifier(activation=activation)
    assert classifier.loss.from_logits == bool(logits)
    sums = evaluate(classifier, images_of()).sum(-1)
    assert np.allclose(sums, 1) != bool(logits)


def test_converter_keeps_its_data_format():
    converter = models.image_converter((3, 2, 2), "channels_first")
    again = models.MoEViTImageConverter.from_config(converter.get_config())
    pixels = np.zeros((1, 3, 4, 4), "uint8")
    assert tuple(again(pixels).shape) == (1, 3, 2, 2)


# === Presets ===


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    """A preset's folder and the model that is in it."""
    folder = tmp_path_factory.mktemp("presets") / "tiny"
    classifier = randomize(make_classifier(pixels=True))
    classifier.save_to_preset(folder)
    return folder, classifier


@pytest.mark.parametrize(
    "cls", [MoEViTImageClassifier, keras_hub.models.ImageClassifier]
)
def test_from_preset(preset, cls):
    folder, classifier = preset
    loaded = cls.from_preset(str(folder))
    assert type(loaded) is MoEViTImageClassifier
    pixels = pixels_of(2, (20, 20, 3))
    expected = classifier.predict(pixels, verbose=0)
    assert np.abs(expected).max() > 0.1
    close(loaded.predict(pixels, verbose=0), expected, 1e-6)
    assert loaded.get_config() == classifier.get_config()


@pytest.mark.parametrize(
    "cls", [models.MoEViTBackbone, keras_hub.models.Backbone]
)
def test_backbone_from_preset(preset, cls):
    folder, classifier = preset
    loaded = cls.from_preset(str(folder))
    assert type(loaded) is models.MoEViTBackbone
    images = images_of()
    close(evaluate(loaded, images), evaluate(classifier.backbone, images), 0)


def test_another_number_of_classes(preset):
    folder, classifier = preset
    loaded = MoEViTImageClassifier.from_preset(folder, num_classes=5)
    images = images_of()
    assert evaluate(loaded, images).shape == (2, 5)
    same = evaluate(loaded.backbone, images)
    close(same, evaluate(classifier.backbone, images), 0)


def test_architecture_without_weights(preset):
    folder, classifier = preset
    loaded = MoEViTImageClassifier.from_preset(folder, load_weights=False)
    assert loaded.get_config() == classifier.get_config()
    difference = evaluate(loaded, images_of()) - evaluate(
        classifier, images_of()
    )
    assert np.abs(difference).max() > 0.01


def test_another_image_shape(preset):
    folder, classifier = preset
    loaded = MoEViTImageClassifier.from_preset(folder, image_shape=(24, 20, 3))
    run = keras.ops.convert_to_numpy
    find = {w.path: run(w) for w in classifier.backbone.weights}
    for weight in loaded.backbone.weights:
        expected = find[weight.path]
        if weight.path == "positions/positions":
            assert weight.shape == (1, 30, 8)
            expected = models.resize_positions(expected, (3, 4), (6, 5), False)
        close(run(weight), expected, 1e-6)
    # Pixels of any size are made fit for the new shape, not for the old one.
    pixels = pixels_of(2, (40, 40, 3))
    assert loaded.predict(pixels, verbose=0).shape == (2, 3)
    assert loaded.preprocessor.image_size == (24, 20)


# === Training ===


@pytest.mark.parametrize("how", ["all", "frozen", "lora"])
def test_fine_tuning(how, digits_preset):
    images, labels, folder = digits_preset
    keras.utils.set_random_seed(1)
    classifier = MoEViTImageClassifier.from_preset(folder, num_classes=10)
    if how == "frozen":
        classifier.backbone.trainable = False
    if how == "lora":
        classifier.backbone.enable_lora(rank=2)
    trainable = sum(np.prod(w.shape) for w in classifier.trainable_weights)
    assert (trainable == classifier.count_params()) == (how == "all")
    classifier.compile(
        keras.optimizers.Adam(1e-2),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    classifier.fit(images, labels, batch_size=64, epochs=4, verbose=0)
    _, accuracy = classifier.evaluate(images, labels, verbose=0)
    # One of ten is chance.
    assert accuracy > {"all": 0.45, "frozen": 0.22, "lora": 0.3}[how]


@pytest.fixture(scope="module")
def digits_preset(tmp_path_factory):
    """Handwritten digits of 8 x 8 pixels, and a model of 28 x 28 to fit."""
    keras.utils.set_random_seed(0)
    digits = datasets.load_digits()
    images = (digits.images[:768, :, :, None] * 255 / 16).astype("uint8")
    backbone = make_backbone(
        image_shape=(28, 28, 1), patch_size=7, hidden_dim=32, mlp_dim=32
    )
    folder = tmp_path_factory.mktemp("presets") / "digits"
    make_classifier(backbone=backbone, pixels=True).save_to_preset(folder)
    return images, digits.target[:768], folder


def test_keras_file(tmp_path):
    classifier = randomize(
        make_classifier(pixels=True, pooling="map", representation_size=4)
    )
    pixels = pixels_of(2, (20, 20, 3))
    classifier.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    expected = classifier.predict(pixels, verbose=0)
    close(loaded.predict(pixels, verbose=0), expected, 1e-6)
    loaded.fit(pixels, np.array([0, 1]), batch_size=2, verbose=0)
