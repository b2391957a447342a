"""Every error names the argument, says what fits, and shows what came."""

import inspect
import re

import numpy as np
import pytest

from keras_moe import models
from keras_moe.models import MoEViTBackbone
from tests.models.support import ROUTERS
from tests.models.support import TINY
from tests.models.support import make_backbone
from tests.models.support import make_classifier

POSITIVE = "must be an integer of at least 1"
FLAG = "must be True or False"
RATE = "must be a number from 0 up to, not including, 1"
ABOVE_ZERO = "must be a finite number, greater than 0.0"

BACKBONE = [
    (
        "image_shape",
        "must be three integers, (height, width, channels)",
        [8, None, "8x8", (8, 8), (8, 8, 3, 1), (None, 8, 3)],
    ),
    ("image_shape", POSITIVE, [(0, 8, 3), (8.0, 8, 3), ("8", 8, 3)]),
    (
        "image_shape",
        "must be a multiple of patch_size, (4, 4), in height and width",
        [(12, 18, 3), (2, 16, 3)],
    ),
    (
        "patch_size",
        "must be an integer or (height, width)",
        [None, 4.0, "4", (4,), (4, 4, 4), {}],
    ),
    ("patch_size", POSITIVE, [0, (4, 0), (4.0, 4), True]),
    ("num_layers", POSITIVE, [0, -1, 2.0, "2", None, True]),
    ("num_heads", POSITIVE, [0, 2.0, "2", None]),
    ("num_heads", "must divide hidden_dim, 8", [3, 16]),
    ("hidden_dim", POSITIVE, [0, 8.0, "8", None]),
    ("mlp_dim", POSITIVE, [0, 8.0, "8", None]),
    (
        "router",
        "must be one of 'soft', 'expert_choice', 'token_choice'",
        ["Soft", "mixture", 1, True],
    ),
    (
        "moe_layers",
        "must be different indices below num_layers, 2",
        [1, "all", [2], [0, 0], {}],
    ),
    ("moe_layers", "must be an integer of at least 0", [[-1], ["0"], [None]]),
    ("router_options", "must be a dictionary or None", [4, "two", [1]]),
    (
        "router_options",
        "must be arguments of 'soft', SoftMoE",
        [
            {},
            {"num_experts": 2, "slots_per_expert": 1, "top_k": 2},
            {"num_experts": 2, "slots_per_expert": 1, "expert": "dense"},
            {"num_experts": 2, "slots_per_expert": 1, "dtype": "float64"},
        ],
    ),
    (
        "depth_layers",
        "must be different indices below num_layers, 2",
        [1, "all", [2], [0, 0], None],
    ),
    ("depth_layers", "must be an integer of at least 0", [[-1], ["0"]]),
    ("depth_options", "must be a dictionary or None", [0.5, [1]]),
    (
        "depth_options",
        "must be left out where depth_layers names no block",
        [{"capacity": 0.5}],
    ),
    ("qk_norm", FLAG, [1, "yes", None]),
    ("recompute", FLAG, [1, "yes", None]),
    ("stem_dims", "must be a sequence of integers", [8, None]),
    ("stem_dims", "must be an integer of at least 1", [[0], [1.5]]),
    ("stem_dims", "must be so few that 2 to the power", [[8, 8, 8]]),
    (
        "positions",
        "must be one of 'learned', 'sincos2d', 'none'",
        ["sincos", None, True],
    ),
    ("class_token", FLAG, [1, "yes", None]),
    ("activation", "must be a Keras activation", ["gelo", 3]),
    ("dropout", RATE, [-0.1, 1.0, "0.1", None, True]),
    ("attention_dropout", RATE, [-0.1, 1, "0.1", None]),
    ("layer_norm_epsilon", ABOVE_ZERO, [0, -1e-6, "0", None, float("nan")]),
    (
        "data_format",
        "must be one of 'channels_last', 'channels_first'",
        ["last", 1],
    ),
    ("dtype", "must be a Keras dtype or policy", ["float33", 3]),
]
CLASSIFIER = [
    ("backbone", "must be a MoEViTBackbone", [None, "vit_b16", 3]),
    ("num_classes", POSITIVE, [0, -1, 3.0, "3", None, True]),
    ("pooling", "must be one of 'gap', 'token', 'map'", ["avg", None, 1]),
    ("representation_size", POSITIVE, [0, 8.0, "8", True]),
    ("activation", "must be a Keras activation", ["softmux", 3]),
    ("dropout", RATE, [-0.1, 1.0, "0.1", None, True]),
    (
        "head_kernel_initializer",
        "must be a Keras initialiser",
        ["zeroes", 3],
    ),
    ("head_bias", "must be a finite number", ["0", None, float("inf"), True]),
    ("head_dtype", "must be a Keras dtype or policy", ["float33", 3]),
    (
        "class_names",
        "must be None or 3 different strings",
        ["abc", 3, [1, 2, 3], ["a", "b", ""]],
    ),
]


def cases(table):
    return [
        pytest.param(name, text, value, id=f"{name}-{value!r}")
        for name, text, values in table
        for value in values
    ]


def check(raised, name, text, value):
    """The name first, then what fits, then what came."""
    message = str(raised.value)
    assert message.startswith(f"{name} {text}"), message
    assert "received" in message, message
    # All that came, or what is wrong in it.
    inside = value.values() if isinstance(value, dict) else value
    inside = inside if np.iterable(inside) else ()
    assert any(repr(v) in message for v in (value, *inside)), message


@pytest.mark.parametrize("name, text, value", cases(BACKBONE))
def test_backbone(name, text, value):
    with pytest.raises(ValueError) as raised:
        MoEViTBackbone(**{**TINY, **ROUTERS["soft"], name: value})
    check(raised, name, text, value)


@pytest.fixture(scope="module")
def backbone():
    return make_backbone("dense")


@pytest.mark.parametrize("name, text, value", cases(CLASSIFIER))
def test_classifier(name, text, value, backbone):
    arguments = {"backbone": backbone, "num_classes": 3, name: value}
    with pytest.raises(ValueError) as raised:
        models.MoEViTImageClassifier(**arguments)
    check(raised, name, text, value)


@pytest.mark.parametrize(
    "cls, table, free",
    [
        (MoEViTBackbone, BACKBONE, set()),
        # Any layer or function may preprocess.
        (models.MoEViTImageClassifier, CLASSIFIER, {"preprocessor"}),
    ],
)
def test_tables_cover_every_argument(cls, table, free):
    arguments = set(inspect.signature(cls.__init__).parameters)
    assert {name for name, *_ in table} | free == arguments - {"self", "kwargs"}


def raises(text):
    return pytest.raises(ValueError, match="^" + re.escape(text))


# === Arguments that meet ===


def test_what_the_dense_model_would_ignore():
    for name, value in [("moe_layers", [1]), ("router_options", {"top_k": 2})]:
        with raises(
            f"{name} must be left out where router=None, the dense model; "
            f"received {value!r}"
        ):
            make_backbone("dense", **{name: value})


def test_image_shape_says_which_axes_it_means():
    text = "image_shape must be three integers, (channels, height, width)"
    with raises(text):
        make_backbone(image_shape=(12, 16), data_format="channels_first")
    with raises("image_shape must be a multiple of patch_size"):
        make_backbone(data_format="channels_first")


@pytest.mark.parametrize("value", [0, -4, 4.0, "4"])
def test_group_size_of_soft(value):
    options = {**ROUTERS["soft"]["router_options"], "group_size": value}
    with raises(f"group_size {POSITIVE}; received {value!r}"):
        make_backbone(router_options=options)


def test_arguments_of_the_router_are_its_own():
    for router, name, text in [
        ("soft", "num_experts", POSITIVE),
        ("token_choice", "top_k", POSITIVE),
        ("expert_choice", "capacity_factor", ABOVE_ZERO),
    ]:
        options = {**ROUTERS[router]["router_options"], name: 0}
        with raises(f"{name} {text}; received 0"):
            make_backbone(router, router_options=options)


def test_pooling_the_class_token_that_is_not_there(backbone):
    with raises('pooling="token" needs a backbone with class_token=True'):
        make_classifier(backbone=backbone, pooling="token")


def test_architectures():
    with raises("name must be one of 'soft_moe_s16', 'soft_moe_s14'"):
        MoEViTBackbone.from_architecture("soft_moe")


def test_images_of_another_size(backbone):
    with pytest.raises(ValueError, match=r"\(None, 12, 16, 3\)"):
        backbone(np.zeros((1, 8, 8, 3), "float32"))
