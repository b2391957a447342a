"""Towers: what a backbone must read and give to be one, and how it is pooled.

A tower is a backbone of KerasHub. What it gives is one of

- one vector of each example (batch, features): that is taken, `"pooled"`;
- tokens (batch, tokens, features), or an image of features (batch, height,
  width, features), whose places are the tokens: they are pooled;
- a dictionary with either or both, `pooled_output` and `sequence_output`.
"""

import keras
import keras_hub

from keras_moe import checks
from keras_moe.models.layers.pooling import AttentionPooling
from keras_moe.models.two_tower.pooling import SequencePooling
from keras_moe.models.two_tower.text import TextTransformerBackbone
from keras_moe.models.vision.backbone import MoEViTBackbone

IMAGE_POOLINGS = ("gap", "token", "map", "pooled")
TEXT_POOLINGS = ("last", "last_token", "mean", "token", "map", "pooled")


def check(name, tower) -> None:
    """Raise an error unless `tower` is a backbone of KerasHub."""
    if not isinstance(tower, keras_hub.models.Backbone):
        raise ValueError(
            f"{name} must be a keras_hub.models.Backbone; "
            f"{checks.received(tower)}."
        )


def read_image(tower):
    """A new input of images, and what the tower gives for it."""
    inputs = tower.input
    named = isinstance(inputs, dict)
    if named and set(inputs) != {"images"}:
        raise ValueError(
            "image_tower must read images alone, as a tensor or as a "
            f"dictionary with images; {type(tower).__name__} reads "
            f"{', '.join(sorted(inputs))}."
        )
    given = inputs["images"] if named else inputs
    if not isinstance(given, keras.KerasTensor) or len(given.shape) != 4:
        raise ValueError(
            "image_tower must read images (batch, height, width, channels); "
            f"{type(tower).__name__} reads {given}."
        )
    images = keras.Input(given.shape[1:], dtype=given.dtype, name="images")
    return images, tower({"images": images} if named else images)


def read_text(tower):
    """New inputs of a text, and what the tower gives for them."""
    inputs = tower.input
    reads = inputs if isinstance(inputs, dict) else {}
    fits = {"token_ids", "padding_mask", "segment_ids"}
    if "token_ids" not in reads or not set(reads) <= fits:
        raise ValueError(
            "text_tower must read a dictionary of token_ids and, if it wants, "
            "padding_mask and segment_ids (which are all 0); "
            f"{type(tower).__name__} reads "
            f"{', '.join(sorted(reads)) or inputs}."
        )
    texts = {
        name: keras.Input((None,), dtype="int32", name=name)
        for name in ("token_ids", "padding_mask")
    }
    more = {"segment_ids": keras.ops.zeros_like(texts["token_ids"])}
    given = {name: {**texts, **more}[name] for name in reads}
    return texts, tower(given)


def pooled(kind, tower, outputs, pooling, padding_mask=None, dtype=None):
    """One vector of each example, and the pooling that gives it.

    Args:
        kind: `"image"` or `"text"`.
        tower: that gave the outputs.
        outputs: symbolic.
        pooling: its name, or `None` for `"pooled"` where the tower gives one
            vector, and else `"gap"` of images, `"last"` of texts.
        padding_mask: of texts.
        dtype: policy of the layer that pools.

    Returns:
        (features (batch, width), name of the pooling).
    """
    vector, tokens = _parts(kind, tower, outputs)
    poolings = IMAGE_POOLINGS if kind == "image" else TEXT_POOLINGS
    if pooling is None:
        default = poolings[0]
        pooling = default if vector is None else "pooled"
    argument = f"{kind}_pooling"
    checks.choice(argument, pooling, poolings)
    if pooling == "pooled":
        if vector is None:
            raise ValueError(
                f"{argument} 'pooled' needs a tower that gives one vector of "
                f"each example; {type(tower).__name__} gives tokens."
            )
        return vector, pooling
    if tokens is None:
        raise ValueError(
            f"{argument} must be 'pooled' or None where the tower gives one "
            f"vector of each example, as {type(tower).__name__} does; "
            f"received {pooling!r}."
        )
    ours = isinstance(tower, (MoEViTBackbone, TextTransformerBackbone))
    if pooling == "map" and not ours:
        raise ValueError(
            f"{argument} 'map' needs a MoEViTBackbone or a "
            "TextTransformerBackbone, whose sizes it takes; received "
            f"{type(tower).__name__}."
        )
    if (
        pooling == "token"
        and isinstance(tower, MoEViTBackbone)
        and not tower.class_token
    ):
        raise ValueError(
            f"{argument} 'token' needs a tower with class_token=True; "
            "received one without."
        )
    common = {"dtype": dtype, "name": f"{kind}_pooling"}
    if pooling == "map":
        layer = AttentionPooling(
            tower.num_heads,
            tower.mlp_dim,
            qk_norm=tower.qk_norm,
            activation=tower.activation,
            epsilon=tower.layer_norm_epsilon,
            **common,
        )
    else:
        layer = SequencePooling(
            "mean" if pooling == "gap" else pooling, **common
        )
    if padding_mask is None:
        return layer(tokens), pooling
    return layer(tokens, padding_mask=padding_mask), pooling


def _parts(kind, tower, outputs):
    """(vector, tokens) of what a tower gives, `None` for what it lacks."""
    if isinstance(outputs, dict):
        vector = outputs.get("pooled_output")
        tokens = outputs.get("sequence_output")
        if vector is not None or tokens is not None:
            return vector, tokens
    elif isinstance(outputs, keras.KerasTensor):
        if len(outputs.shape) == 2:
            return outputs, None
        if len(outputs.shape) == 3:
            return None, outputs
        last = keras.config.image_data_format() == "channels_last"
        if len(outputs.shape) == 4 and kind == "image" and last:
            rows = (-1, outputs.shape[-1])
            flat = keras.layers.Reshape(rows, name="image_places")
            return None, flat(outputs)
    gives = keras.tree.map_structure(lambda one: one.shape, outputs)
    raise ValueError(
        f"{kind}_tower must give (batch, features), (batch, tokens, features) "
        "or a dictionary with pooled_output or sequence_output"
        + (", or (batch, height, width, features)" if kind == "image" else "")
        + f"; {type(tower).__name__} gives {gives}."
    )


def check_paths(image_tower, text_tower) -> None:
    """Raise an error if weights of both towers have one path.

    PyTorch lists weights by their paths, and lists of weights name them so.
    """
    paths = {weight.path for weight in image_tower.weights}
    both = sorted(paths & {weight.path for weight in text_tower.weights})
    if both:
        raise ValueError(
            "image_tower and text_tower must have weights of different "
            "paths, as backbones of KerasHub have that were given a name; "
            f"both have {both[0]!r}."
        )
