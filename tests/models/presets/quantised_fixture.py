"""Writes `quantised_on_torch.zip`, which every backend reads in its tests.

    KERAS_BACKEND=torch python -m tests.models.quantised_fixture

It holds a quantised classifier of each mode as a preset and as a `.keras` file,
images, and the outputs for them.
"""

import pathlib
import tempfile
import zipfile

import keras
import numpy as np

from keras_moe import models

FILE = pathlib.Path(__file__).with_name("quantised_on_torch.zip")
MODES = ("int8", "int4", "float8")


def make():
    backbone = models.MoEViTBackbone(
        image_shape=(4, 4, 1),
        patch_size=2,
        num_layers=1,
        num_heads=1,
        hidden_dim=4,
        mlp_dim=4,
        router="soft",
        moe_layers=[0],
        router_options={"num_experts": 2, "slots_per_expert": 1},
    )
    return models.MoEViTImageClassifier(backbone, 3)


def images():
    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, (2, 4, 4, 1)).astype("float32")


def write(path=FILE):
    keras.utils.set_random_seed(0)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for mode in MODES:
            model = make()
            model.quantize(mode)
            model.save_to_preset(folder / mode)
            model.save(folder / f"{mode}.keras")
            outputs = keras.ops.convert_to_numpy(model(images()))
            np.save(folder / f"{mode}.npy", outputs)
        files = sorted(f for f in folder.rglob("*") if f.is_file())
        with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
            for file in files:
                archive.write(file, file.relative_to(folder))


if __name__ == "__main__":
    write()
