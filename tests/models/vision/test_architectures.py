"""The named configurations against the weights of the papers' own models.

`golden/H_shapes.json` holds what vmoe's code makes of its configurations. No
weight is allocated here: the largest model has 54 billion.
"""

import json
import math
import pathlib
import re
import resource

import keras
import pytest

from keras_moe import models
from keras_moe.models import ARCHITECTURES
from keras_moe.models import MoEViTBackbone
from keras_moe.models import weight_shapes
from keras_moe.models.vision import architectures

GOLDEN = pathlib.Path(__file__).parents[2] / "golden" / "H_shapes.json"
REFERENCE = json.loads(GOLDEN.read_text())["models"]
# Soft MoE, arXiv 2308.00951, table 8: parameters with a head of 29,593
# classes, as they are printed there.
PAPER = {
    "soft_moe_s16": (933e6, 1e6),
    "soft_moe_s14": (1.8e9, 0.1e9),
    "soft_moe_b16": (3.7e9, 0.1e9),
    "soft_moe_l16": (13.1e9, 0.1e9),
    "soft_moe_h14": (54.1e9, 0.1e9),
}


def shapes_of(name, **arguments):
    """Shapes of a classifier with a named backbone."""

    def make():
        backbone = MoEViTBackbone.from_architecture(name)
        # An optimiser's variables cannot be made without values.
        return models.MoEViTImageClassifier(
            backbone, compile=False, **arguments
        )

    return weight_shapes(make)


def count(shapes):
    return sum(math.prod(shape) for shape in shapes.values())


# Our names, in the order in which they are replaced, and vmoe's.
NAMES = [
    (r"patch_embedding/", "embedding/"),
    (r"class_token/token", "cls"),
    (r"positions/positions", "Encoder/posembed_input/pos_embedding"),
    (r"predictions/", "head/"),
    (r"^norm/", "Encoder/encoder_norm/"),
    (r"block_(\d+)/", r"Encoder/encoderblock_\1/"),
    (r"attention_norm/", "LayerNorm_0/"),
    (r"mlp_norm/", "LayerNorm_1/"),
    (r"/attention/", "/SelfAttention/"),
    (r"(query|key)_norm/", r"\1_ln/"),
    (r"moe/slot_embedding", "Moe/Router/mu"),
    (r"moe/scale", "Moe/Router/scale"),
    (r"moe/router_kernel", "Moe/Router/dense/kernel"),
    (r"moe/experts/", "Moe/Mlp/"),
    (r"/mlp/", "/Mlp/"),
    (r"/up/", "/Dense_0/"),
    (r"/down/", "/Dense_1/"),
    (r"/gamma$", "/scale"),
    (r"/beta$", "/bias"),
]


def reference_name(path):
    for ours, theirs in NAMES:
        path = re.sub(ours, theirs, path)
    return path


@pytest.mark.parametrize("name", REFERENCE)
def test_every_weight(name):
    reference = REFERENCE[name]
    theirs = reference["model"]
    shapes = shapes_of(
        name,
        num_classes=theirs["num_classes"],
        pooling=theirs["classifier"],
        representation_size=theirs.get("representation_size"),
    )
    actual = {}
    for path, shape in shapes.items():
        if "/experts/" in path and path.endswith("/bias"):
            shape = (shape[0], shape[2])  # ours are (E,1,F)
        actual[reference_name(path)] = list(shape)
    assert actual == reference["shapes"]
    assert count(shapes) == reference["total_params"]
    head = count({p: s for p, s in shapes.items() if "predictions" in p})
    assert count(shapes) - head == reference["params_without_head"]
    experts = count({p: s for p, s in shapes.items() if "/experts/" in p})
    assert experts == reference["expert_params"]


@pytest.mark.parametrize("name", REFERENCE)
def test_every_number(name):
    """What makes no weight: heads, the router's arguments, the pooling."""
    ours = architectures.get(name)
    theirs = REFERENCE[name]["model"]
    encoder, moe = theirs["encoder"], theirs["encoder"]["moe"]
    router = moe.get("router", {})
    router = {**router, **router.get("dispatcher", {})}
    options = ours.get("router_options", {})
    assert ours["num_heads"] == encoder["num_heads"]
    assert ours.get("qk_norm", False) == encoder.get("attention_qk_norm", False)
    assert ours.get("class_token", False) == (theirs["classifier"] == "token")
    assert list(ours.get("moe_layers", ())) == moe["layers"]
    assert ours["image_shape"][0] == REFERENCE[name]["image_size"]
    for our_name, their_name in [
        ("slots_per_expert", "num_slots"),
        ("capacity_factor", "capacity_factor"),
        ("top_k", "num_selected_experts"),
        ("noise_std", "noise_std"),
        ("importance_loss", "importance_loss_weight"),
        ("load_loss", "load_loss_weight"),
    ]:
        assert options.get(our_name) == router.get(their_name), our_name
    rounding = router.get("capacity_ceil_or_round")
    if ours.get("router") == "expert_choice":
        assert rounding == "round" and router["capacity_multiple_of"] == 1
    if ours.get("router") == "token_choice":  # vmoe's default
        assert rounding is None and options["capacity_multiple_of"] == 4


@pytest.mark.parametrize("name", PAPER)
def test_counts_of_the_paper(name):
    printed, rounding = PAPER[name]
    total = count(shapes_of(name, num_classes=29_593))
    assert abs(total - printed) <= rounding


def test_every_architecture_is_checked():
    assert set(REFERENCE) | set(PAPER) == set(ARCHITECTURES)


def test_nothing_is_allocated():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    shapes = weight_shapes(
        lambda: MoEViTBackbone.from_architecture("soft_moe_h14")
    )
    assert count(shapes) > 54e9
    # Later models do not make up for it either.
    dense = keras.layers.Dense(2)
    keras.Sequential([keras.Input((3,)), dense])
    assert dense.kernel.value is not None
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 1_000_000  # kB


def test_shapes_are_those_of_a_model_that_is_made():
    def make():
        return MoEViTBackbone.from_architecture(
            "vmoe_s32_last2", image_shape=(32, 32, 3), hidden_dim=8, mlp_dim=8
        )

    made = {w.path: tuple(w.shape) for w in make().weights}
    assert weight_shapes(make) == made


def test_errors_come_out_of_the_thread():
    with pytest.raises(ValueError, match="^name must be one of 'soft_moe_s16'"):
        weight_shapes(lambda: MoEViTBackbone.from_architecture("soft_moe"))
