"""Embedding of images by `MoETwoTower` against the image tower's `predict`."""

import numpy as np

from keras_moe import models
from tests.benchmarks import timing

IMAGES, PIXELS, BATCH = 1000, 32, 250


def rows():
    model = make()
    images = np.random.default_rng(0).integers(
        0, 256, (IMAGES, PIXELS, PIXELS, 3), dtype="uint8"
    )
    ready = images.astype("float32") / 127.5 - 1
    encoder = model.backbone.image_encoder
    functions = {
        "image tower": lambda: encoder.predict(ready, BATCH, verbose=0),
        "encode_image": lambda: model.encode_image(images, BATCH),
    }
    np.testing.assert_allclose(
        *(function() for function in functions.values()), atol=1e-5
    )
    seconds = timing.paired(functions, (), turns=9)
    for columns in timing.against(seconds, "image tower"):
        yield {
            "op": f"embedding of {IMAGES} images",
            "pixels": PIXELS,
            "batch": BATCH,
            "dtype": "float32",
            **columns,
        }


def make():
    """Two towers of the sizes of `soft_moe_two_tower_tiny_emoji`."""
    tokenizer = models.CaptionTokenizer.from_captions(["a drawing"])
    images = models.MoEViTBackbone(
        image_shape=(PIXELS, PIXELS, 3),
        patch_size=8,
        num_layers=3,
        num_heads=4,
        hidden_dim=128,
        mlp_dim=224,
        router="soft",
        moe_layers=(1, 2),
        router_options={"num_experts": 16, "slots_per_expert": 1},
        stem_dims=(32, 64),
    )
    texts = models.TextTransformerBackbone(
        tokenizer.vocabulary_size(),
        num_layers=1,
        num_heads=4,
        hidden_dim=64,
        mlp_dim=256,
        max_sequence_length=16,
    )
    return models.MoETwoTower(
        models.MoETwoTowerBackbone(images, texts, projection_dim=128),
        models.MoETwoTowerPreprocessor(
            models.image_converter((PIXELS, PIXELS, 3)), tokenizer, 16
        ),
    )
