"""The small two-tower models that the tests here are made of."""

import numpy as np

from keras_moe import models
from tests import support
from tests.models.support import make_backbone as make_image_tower
from tests.models.support import pixels_of

WORDS = ["[PAD]", "[UNK]", "[END]", "a", "red", "cat", "dog", "two"]
CAPTIONS = ["a red cat", "two dog", "a bird", "a red cat"]
LENGTH = 6
TEXT = {
    "vocabulary_size": len(WORDS),
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 8,
    "mlp_dim": 12,
    "max_sequence_length": LENGTH,
}
ROUTERS = {
    "dense": {},
    "soft": {
        "router": "soft",
        "router_options": {"num_experts": 2, "slots_per_expert": 2},
    },
    "expert_choice": {
        "router": "expert_choice",
        "router_options": {"num_experts": 2, "capacity_factor": 1.0},
    },
    "token_choice": {
        "router": "token_choice",
        "router_options": {"num_experts": 3, "top_k": 2, "balance_loss": 0.01},
    },
    "mixture_of_tokens": {
        "router": "mixture_of_tokens",
        "router_options": {"num_experts": 2, "group_size": 2},
    },
}


def make_text_tower(router="dense", **arguments):
    return models.TextTransformerBackbone(
        **{**TEXT, **ROUTERS[router], **arguments}
    )


def make_backbone(image_tower=None, text_tower=None, **arguments):
    return models.MoETwoTowerBackbone(
        image_tower or make_image_tower(),
        text_tower or make_text_tower(),
        **arguments,
    )


def make_tokenizer():
    return models.CaptionTokenizer(WORDS)


def make_preprocessor(length=LENGTH):
    converter = models.image_converter((12, 16, 3))
    return models.MoETwoTowerPreprocessor(converter, make_tokenizer(), length)


def make_model(backbone=None, preprocessor=True, **arguments):
    return models.MoETwoTower(
        backbone or make_backbone(),
        make_preprocessor() if preprocessor else None,
        **arguments,
    )


def texts_of(*rows, length=LENGTH):
    """`token_ids` and `padding_mask` of lists of ids, padded by 0."""
    ids = np.zeros((len(rows), length), "int32")
    mask = np.zeros((len(rows), length), "int32")
    for row, given in enumerate(rows):
        ids[row, : len(given)] = given
        mask[row, : len(given)] = 1
    return {"token_ids": ids, "padding_mask": mask}


def pairs_of(images, *rows):
    return {"images": images, **texts_of(*rows)}


def run(model, inputs):
    """The output, as NumPy arrays; compiled where that is faster."""
    names = sorted(inputs)

    def call(*arrays):
        return model(dict(zip(names, arrays)), training=False)

    return support.run(call, *(inputs[name] for name in names))


def unit(array):
    return array / np.linalg.norm(array, axis=-1, keepdims=True)


PIXELS = pixels_of(4)
