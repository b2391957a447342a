"""The presets that ship: small, whole, as good as recorded, exportable."""

import re

import keras
import numpy as np
import pytest

from keras_moe import __main__ as command
from keras_moe import samples
from keras_moe.models import MoETwoTower
from keras_moe.models import MoEViTImageClassifier
from keras_moe.models import MoTCausalLM
from keras_moe.models import list_presets
from keras_moe.models.presets import catalogue
from keras_moe.models.presets import manifest
from tests.support import BACKEND
from tests.test_guides import load
from zoo import recipe as recipes
from zoo.measure import results
from zoo.publish import card as cards
from zoo.publish import pack
from zoo.publish import picture

VISION, TEXT = "soft_moe_vit_tiny_fashion_mnist", "mot_tiny_shakespeare"
PAIRS = "soft_moe_two_tower_tiny_emoji"
DOMAINS = "moe_lm_tiny_domains"
EMBEDDED = {VISION, TEXT, PAIRS, DOMAINS}


@pytest.fixture(scope="module")
def classifier():
    return MoEViTImageClassifier.from_preset(VISION)


@pytest.fixture(scope="module")
def language_model():
    return MoTCausalLM.from_preset(TEXT)


def test_together_they_are_small():
    assert set(catalogue.embedded()) >= EMBEDDED
    assert set(list_presets()) >= set(catalogue.embedded())
    assert pack.compressed(catalogue.FOLDER) < pack.LIMIT


@pytest.mark.parametrize("name", sorted(EMBEDDED))
def test_they_are_what_was_measured(name):
    manifest.check_manifest(catalogue.FOLDER / name)
    recorded = results.load(name)["preset"]
    assert pack.size_of(catalogue.FOLDER / name) == recorded["bytes"]


def test_classifier_is_as_good_as_recorded(classifier):
    assert classifier.compute_dtype == "float32"
    images, labels, _ = samples.fashion_mnist()
    logits = classifier.predict(images, batch_size=100, verbose=0)
    accuracy = (logits.argmax(-1) == labels).mean()
    recorded = results.load(VISION)["preset"]["accuracy"]
    # 300 images: three standard deviations of such a share are 5 points.
    assert accuracy == pytest.approx(recorded, abs=0.05)


@pytest.mark.parametrize("phrase", ["", "a ", "a picture of a "])
def test_two_towers_find_drawings_of_a_style_they_never_saw(phrase):
    model = MoETwoTower.from_preset(PAIRS)
    assert model.compute_dtype == "float32"
    images, labels, names = samples.emoji()
    found, _ = model.search(images, [phrase + name for name in names], k=5)
    first, among_five = (found[:, :k] == labels[:, None] for k in (1, 5))
    # Among 412 drawings rather than all those of the record.
    assert first.any(1).mean() > 0.5
    assert among_five.any(1).mean() > 0.75


def test_demo(classifier, tmp_path, capsys):
    demo = load("demo")
    picture = tmp_path / "slots.png"
    found = tmp_path / "found.png"
    accuracy = demo.main(
        ["--picture", str(picture), "--search-picture", str(found)]
    )
    said = capsys.readouterr().out
    assert f"accuracy {accuracy:.1%} on 300" in said
    assert re.search(r"a red fruit +.*red apple", said)
    assert min(p.stat().st_size for p in (picture, found)) > 10_000


# ONNX from TensorFlow cannot hold the exact "gelu", which this preset has.
EXPORTS = {
    "jax": ("tf_saved_model", "onnx"),
    "tensorflow": ("tf_saved_model",),
    "torch": ("onnx",),
}


@pytest.mark.parametrize("export", EXPORTS[BACKEND])
def test_exported_classifier_says_the_same(classifier, export, tmp_path):
    images, _, _ = samples.fashion_mnist()
    ready = keras.ops.convert_to_numpy(classifier.preprocessor(images))
    wanted = classifier.predict(images, batch_size=100, verbose=0)
    # PyTorch's exporter fixes the size of the batch.
    batch = len(images) if BACKEND == "torch" else None
    signature = [keras.InputSpec(dtype="float32", shape=(batch, 28, 28, 1))]
    if export == "onnx":
        import onnxruntime

        path = str(tmp_path / "classifier.onnx")
        classifier.export(
            path, "onnx", verbose=False, input_signature=signature
        )
        session = onnxruntime.InferenceSession(path)
        (name,) = (given.name for given in session.get_inputs())
        (found,) = session.run(None, {name: ready})
    else:
        import tensorflow as tf

        path = str(tmp_path / "classifier")
        classifier.export(
            path, export, verbose=False, input_signature=signature
        )
        loaded = tf.saved_model.load(path)  # its function does not hold it
        found = loaded.serve(ready).numpy()
    np.testing.assert_array_equal(found.argmax(-1), wanted.argmax(-1))


# Made up for this test, in the languages of the domains.
SENTENCES = (
    "The function returns a list of the names in the module.",
    "Le fichier est ouvert en lecture et ses droits sont lus.",
    "El fichero se abre para lectura y se leen sus permisos.",
    "Die Datei wird zum Lesen geöffnet, falls sie vorhanden ist.",
    "このコマンドはファイルを表示する。",
)


def test_model_of_domains_knows_their_languages():
    model = MoTCausalLM.from_preset(DOMAINS)
    assert model.compute_dtype == "float32"
    bits = []
    for sentence in SENTENCES:
        ids = np.array([[*sentence.encode()]], "int32")
        inputs = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
        logits = model(inputs, training=False)[:, :-1]
        loss = keras.ops.sparse_categorical_crossentropy(
            ids[:, 1:], logits, from_logits=True
        )
        bits.append(keras.ops.convert_to_numpy(loss).mean() / np.log(2))
    recorded = results.load(DOMAINS)["preset"]["bits_per_byte"]
    # Sentences are short and begin without context; 8 bits tell nothing.
    assert max(bits) < 2 * recorded
    assert np.mean(bits) == pytest.approx(recorded, abs=0.6)


@pytest.mark.once
def test_card_of_the_model_of_domains():
    recipe = recipes.load(DOMAINS)
    text = cards.of(recipe)
    assert "GNU GPL" in text and "of 16 experts" in text
    # Of Mixture of Tokens alone.
    assert "inference_mixing" not in text and "batch-mates" not in text
    assert picture.draw(recipe, DOMAINS).startswith(b"\x89PNG")


@pytest.mark.once
def test_card_of_two_towers_searches_as_it_says():
    text = cards.of(recipes.load(PAIRS))
    assert 'model.search(images, "a red fruit", k=5)' in text
    assert 'A phrase such as "a picture of a" may stand before a name.' in text


@pytest.mark.once
def test_generate_command(capsys):
    command.main(["presets"])
    listed = capsys.readouterr().out
    assert re.search(rf"{TEXT} +MoTCausalLM +[\d,]+ +in the package", listed)
    assert "to be made of gs://vmoe_checkpoints/vmoe_b16" in listed
    wanted = ["generate", "To be, or ", "--max-length", "24"]
    command.main(wanted)
    first = capsys.readouterr().out
    assert first.startswith("To be, or ") and len(first) > 14
    command.main([*wanted, "--sampler", "greedy"])
    assert capsys.readouterr().out.startswith("To be, or ")
    with pytest.raises(SystemExit, match="2"):
        command.main([*wanted, "--temperature", "0"])
    assert "argument --temperature: must be" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="preset must be one of"):
        command.main([*wanted, "--preset", "no_such_preset"])


def test_modes_agree_without_batch_mates(language_model):
    """What `inference_mixing` the preset has, rows do not disturb rows."""
    assert language_model.inference_mixing != "group"
    language_model.compile(sampler="greedy")
    one = language_model.generate("The king", max_length=24)
    rows = language_model.generate(
        ["The king", "What, has this thing"], max_length=24
    )
    assert rows[0] == one
