"""Peak memory of a training step, with and without `recompute=True`.

A ViT of 256 tokens and 8 blocks, the last four with 16 experts and as many
slots as tokens. Each row is measured in a process of its own, after a step on
one image, so that what a model of any size takes is there before. The seconds
are those of a second step, without compiling.
"""

import sys

import keras
import numpy as np
from tqdm import tqdm

from tests.benchmarks import timing

IMAGES, SIDE, PATCH, BLOCKS, FEATURES, CLASSES = 16, 128, 8, 8, 192, 10
EXPERTS, SLOTS = 16, 16
NAMES = {"kept": False, "recomputed": True}


def rows():
    for name in tqdm(NAMES, desc=timing.BACKEND):
        yield {
            "op": "ViT, training step",
            "batch": IMAGES,
            "tokens": (SIDE // PATCH) ** 2,
            "blocks": BLOCKS,
            "features": FEATURES,
            "experts": EXPERTS,
            "slots": SLOTS,
            "of": name,
            **timing.in_fresh_process(__name__, name),
        }


def step_of(recompute):
    """A function of a number of images: one step of `fit` on them."""
    from keras_moe import models

    keras.utils.set_random_seed(0)
    backbone = models.MoEViTBackbone(
        image_shape=(SIDE, SIDE, 3),
        patch_size=PATCH,
        num_layers=BLOCKS,
        num_heads=3,
        hidden_dim=FEATURES,
        mlp_dim=4 * FEATURES,
        router="soft",
        router_options={"num_experts": EXPERTS, "slots_per_expert": SLOTS},
        recompute=recompute,
    )
    model = models.MoEViTImageClassifier(backbone, CLASSES)
    model = keras.Model(model.input, model.output)
    model.compile(
        "adamw", keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(IMAGES, SIDE, SIDE, 3)).astype("float32")
    labels = rng.integers(0, CLASSES, IMAGES)
    return lambda count: model.train_on_batch(pixels[:count], labels[:count])


def main(name):
    step = step_of(NAMES[name])
    step(1)
    before = timing.peak()
    step(IMAGES)
    start = timing.clock()
    step(IMAGES)
    seconds, extra = timing.clock() - start, timing.peak() - before
    print(f"{seconds:.3f} {extra // 2**20}")


if __name__ == "__main__":
    main(*sys.argv[1:])
