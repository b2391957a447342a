"""Every error names the argument, says what fits, and shows what came."""

import re

import keras
import pytest

from keras_moe import ops as moe_ops
from keras_moe.layers import ExpertChoiceMoE
from keras_moe.layers import MixtureOfTokens
from keras_moe.layers import SoftMoE
from keras_moe.layers import TokenChoiceMoE

# Arguments that work, in each of which the tables below spoil one thing.
GOOD = {
    SoftMoE: {"num_experts": 4, "slots_per_expert": 2},
    ExpertChoiceMoE: {"num_experts": 4, "capacity_factor": 1.0},
    TokenChoiceMoE: {"num_experts": 4, "top_k": 2},
    MixtureOfTokens: {"num_experts": 4, "group_size": 2},
}
LAYERS = pytest.mark.parametrize("cls", GOOD)

POSITIVE = "must be an integer of at least 1"
NUMBER = "must be a finite number, at least 0.0"
ABOVE_ZERO = "must be a finite number, greater than 0.0"
OR_NONE = "must be None or a finite number, greater than 0.0"
FLAG = "must be True or False"
RATE = "must be a number from 0 up to, not including, 1"

EVERY_LAYER = [
    ("num_experts", POSITIVE, [0, -1, 2.0, "4", True, None]),
    ("intermediate_dim", POSITIVE, [0, -8, 8.0, "8", True]),
    ("activation", "must be a Keras activation", ["gelo", 3]),
    ("gated", FLAG, [1, "yes", None]),
    ("use_bias", FLAG, [0, "no", None]),
    ("dropout", RATE, [-0.1, 1.0, "0.1", None, True, float("nan")]),
    ("kernel_initializer", "must be a Keras initialiser", ["gloro", 3]),
    ("bias_initializer", "must be a Keras initialiser", ["zeroes", 3]),
    ("router_initializer", "must be a Keras initialiser", ["normel", 3]),
    ("kernel_regularizer", "must be a Keras regulariser or None", ["l3", 3]),
    ("bias_regularizer", "must be a Keras regulariser or None", ["l3", 3]),
    ("kernel_constraint", "must be a Keras constraint or None", ["norm", 3]),
    ("bias_constraint", "must be a Keras constraint or None", ["norm", 3]),
    ("name", "must be a string without '/'", [3, "a/b"]),
    ("dtype", "must be a Keras dtype", ["float33", 3]),
    ("trainable", FLAG, [1, "no", None]),
    ("expert", "must be a Keras layer", ["dense", keras.layers.Dense, 3]),
]
ONE_LAYER = [
    (SoftMoE, "slots_per_expert", POSITIVE, [0, 1.0, "1", True]),
    (SoftMoE, "capacity_factor", OR_NONE, [0, -1.0, "1", True]),
    (SoftMoE, "output_dim", POSITIVE, [0, 8.0, "8", True]),
    (SoftMoE, "slot_shape", "must be None or two integers", [(2,), 4, (2, 0)]),
    (SoftMoE, "key_projection", FLAG, [1, "yes", None]),
    (SoftMoE, "expert_dropout", RATE, [-0.1, 1.0, "0.1", None]),
    (SoftMoE, "normalize", FLAG, [1, "yes", None]),
    (SoftMoE, "noise_std", NUMBER, [-1.0, "1", None, float("inf")]),
    (SoftMoE, "max_scale", ABOVE_ZERO, [0.0, -1, "1", True, float("inf")]),
    (
        ExpertChoiceMoE,
        "capacity_factor",
        ABOVE_ZERO,
        [0, -1.0, "1", None, True, float("nan")],
    ),
    (ExpertChoiceMoE, "group_size", POSITIVE, [0, 4.0, "4", True]),
    (ExpertChoiceMoE, "max_experts_per_token", POSITIVE, [0, 2.0, "2"]),
    (ExpertChoiceMoE, "noise_std", NUMBER, [-1.0, "1", None]),
    (ExpertChoiceMoE, "capacity_multiple_of", POSITIVE, [0, 4.0, None]),
    (
        ExpertChoiceMoE,
        "capacity_rounding",
        "must be one of 'round', 'ceil'",
        ["floor", None, 1, ["ceil"]],
    ),
    (ExpertChoiceMoE, "router_bias", FLAG, [1, "yes", None]),
    (
        ExpertChoiceMoE,
        "selection",
        "must be one of 'top_k', 'threshold', 'top_k_then_threshold'",
        ["topk", None, True],
    ),
    (ExpertChoiceMoE, "threshold_momentum", RATE, [1.0, -0.1, "1", None]),
    (
        ExpertChoiceMoE,
        "threshold_momentum",
        "must be left at its default, 0.99, where selection='top_k'",
        [0.5],
    ),
    (TokenChoiceMoE, "top_k", POSITIVE, [0, 2.0, "2", True, None]),
    (TokenChoiceMoE, "top_k", "must not exceed num_experts", [5]),
    (TokenChoiceMoE, "capacity_factor", OR_NONE, [0, -1.0, "1", True]),
    (TokenChoiceMoE, "eval_capacity_factor", OR_NONE, [0, -1.0, "1"]),
    (TokenChoiceMoE, "normalize_gates", FLAG, [1, "yes", None]),
    (TokenChoiceMoE, "router_bias", FLAG, [1, "yes", None]),
    (TokenChoiceMoE, "shared_gate", FLAG, [1, "yes", None]),
    (
        TokenChoiceMoE,
        "shared_gate",
        "must be False where shared_intermediate_dim is None",
        [True],
    ),
    (
        TokenChoiceMoE,
        "scoring",
        "must be one of 'softmax', 'sigmoid', 'softmax_top_k'",
        ["softmin", None],
    ),
    (
        TokenChoiceMoE,
        "balance_over",
        "must be one of 'first', 'all'",
        ["last", None],
    ),
    (TokenChoiceMoE, "routed_scaling", ABOVE_ZERO, [0, -1.0, "1", None]),
    (TokenChoiceMoE, "num_expert_groups", POSITIVE, [0, 2.0, "2", True]),
    (TokenChoiceMoE, "top_groups", POSITIVE, [0, 2.0, "2", True]),
    (TokenChoiceMoE, "shared_intermediate_dim", POSITIVE, [0, 8.0, "8"]),
    (TokenChoiceMoE, "balance_bias_rate", NUMBER, [-1.0, "1", None, True]),
    (TokenChoiceMoE, "jitter", RATE, [-0.1, 1.0, "0.1", None]),
    (TokenChoiceMoE, "capacity_multiple_of", POSITIVE, [0, 4.0, None]),
    (
        TokenChoiceMoE,
        "capacity_rounding",
        "must be one of 'ceil', 'round'",
        ["floor", None],
    ),
    (TokenChoiceMoE, "batch_priority", FLAG, [1, "yes", None]),
    (TokenChoiceMoE, "group_size", POSITIVE, [0, 4.0, "4", True]),
    (TokenChoiceMoE, "noise_std", NUMBER, [-1.0, "1", None]),
    (TokenChoiceMoE, "importance_loss", NUMBER, [-1.0, "1", None, True]),
    (TokenChoiceMoE, "load_loss", NUMBER, [-1.0, "1", None, True]),
    (TokenChoiceMoE, "balance_loss", NUMBER, [-1.0, "1", None, True]),
    (TokenChoiceMoE, "z_loss", NUMBER, [-1.0, "1", None, True]),
    (MixtureOfTokens, "group_size", POSITIVE, [0, 2.0, "2", True, None]),
    (MixtureOfTokens, "temperature", ABOVE_ZERO, [0, -1.0, "1", None]),
    (
        MixtureOfTokens,
        "group_axis",
        "must be one of 'batch', 'sequence'",
        ["token", None, 0],
    ),
    (MixtureOfTokens, "emit_over_experts", FLAG, [1, "yes", None]),
    (MixtureOfTokens, "learn_temperature", FLAG, [1, "yes", None]),
    (
        MixtureOfTokens,
        "inference_mixing",
        "must be one of 'group', 'self', 'argmax', 'discrete'",
        ["best", None, True],
    ),
    (
        MixtureOfTokens,
        "padding",
        "must be one of 'mask', 'zeros'",
        ["same", None],
    ),
]
CASES = [
    (cls, name, text, value)
    for cls in GOOD
    for name, text, values in EVERY_LAYER
    for value in values
] + [(c, name, text, v) for c, name, text, vs in ONE_LAYER for v in vs]


def make(cls, **arguments):
    """The layer, with small experts unless an argument says otherwise."""
    arguments = {**GOOD[cls], **arguments}
    if not {"expert", "intermediate_dim"} & set(arguments):
        arguments["intermediate_dim"] = 8
    return cls(**arguments)


@pytest.mark.parametrize(
    "cls, name, text, value",
    [
        pytest.param(*case, id=f"{case[0].__name__}-{case[1]}-{case[3]!r}")
        for case in CASES
    ],
)
def test_arguments(cls, name, text, value):
    """A wrong type or range: the name first, then what fits, then what came.

    `text` is compared as it stands, not as a pattern.
    """
    with pytest.raises(ValueError) as raised:
        make(cls, **{name: value})
    message = str(raised.value)
    assert message.startswith(f"{name} {text}"), message
    assert "received" in message and str(value) in message, message


@LAYERS
def test_table_covers_every_argument(cls):
    tested = {case[1] for case in CASES if case[0] is cls}
    # `implementation` has its own test.
    assert tested | {"implementation"} == set(make(cls).get_config())


def raises(text):
    return pytest.raises(ValueError, match=re.escape(text))


# === Arguments that meet ===


@LAYERS
def test_implementation(cls):
    choices = moe_ops.names(cls.plan_kind)
    listed = ", ".join(repr(name) for name in choices)
    for typo in ("gathr", "Auto", None, 1):
        with raises(
            f"implementation must be one of {listed}; received {typo!r}"
        ):
            make(cls, implementation=typo)


@LAYERS
def test_experts_are_given_exactly_once(cls):
    dense = keras.layers.Dense(6)
    text = "exactly one of intermediate_dim and expert must be given; received"
    with raises(f"{text} intermediate_dim=None and expert=None"):
        cls(**GOOD[cls])
    with raises(f"{text} intermediate_dim=8 and expert=<Dense"):
        make(cls, intermediate_dim=8, expert=dense)
    with raises(f"{text} intermediate_dim=None and expert=None"):
        make(cls, expert=None)


@LAYERS
@pytest.mark.parametrize(
    "ignored",
    [
        {"activation": "relu"},
        {"gated": True},
        {"use_bias": False},
        {"dropout": 0.1},
        {"kernel_initializer": "zeros"},
        {"bias_initializer": "ones"},
        {"kernel_regularizer": "l2"},
        {"bias_regularizer": "l2"},
        {"kernel_constraint": "unit_norm"},
        {"bias_constraint": "unit_norm"},
    ],
    ids=str,
)
def test_arguments_that_a_template_would_ignore(cls, ignored):
    (name,) = ignored
    with raises(f"{name} must be left at its default"):
        make(cls, expert=keras.layers.Dense(6), **ignored)


@LAYERS
@pytest.mark.parametrize(
    "template, made",
    [(keras.layers.Dense(5), (None, None, 5)), (keras.layers.Flatten(), None)],
    ids=["features", "rank"],
)
def test_experts_that_change_the_shape(cls, template, made):
    text = "expert must return the shape that it is given"
    with raises(text if made is None else f"{text}; received an expert that"):
        make(cls, expert=template).build((None, 8, 6))


@pytest.mark.parametrize("backend", ["jax", "tensorflow", "torch"])
def test_an_implementation_for_other_plans(backend):
    text = (
        "implementation='gather' serves hard plans on jax, tensorflow, torch; "
        f"for a soft plan on {backend} choose one of 'auto', 'reference'"
    )
    with raises(text):
        moe_ops.select(moe_ops.Facts("soft"), "gather", backend)


def test_defaults_are_told_while_a_file_is_loaded():
    """Keras then takes objects at one address for one and the same."""
    from keras.src.saving import serialization_lib

    with serialization_lib.ObjectSharingScope():
        for _ in range(20):
            layer = SoftMoE(2, 1, expert=keras.layers.Dense(6))
            assert layer.bias_initializer.get_config() == {}
