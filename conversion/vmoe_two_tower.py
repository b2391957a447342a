"""vmoe's models of two towers: what a checkpoint says, and ours of it."""

import dataclasses

import keras
import numpy as np

from conversion import verify
from conversion import vmoe
from conversion import vmoe_model
from conversion.errors import ConversionError
from conversion.vmoe_router import rank_of
from keras_moe import files
from keras_moe.models import MoETwoTower
from keras_moe.models import MoETwoTowerBackbone
from keras_moe.models import MoEViTBackbone
from keras_moe.models import TextTransformerBackbone

POSITIONS = "Encoder/posembed_input/pos_embedding"


@dataclasses.dataclass
class Plan:
    """Arguments of both towers and of the model, and where each comes from.

    Attributes:
        backbone: of the image tower.
        text: of the text tower.
        both: of the `MoETwoTowerBackbone`.
        notes: lines of text.
    """

    backbone: dict
    text: dict
    both: dict
    notes: list


def is_one(shapes):
    """Whether a checkpoint has towers."""
    return any(path.startswith(("img/", "txt/")) for path in shapes)


def deduce(shapes, options):
    """Arguments of the model, from shapes and options.

    Args:
        shapes: {path inside the model: shape}.
        options: a `VmoeOptions`; all but `text_pooling` are of the images.

    Raises:
        ConversionError: as `vmoe.deduce`.
    """
    options.check()
    towers = {"img": {}, "txt": {}}
    for path, shape in shapes.items():
        tower, _, rest = path.partition("/")
        if tower in towers:
            towers[tower][rest] = shape
    for tower, arrays in towers.items():
        if not arrays:
            raise ConversionError(
                f"the checkpoint has no {tower}/…, one of the towers img and "
                "txt of a model of images and texts."
            )
    images, texts = towers.values()
    for needed in ("s", "b"):
        rank_of(shapes, needed, 0)
    with files.about("img/", ConversionError):
        backbone, notes = _image(images, options)
    with files.about("txt/", ConversionError):
        text = _text(texts, notes)
    heads = {
        kind: rank_of(shapes, f"{tower}/head/kernel", 2)[-1]
        for kind, tower in (("image", "img"), ("text", "txt"))
        if "head/kernel" in towers[tower]
    }
    widths = {
        "image": heads.get("image", backbone["hidden_dim"]),
        "text": heads.get("text", text["hidden_dim"]),
    }
    if len(set(widths.values())) > 1:
        raise ConversionError(
            "embeddings of images and of texts must have the same width; the "
            f"checkpoint has {widths['image']} and {widths['text']}."
        )
    both = {
        "projection_dim": widths["image"],
        "projection": "both" if len(heads) == 2 else next(iter(heads), "none"),
        "image_pooling": vmoe.pooling(images, options),
        "text_pooling": _text_pooling(texts, options, notes),
    }
    notes.append("tokenizer: the checkpoint has none, nor has the preset")
    return Plan(backbone, text, both, notes)


def _image(shapes, options):
    """Arguments of the image tower, and notes."""
    vmoe.need_image_model(shapes)
    if "pre_logits/kernel" in shapes:
        raise ConversionError(
            "pre_logits/kernel must not be there: image towers with a "
            "representation are not converted."
        )
    return vmoe.image_model(shapes, options)


def _text(shapes, notes):
    """Arguments of the text tower."""
    vocabulary, features = rank_of(shapes, "Embed_0/embedding", 2)
    blocks = vmoe.blocks_of(shapes)
    if POSITIONS not in shapes:
        raise ConversionError(
            f"the checkpoint has no {POSITIONS}; only text towers with "
            "learned positions are converted."
        )
    experts = sorted(path for path in shapes if "/Moe/" in path)
    if experts:
        raise ConversionError(
            f"{experts[0]} must not be there: text towers with experts "
            "are not converted."
        )
    first = "Encoder/encoderblock_0/SelfAttention/"
    text = {
        "vocabulary_size": vocabulary,
        "num_layers": len(blocks),
        "num_heads": rank_of(shapes, first + "query/kernel", 3)[1],
        "hidden_dim": features,
        "mlp_dim": vmoe.width_of(shapes)[0],
        "max_sequence_length": rank_of(shapes, POSITIONS, 3)[1],
        "qk_norm": first + "query_ln/scale" in shapes,
        "mask_padding": False,
    }
    notes.append(
        f"text tower: {len(blocks)} blocks, {vocabulary} token ids, "
        f"{text['max_sequence_length']} positions; padding is read, as in vmoe"
    )
    return text


def _text_pooling(shapes, options, notes):
    given, has_map = options.text_pooling, "MapHead/probe" in shapes
    if given is not None and (given == "map") != has_map:
        raise ConversionError(
            f"--text-pooling {given} does not agree with the checkpoint, "
            f"which has {'a' if has_map else 'no'} txt/MapHead."
        )
    if given is None and not has_map:
        notes.append("text pooling: last, vmoe's default (--text-pooling)")
    return given or ("map" if has_map else "last")


def build(plan, small=False):
    """The model of a plan, or its small twin."""
    images, texts, both = (
        dict(part) for part in (plan.backbone, plan.text, plan.both)
    )
    if small:
        images, texts = vmoe_model.smaller(images), vmoe_model.smaller(texts)
        width = 8 * images["num_heads"] * texts["num_heads"]
        for one in (images, texts):
            one["hidden_dim"] = width
        texts["vocabulary_size"] = 2
        both["projection_dim"] = width
    return MoETwoTower(
        MoETwoTowerBackbone(
            MoEViTBackbone(
                data_format="channels_last", dtype="float32", **images
            ),
            TextTransformerBackbone(dtype="float32", **texts),
            dtype="float32",
            **both,
        ),
        compile=small,  # so that the files have an optimiser, as usual
    )


def edits(plan):
    """Edits that turn the twin's files into those of the model."""

    def of_backbone(config):
        vmoe_model.enlarge(config["image_tower"]["config"], plan.backbone)
        text = config["text_tower"]["config"]
        vmoe_model.enlarge(text, plan.text)
        text["vocabulary_size"] = plan.text["vocabulary_size"]
        config["projection_dim"] = plan.both["projection_dim"]

    def of_task(config):
        of_backbone(config["backbone"]["config"])

    return {"config.json": of_backbone, "task.json": of_task}


def compare(folder, expected, tolerance, used):
    """Hold a written preset against a file of expected arrays.

    As `vmoe_model.compare`; logits are those of `images` with `texts`.
    """
    with verify.arrays(expected) as arrays:
        model = MoETwoTower.from_preset(str(folder))
        names = arrays.names
        if {"images", "texts"} <= names and names & set(vmoe_model.LOGITS):
            backbone = model.backbone
            images = vmoe_model.images_of(arrays, backbone.image_tower)
            ids = arrays.read("texts", "iu", 2)
            size = backbone.text_tower.vocabulary_size
            if ids.min() < 0 or ids.max() >= size:
                raise ConversionError(
                    f"--verify {expected}: texts must lie from 0 to "
                    f"{size - 1}; they lie from {ids.min()} to {ids.max()}."
                )
            outputs = backbone(
                {
                    "images": images,
                    "token_ids": keras.ops.convert_to_tensor(ids, "int32"),
                    "padding_mask": keras.ops.convert_to_tensor(
                        np.ones_like(ids), "int32"
                    ),
                },
                training=False,
            )
            logits = backbone.logits(
                outputs["image_embeddings"], outputs["text_embeddings"]
            )
            name = vmoe_model.expected_logits(names)
            return verify.compare_logits(logits, arrays, name, tolerance)
        return vmoe_model.compare_arrays(model, arrays, used)
