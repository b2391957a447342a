"""The wheel holds the package, all of it and nothing else, and suffices."""

import pathlib
import subprocess
import sys
import zipfile

import pytest

import keras_moe

ROOT = pathlib.Path(__file__).parent.parent
PRESETS = (
    "moe_lm_tiny_domains",
    "mot_tiny_shakespeare",
    "soft_moe_two_tower_tiny_emoji",
    "soft_moe_vit_tiny_fashion_mnist",
)
MOST_BYTES = 15_000_000  # what is to be fetched by everyone stays small

pytestmark = pytest.mark.once

# Runs with the wheel's folder as its argument, without the repository.
SMOKE = """
import importlib.util, pathlib, runpy, sys

wheel = pathlib.Path(sys.argv[1])
others = [p for p in sys.path if not (pathlib.Path(p) / "keras_moe").exists()]
sys.path[:] = [str(wheel), *others]

import keras
import keras_moe

assert pathlib.Path(keras_moe.__file__).is_relative_to(wheel)
for elsewhere in ("conversion", "zoo"):  # these run from a clone
    assert importlib.util.find_spec(elsewhere) is None
layer = keras_moe.layers.SoftMoE(4, 2, intermediate_dim=8)
assert layer(keras.random.normal((2, 6, 3))).shape == (2, 6, 3)
assert "keras_hub" not in sys.modules

from keras_moe import models

vision = models.MoEViTImageClassifier.from_preset(
    "soft_moe_vit_tiny_fashion_mnist")
images = keras_moe.samples.fashion_mnist().images[:4]
print(vision.predict(images, verbose=0).argmax(-1).tolist())
language = models.MoTCausalLM.from_preset("mot_tiny_shakespeare")
print(language.generate("To be", max_length=8).startswith("To be"))
sys.argv = ["keras_moe", "presets"]
runpy.run_module("keras_moe", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built with what is installed here."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation"]
    done = subprocess.run(
        [*command, "--outdir", str(folder), str(ROOT)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.iterdir()
    return path


def test_what_is_in_it(wheel):
    version = keras_moe.__version__
    assert wheel.name == f"keras_moe-{version}-py3-none-any.whl"
    assert wheel.stat().st_size < MOST_BYTES
    names = zipfile.ZipFile(wheel).namelist()
    package = {name for name in names if name.startswith("keras_moe/")}
    of_metadata = f"keras_moe-{version}.dist-info/"
    others = {name.removeprefix(of_metadata) for name in set(names) - package}
    assert others == {"METADATA", "WHEEL", "RECORD", "licenses/LICENSE"}
    assert package == {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "keras_moe").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    for name in PRESETS:
        assert f"keras_moe/presets/{name}/model.weights.h5" in package
    for sample in ("emoji", "fashion_mnist"):
        assert f"keras_moe/samples/LICENSE.{sample}" in package
        assert f"keras_moe/samples/{sample}.npz" in package


def test_it_suffices(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "unpacked")
    done = subprocess.run(
        [sys.executable, "-I", "-c", SMOKE, str(tmp_path / "unpacked")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    guesses, begins, *table = done.stdout.splitlines()
    assert guesses == "[0, 0, 0, 0]"  # T-shirts
    assert begins == "True"
    for name in PRESETS:
        assert any(row.startswith(name) for row in table)
