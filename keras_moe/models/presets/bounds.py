"""Bounds on the model that a preset's configuration may describe.

A configuration is a small text that can ask for any number of blocks of any
width. The weight files beside it say what the model has; a configuration of
more is refused before a layer is made.
"""

import fractions
import json
import math
import pathlib

from keras_moe import files
from keras_moe.models.checkpoints import weight_files
from keras_moe.models.presets.manifest import SHARDS

# Arrays that every block has: four of attention, two norms.
ARRAYS = 6
# Numbers that fixed positions, which no file holds, may have in any case.
TABLE = 2**28
# Numbers that a model may have and its files lack: few enough to be made, so
# that whoever reads the files can say which arrays are missing.
SPARE = 2**20
# Arguments that say nothing of the shapes of weights.
FREE = ("activation", "dropout", "dtype", "name", "trainable")
BACKBONES = ("MoEViTBackbone", "MoTBackbone", "TextTransformerBackbone")
TOWERS = ("image_tower", "text_tower")  # of MoETwoTowerBackbone
WEIGHTS = ("model.weights.h5", SHARDS)
HEAD = "task.weights.h5"


def check_bounds(folder, new_head: bool = False) -> None:
    """Raise an error if a preset describes more than its files hold.

    Args:
        folder: of the preset. One without weights is not looked into.
        new_head: whether the task's head will be another one.
    """
    folder = pathlib.Path(folder)
    there = [folder / name for name in WEIGHTS if (folder / name).is_file()]
    if not there:
        return
    found = weight_files.weights(there[0])
    held = _numbers(found)
    for name in ("config.json", "task.json"):
        config = _object(folder / name)
        backbone, task = config, _arguments(config)
        if name == "task.json":
            backbone = task.get("backbone")
        if not isinstance(backbone, dict):
            continue
        towers = [_arguments(backbone).get(tower) for tower in TOWERS]
        for one in (backbone, *towers):
            if isinstance(one, dict) and one.get("class_name") in BACKBONES:
                _check(folder / name, _arguments(one), len(found), held)
        head = folder / HEAD
        if name == "task.json" and head.is_file() and not new_head:
            expected = _of_head(task, _arguments(backbone))
            _compare(
                folder / name, expected, _numbers(weight_files.weights(head))
            )


def differences(model, path) -> str:
    """In which arguments a backbone is not the one that a file is of.

    Args:
        model: the backbone.
        path: of weights, beside a preset's `config.json`.

    Returns:
        Such as `"hidden_dim=32 (the preset has 8)"`; empty where there is no
        such configuration, and where it is the same.
    """
    config = _object(pathlib.Path(path).parent / "config.json")
    if config.get("class_name") != type(model).__name__:
        return ""
    saved = _arguments(config)
    own = json.loads(json.dumps(model.get_config(), default=str))
    return ", ".join(
        f"{name}={own[name]!r} (the preset has {saved[name]!r})"
        for name in sorted(own)
        if name in saved and name not in FREE and own[name] != saved[name]
    )


def _check(path, config, arrays, held):
    layers = _integer(config, "num_layers")
    if layers * ARRAYS > arrays:
        raise files.UnreadableFile(
            f"num_layers of {path} must be at most {arrays // ARRAYS}, as its "
            f"weight files hold {arrays} arrays; it is {layers}."
        )
    _compare(path, _of_backbone(config), held)
    if config.get("positions") == "sincos2d":
        table = _tokens(config) * _integer(config, "hidden_dim")
        _compare(path, table, max(held, TABLE), "fixed positions")


def _compare(path, expected, held, what="a model"):
    if expected > held + SPARE:
        raise files.UnreadableFile(
            f"{path} describes {what} of {expected:,} numbers or more; the "
            f"weight files beside it allow {held:,}."
        )


def _of_backbone(config):
    """Numbers that a backbone has at least."""
    layers = _integer(config, "num_layers")
    features = _integer(config, "hidden_dim")
    hidden = _integer(config, "mlp_dim")
    heads = _integer(config, "num_heads")
    wide = heads * _integer(config, "head_dim") or features
    options = config.get("router_options")
    options = options if isinstance(options, dict) else {}
    text = "vocabulary_size" in config
    moe = config.get("moe_layers")
    if config.get("router") is None:
        count = 0
    elif isinstance(moe, list):
        count = len(moe)
    else:
        count = layers if text else layers // 2
    experts = _integer(options, "num_experts")
    if options.get("expert") is None:
        inner = _integer(options, "intermediate_dim") or hidden
    else:
        inner = 0  # what others' layers have is not known
    slots = _integer(options, "slots_per_expert")
    slots = slots or _slots(config, options, experts)
    total = layers * 4 * features * wide
    total += count * experts * features * (2 * inner + slots)
    total += max(0, layers - count) * 2 * features * hidden
    if text:
        tables = 1 if config.get("tie_embeddings", True) else 2
        total += tables * features * _integer(config, "vocabulary_size")
        tokens = _integer(config, "max_sequence_length")
    else:
        total += features * math.prod(_patch(config)) * _channels(config)
        tokens = _tokens(config)
    if config.get("positions", "learned") == "learned":
        total += features * tokens
    return total


def _slots(config, options, experts):
    """Slots of each expert by Soft MoE's `capacity_factor`, at least 1."""
    factor = options.get("capacity_factor")
    finite = isinstance(factor, int) or (
        isinstance(factor, float) and math.isfinite(factor)
    )
    if config.get("router") != "soft" or not finite:
        return 1
    tokens = _integer(options, "group_size") or _tokens(config)
    # As a fraction, which no large number overflows.
    share = fractions.Fraction(factor) * tokens / max(1, experts)
    return max(1, round(share))


def _of_head(task, backbone):
    """Numbers that the head of a task has at least."""
    features = _integer(backbone, "hidden_dim")
    between = _integer(task, "representation_size")
    classes = _integer(task, "num_classes")
    return features * between + (between or features) * classes


def _tokens(config):
    """Patches of an image."""
    sides = _sides(config)
    return math.prod(s // p for s, p in zip(sides, _patch(config)))


def _patch(config):
    patch = config.get("patch_size")
    sides = patch if isinstance(patch, list) else [patch, patch]
    return [max(1, _as_integer(side)) for side in sides]


def _sides(config):
    shape = _shape(config)
    return shape[1:] if _first(config) else shape[:2]


def _channels(config):
    shape = _shape(config)
    return shape[0] if _first(config) else shape[2]


def _shape(config):
    shape = config.get("image_shape")
    whole = isinstance(shape, list) and len(shape) == 3
    return [_as_integer(n) for n in shape] if whole else [0, 0, 0]


def _first(config):
    return config.get("data_format") == "channels_first"


def _integer(config, name):
    return _as_integer(config.get(name))


def _as_integer(value):
    """A size; 0 for what is none, of which the model tells what is wrong."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and value > 0 else 0


def _numbers(found):
    """Numbers of a file; a byte may hold two of four bits."""
    return sum(
        math.prod(shape) * (2 if dtype.endswith("int8") else 1)
        for shape, dtype in found.values()
    )


def _object(path):
    """A JSON object; empty for others' files, which weights may lie beside."""
    try:
        return files.read_json(path, finite=False)
    except files.UnreadableFile:
        return {}


def _arguments(config):
    arguments = config.get("config")
    return arguments if isinstance(arguments, dict) else {}
