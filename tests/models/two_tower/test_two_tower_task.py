"""`MoETwoTower`: its loss, the forms of pairs, embeddings, search, classes."""

import json
import shutil

import keras
import numpy as np
import pytest

from keras_moe import models
from keras_moe.models.presets import manifest as manifests
from keras_moe.models.two_tower import encoding
from tests.models.support import close
from tests.models.support import images_of
from tests.models.support import randomize
from tests.models.two_tower.support import CAPTIONS
from tests.models.two_tower.support import PIXELS
from tests.models.two_tower.support import make_backbone
from tests.models.two_tower.support import make_model
from tests.models.two_tower.support import make_text_tower
from tests.models.two_tower.support import pairs_of
from tests.models.two_tower.support import unit


@pytest.fixture(scope="module")
def model():
    # Ids of equal captions are equal, and their embeddings too.
    backbone = make_backbone(text_pooling="last_token", initial_logit_bias=-1)
    model = randomize(make_model(backbone))
    model.backbone.similarity.log_scale.assign(1.0)
    return model


def embeddings(model):
    found = model.predict((PIXELS, CAPTIONS), verbose=0)
    return found["image_embeddings"], found["text_embeddings"]


def logits_of(model):
    image, text = embeddings(model)
    bias = keras.ops.convert_to_numpy(model.backbone.similarity.bias)
    return np.e * image @ text.T + bias


def logsumexp(logits, axis):
    return np.log(np.exp(logits).sum(axis))


# === Training ===


@pytest.mark.parametrize(
    "loss, same_caption, chunk",
    [
        pytest.param("sigmoid", "positive", None, marks=pytest.mark.once),
        ("sigmoid", "ignore", 2),
        pytest.param("softmax", "negative", None, marks=pytest.mark.once),
    ],
)
def test_loss(model, loss, same_caption, chunk):
    """The first and the last caption are one."""
    task = models.MoETwoTower(
        model.backbone, model.preprocessor, loss, same_caption, chunk
    )
    found = task.evaluate(PIXELS, CAPTIONS, batch_size=4, verbose=0)
    logits = logits_of(model)
    positive = np.eye(4, dtype=bool)
    seen = np.ones((4, 4), bool)
    if same_caption != "negative":
        other = np.zeros((4, 4), bool)
        other[0, 3] = other[3, 0] = True
        if same_caption == "positive":
            positive |= other
        else:
            seen &= ~other
    if loss == "sigmoid":
        signed = np.where(positive, -logits, logits)
        wanted = (np.log1p(np.exp(signed)) * seen).sum() / 4
    else:
        both = logsumexp(logits, 0) + logsumexp(logits, 1)
        wanted = (0.5 * both - np.diag(logits)).mean()
    close(found, wanted, 1e-5)


@pytest.mark.once
def test_one_pair(model):
    found = model.evaluate(PIXELS[:1], CAPTIONS[:1], verbose=0)
    close(found, np.log1p(np.exp(-logits_of(model)[0, 0])), 1e-5)
    task = make_model(model.backbone, loss="softmax")
    close(task.evaluate(PIXELS[:1], CAPTIONS[:1], verbose=0), 0, 1e-6)


@pytest.mark.once
def test_words_that_are_not_known_are_one(model):
    losses = [
        model.evaluate(PIXELS[:2], captions, verbose=0)
        for captions in (["zebra", "yak"], ["yak", "yak"], ["yak", "dog"])
    ]
    assert losses[0] == losses[1] != losses[2]


def test_forms_of_pairs(model):
    import tensorflow as tf

    pair = (PIXELS, CAPTIONS)
    named = {"images": PIXELS, "captions": CAPTIONS}
    data = tf.data.Dataset.from_tensor_slices(pair).batch(4)
    ready = keras.tree.map_structure(
        keras.ops.convert_to_numpy, model.preprocessor(pair)
    )
    bare = make_model(model.backbone, preprocessor=False)
    losses = [
        model.evaluate(pair, batch_size=4, verbose=0),
        model.evaluate(named, verbose=0),
        model.evaluate(data.map(lambda *p: dict(zip(named, p))), verbose=0),
        bare.test_on_batch(ready),
        model.test_on_batch(*pair),
        bare.evaluate(data.map(model.preprocessor), verbose=0),
    ]
    close(losses, np.full(len(losses), losses[0]), 1e-5)


@pytest.mark.once
def test_validation_data_in_all_forms(model):
    import grain
    import tensorflow as tf

    rows = list(zip(PIXELS, CAPTIONS))
    given = [
        (PIXELS, CAPTIONS),
        {"images": PIXELS, "captions": CAPTIONS},
        tf.data.Dataset.from_tensor_slices((PIXELS, CAPTIONS)).batch(4),
        grain.MapDataset.source(rows).batch(4),
    ]
    task = make_model(model.backbone)
    task.compile(keras.optimizers.SGD(0.0))
    wanted = task.evaluate(PIXELS, CAPTIONS, batch_size=4, verbose=0)
    for data in given:
        history = task.fit(
            *given[0], batch_size=4, validation_data=data, verbose=0
        ).history
        close(history["val_loss"], [wanted], 1e-6)


def test_training():
    """Every weight of both towers learns, the two scalars too."""
    keras.utils.set_random_seed(0)
    text_tower = make_text_tower("token_choice")
    backbone = make_backbone(text_tower=text_tower)
    model = make_model(backbone)
    before = values_of(model)
    model.compile(keras.optimizers.Adam(1e-2))
    history = model.fit(
        PIXELS,
        CAPTIONS,
        batch_size=4,
        epochs=6,
        verbose=0,
    ).history
    assert history["loss"][-1] < history["loss"][0]
    assert set(history) == {"loss"}
    after = values_of(model)
    same = [p for p in after if np.array_equal(before[p], after[p])]
    assert not [path for path in same if "moe" not in path]


def values_of(model):
    return {
        w.path: keras.ops.convert_to_numpy(w) for w in model.trainable_weights
    }


def test_the_scale_of_logits_stays_below_its_bound():
    """The loss of pairs that fit falls with the scale, which would grow."""
    backbone = make_backbone(initial_logit_scale=2.0, max_logit_scale=2.5)
    similarity = backbone.similarity
    again = type(backbone).from_config(backbone.get_config())
    assert again.max_logit_scale == again.similarity.max_logit_scale == 2.5
    scale = similarity.log_scale
    optimizer = keras.optimizers.SGD(1.0)
    optimizer.build([scale])
    for gradient, wanted in (
        (-1.0, 2.5),
        (-1.0, 2.5),
        (0.5, 2.5 * np.exp(-0.5)),
    ):
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [scale])
        found = keras.ops.convert_to_numpy(similarity.logit_scale)
        close(found, wanted, 1e-6)


# === Embeddings, search, classes ===


def test_encoders_read_one_tower(model):
    image, text = embeddings(model)
    close(model.encode_image(PIXELS, batch_size=3), image, 1e-5)
    close(model.encode_text(CAPTIONS), text, 1e-5)
    close(model.encode_text(CAPTIONS[1]), text[1:2], 1e-5)
    for texts in (np.array(CAPTIONS[1]), np.array([b"two dog"])):
        close(model.encode_text(texts), text[1:2], 1e-5)
    encoder = model.backbone.image_encoder
    tower = model.backbone.image_tower
    own = ("similarity/log_scale", "similarity/bias")
    assert {w.path for w in encoder.weights} == {
        *(w.path for w in tower.weights),
        *own,
    }
    bare = make_model(model.backbone, preprocessor=False)
    ready = keras.tree.map_structure(
        keras.ops.convert_to_numpy, model.preprocessor((PIXELS, CAPTIONS))
    )
    close(bare.encode_image(ready.pop("images")), image, 1e-5)
    close(bare.encode_text(ready), text, 1e-5)


def test_search(model):
    image, text = embeddings(model)
    scores = text @ image.T
    indices, found = model.search(PIXELS, CAPTIONS[:2], k=3)
    wanted = np.argsort(-scores, axis=1)[:2, :3]
    assert indices.tolist() == wanted.tolist()
    close(found, np.take_along_axis(scores[:2], wanted, 1), 1e-5)
    one, _ = model.search(model.encode_image(PIXELS), CAPTIONS[1], k=3)
    assert one.tolist() == wanted[1].tolist()


@pytest.mark.once
def test_of_equal_scores_the_first_comes_first():
    indices, found = encoding.largest(np.array([0.5, 1.0, 0.5, 0.5]), 3)
    assert indices.tolist() == [1, 0, 2] and found.tolist() == [1.0, 0.5, 0.5]
    scores = np.random.default_rng(0).integers(0, 9, (5, 40)).astype("f4")
    scores[2, ::7] = np.nan
    order = np.argsort(-scores, axis=1, kind="stable")
    for k in (1, 6, 40):
        indices, found = encoding.largest(scores, k)
        assert indices.tolist() == order[:, :k].tolist()
        wanted = np.take_along_axis(scores, order[:, :k], 1)
        np.testing.assert_array_equal(found, wanted)


def test_zero_shot_classifier(model, tmp_path):
    classes, templates = ["red cat", "dog"], ["a {}", "two {}"]
    classifier = model.zero_shot_classifier(classes, templates)
    texts = model.encode_text([t.format(c) for c in classes for t in templates])
    heads = unit(texts.reshape(2, 2, -1).mean(1))
    image, _ = embeddings(model)
    bias = keras.ops.convert_to_numpy(model.backbone.similarity.bias)
    logits = np.e * image @ heads.T + bias
    close(classifier.predict(PIXELS, verbose=0), logits, 1e-5)
    best = [classes[index] for index in logits.argmax(1)]
    assert [name for ((name, _),) in classifier.classify(PIXELS)] == best
    classifier.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    close(loaded.predict(PIXELS, verbose=0), logits, 1e-5)
    assert loaded.class_names == ("red cat", "dog")
    assert not any("text" in w.path for w in loaded.weights)
    chances = model.zero_shot_classifier(classes, activation="softmax")
    close(chances.predict(PIXELS, verbose=0).sum(1), np.ones(4), 1e-6)


# === Files ===


def test_keras_file(model, tmp_path):
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_config() == model.get_config()
    for name, array in zip(("image", "text"), embeddings(model)):
        found = loaded.predict((PIXELS, CAPTIONS), verbose=0)
        close(found[f"{name}_embeddings"], array, 1e-6)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("presets") / "tiny"
    task = models.MoETwoTower(
        model.backbone, model.preprocessor, "softmax", "ignore", 3
    )
    task.save_to_preset(folder)
    return folder


def test_preset(model, folder):
    loaded = models.MoETwoTower.from_preset(folder)
    config = loaded.get_config()
    assert config == {
        **model.get_config(),
        "name": config["name"],
        "loss": "softmax",
        "same_caption": "ignore",
        "loss_chunk_size": 3,
    }
    for found, wanted in zip(embeddings(loaded), embeddings(model)):
        close(found, wanted, 1e-6)
    half = models.MoETwoTower.from_preset(folder, dtype="mixed_bfloat16")
    for tower in (half.backbone.image_tower, half.backbone.text_tower):
        assert tower.compute_dtype == tower.blocks[1].compute_dtype
        assert tower.compute_dtype == "bfloat16"


@pytest.mark.once
def test_preset_in_half_precision_is_read_as_keras_computes(folder, tmp_path):
    half = models.MoETwoTower.from_preset(folder, dtype="float16")
    half.save_to_preset(tmp_path)
    for kind in (models.MoETwoTower, models.MoETwoTowerBackbone):
        loaded = kind.from_preset(tmp_path)
        backbone = getattr(loaded, "backbone", loaded)
        for tower in (backbone, backbone.image_tower, backbone.text_tower):
            assert tower.compute_dtype == "float32"
            assert {weight.dtype for weight in tower.weights} == {"float32"}
    loaded = models.MoETwoTower.from_preset(tmp_path)
    close(loaded.encode_text("a cat"), half.encode_text("a cat"), 1e-2)


@pytest.mark.once
def test_parts_of_a_preset(model, folder):
    ids = model.preprocessor(CAPTIONS)["token_ids"].tolist()
    reader = models.MoETwoTowerPreprocessor.from_preset(folder)
    assert reader(CAPTIONS)["token_ids"].tolist() == ids
    tokenizer = models.CaptionTokenizer.from_preset(folder)
    assert tokenizer(CAPTIONS)[1] == ids[1][:3][:2]
    backbone = models.MoETwoTowerBackbone.from_preset(folder)
    assert backbone.get_config() == {
        **model.backbone.get_config(),
        "name": backbone.name,
    }
    random = models.MoETwoTower.from_preset(folder, load_weights=False)
    close(random.backbone.similarity.bias.numpy(), -1)
    with pytest.raises(ValueError, match="image_shape"):
        models.MoETwoTower.from_preset(folder, image_shape=(8, 8, 3))


@pytest.mark.once
def test_a_preset_that_describes_too_much(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    path = copy / "config.json"
    config = json.loads(path.read_text())
    config["config"]["text_tower"]["config"]["vocabulary_size"] = 10**9
    path.write_text(json.dumps(config))
    manifests.write_manifest(copy)
    with pytest.raises(ValueError, match="describes a model of 8,"):
        models.MoETwoTowerBackbone.from_preset(copy)


@pytest.mark.parametrize("size", [2, 4, 9])
def test_batches_of_any_size_are_one_shape(size, model):
    """Of nine images, each is embedded as it is alone."""
    pixels = np.concatenate([PIXELS, PIXELS, PIXELS[:1]])
    found = model.encode_image(pixels, batch_size=size)
    close(found, model.encode_image(PIXELS)[np.arange(9) % 4], 1e-5)


@pytest.mark.once
def test_tensors_are_embedded(model):
    """Tensors of Keras' backend, and of TensorFlow behind another one."""
    import tensorflow as tf

    image, text = embeddings(model)
    for tensor_of in (keras.ops.convert_to_tensor, tf.constant):
        close(model.encode_image(tensor_of(PIXELS), batch_size=3), image, 1e-5)
    texts = tf.constant(CAPTIONS)
    close(model.encode_text(texts, batch_size=3), text, 1e-5)
    close(model.encode_text(texts[1]), text[1:2], 1e-5)
    one, _ = model.search(tf.constant(image), texts[1], k=2)
    assert one.tolist() == np.argsort(-text[1] @ image.T)[:2].tolist()


@pytest.mark.once
def test_more_images_than_texts(model):
    """Their numbers may differ, for the backbone alone."""
    found = model.backbone(pairs_of(images_of(3), [3, 4]))
    shapes = {name: tuple(array.shape) for name, array in found.items()}
    assert shapes == {"image_embeddings": (3, 8), "text_embeddings": (1, 8)}
