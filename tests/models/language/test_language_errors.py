"""Language models' errors: the argument, what fits, and what came."""

import inspect

import numpy as np
import pytest

from keras_moe import models
from keras_moe.models import MoTBackbone
from tests.models.language_support import LENGTH
from tests.models.language_support import make_backbone
from tests.models.language_support import make_preprocessor
from tests.models.test_model_errors import FLAG
from tests.models.test_model_errors import POSITIVE
from tests.models.test_model_errors import RATE
from tests.models.test_model_errors import cases
from tests.models.test_model_errors import check
from tests.models.test_model_errors import raises

SHARE = "must be a number from 0 to 1"
BACKBONE = [
    ("vocabulary_size", POSITIVE, [0, 8.0, "8", None]),
    ("num_layers", POSITIVE, [0, -1, True]),
    ("num_heads", POSITIVE, [0, 2.0]),
    ("num_heads", "must divide hidden_dim, 8", [3, 16]),
    ("hidden_dim", POSITIVE, [0, "8"]),
    ("mlp_dim", POSITIVE, [0, None]),
    ("max_sequence_length", POSITIVE, [0, None, 4.0]),
    ("head_dim", POSITIVE, [0, 4.0]),
    (
        "router",
        "must be one of 'mixture_of_tokens', 'expert_choice', 'token_choice'",
        ["soft", 1],
    ),
    (
        "moe_layers",
        "must be different indices below num_layers, 2",
        [1, "all", [2], [0, 0], {}],
    ),
    ("moe_layers", "must be an integer of at least 0", [[-1], ["0"]]),
    ("router_options", "must be a dictionary or None", [4, "two", [1]]),
    (
        "router_options",
        "must be arguments of 'mixture_of_tokens', MixtureOfTokens: "
        "num_experts, group_size, and if wanted temperature, ",
        [
            {},
            {"num_experts": 2},
            {"num_experts": 2, "group_size": 1, "top_k": 2},
            {"num_experts": 2, "group_size": 1, "name": "moe"},
            {"num_experts": 2, "group_size": 1, "expert": "dense"},
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
    ("causal", FLAG, [1, None]),
    ("recompute", FLAG, [1, None]),
    ("positions", "must be one of 'learned', 'rotary'", ["sincos2d", None]),
    ("norm", "must be one of 'layer_norm', 'rms_norm'", ["batch", None]),
    ("norm_placement", "must be one of 'pre', 'post'", ["before", None]),
    ("final_norm", FLAG, [1, None]),
    ("attention_bias", FLAG, [0, None]),
    ("tie_embeddings", FLAG, ["yes"]),
    ("scale_attention_by_layer", FLAG, [1.0]),
    ("activation", "must be a Keras activation", ["gelo", 3]),
    ("dropout", RATE, [-0.1, 1.0, "0.1", None]),
    (
        "layer_norm_epsilon",
        "must be a finite number, greater than 0.0",
        [0, None, float("nan")],
    ),
    ("dtype", "must be a Keras dtype or policy", ["float33", 3]),
]
CAUSAL = [
    ("tokenizer", "must be a Tokenizer", [None, "gpt2"]),
    ("sequence_length", POSITIVE, [0, None, 8.0]),
    ("add_start_token", FLAG, [1, None]),
    ("add_end_token", FLAG, [1, None]),
]
MASKED = [
    ("tokenizer", "must be a MoTTokenizer", [None, "gpt2"]),
    ("sequence_length", POSITIVE, [0, None, 8.0]),
    ("mask_selection_rate", SHARE, [1.5]),
    ("mask_selection_rate", "must be a finite number", [-1, None]),
    ("mask_selection_length", POSITIVE, [0, None]),
    ("mask_token_rate", SHARE, [2]),
    ("random_token_rate", SHARE, [2]),
]
TOKENIZER = models.MoTTokenizer.byte_level("[MASK]")
TABLES = {
    MoTBackbone: (BACKBONE, {"vocabulary_size": 9, "mlp_dim": 8}),
    models.MoTCausalLMPreprocessor: (CAUSAL, {"tokenizer": TOKENIZER}),
    models.MoTMaskedLMPreprocessor: (MASKED, {"tokenizer": TOKENIZER}),
}
TABLES[MoTBackbone][1].update(
    num_layers=2,
    num_heads=2,
    hidden_dim=8,
    router_options={"num_experts": 2, "group_size": 2},
)
CASES = [
    pytest.param(cls, *case.values, id=f"{cls.__name__}-{case.id}")
    for cls, (table, _) in TABLES.items()
    for case in cases(table)
]


@pytest.mark.parametrize("cls, name, text, value", CASES)
def test_arguments(cls, name, text, value):
    with pytest.raises(ValueError) as raised:
        cls(**{**TABLES[cls][1], name: value})
    check(raised, name, text, value)


@pytest.mark.parametrize("cls", TABLES)
def test_tables_cover_every_argument(cls):
    arguments = set(inspect.signature(cls.__init__).parameters)
    table = {name for name, *_ in TABLES[cls][0]}
    assert table == arguments - {"self", "kwargs"}


# === Arguments that meet ===


def test_what_the_dense_model_would_ignore():
    for name, value in [("moe_layers", [1]), ("router_options", {"top_k": 2})]:
        options = {"moe_layers": None, "router_options": None, name: value}
        with raises(
            f"{name} must be left out where router=None, the dense model; "
            f"received {value!r}"
        ):
            make_backbone(router=None, **options)


def test_heads_of_another_size():
    assert make_backbone(num_heads=3, head_dim=4).head_dim == 4
    with raises("head_dim must be even where positions='rotary'; received 3"):
        make_backbone(head_dim=3, positions="rotary")


def test_arguments_of_the_router_are_its_own():
    with raises(f"group_size {POSITIVE}; received 0"):
        make_backbone(router_options={"num_experts": 2, "group_size": 0})


def test_numpy_integers_are_integers():
    backbone = make_backbone(num_layers=np.int64(1), moe_layers=[np.int64(0)])
    config = backbone.get_config()
    assert type(config["num_layers"]) is type(config["moe_layers"][0]) is int


@pytest.mark.parametrize("cls", [models.MoTCausalLM, models.MoTMaskedLM])
def test_tasks(cls):
    for value in (None, "gpt2"):
        with raises(f"backbone must be a MoTBackbone; received {value!r}"):
            cls(value)
    causal = cls is models.MoTCausalLM
    backbone = make_backbone(causal=causal, vocabulary_size=257)
    with raises("sequence_length of the preprocessor must be at most max_"):
        cls(backbone, cls.preprocessor_cls(TOKENIZER, sequence_length=11))
    with raises("tokenizer must have ids below vocabulary_size of the back"):
        cls(backbone, cls.preprocessor_cls(TOKENIZER, sequence_length=8))


def test_a_vocabulary_that_grew_in_a_preset(tmp_path):
    backbone = make_backbone(num_layers=1, vocabulary_size=257)
    model = models.MoTCausalLM(backbone, make_preprocessor())
    model.save_to_preset(tmp_path / "preset")
    (tmp_path / "preset" / "keras_moe.json").unlink()
    file = tmp_path / "preset" / "assets" / "tokenizer" / "vocabulary.json"
    file.write_text(file.read_text().replace(": 256}", ': 256, "ab": 257}'))
    with pytest.raises(
        ValueError, match="tokenizer must have ids below vocabulary_size of"
    ) as raised:
        models.MoTCausalLM.from_preset(tmp_path / "preset")
    assert "vocabulary.json" in str(raised.value)


def test_masking_needs_a_token_and_shares():
    with raises("tokenizer must have a mask token, such as MoTTokenizer("):
        models.MoTMaskedLMPreprocessor(models.MoTTokenizer.byte_level())
    with raises("mask_token_rate and random_token_rate must not exceed 1 "):
        models.MoTMaskedLMPreprocessor(
            TOKENIZER, mask_token_rate=0.8, random_token_rate=0.3
        )


def test_sequences_beyond_the_positions():
    ids = np.zeros((1, LENGTH + 1), "int32")
    inputs = {"token_ids": ids, "padding_mask": ids + 1}
    text = f"token_ids must have at most max_sequence_length tokens, {LENGTH}"
    backbone = make_backbone()
    for model in (backbone, models.MoTCausalLM(backbone)):
        with pytest.raises(ValueError, match=f"{text}; received 11"):
            model(inputs)
    with raises(text):
        backbone.empty_cache(1, LENGTH + 1)
    rotary = make_backbone(positions="rotary")
    assert tuple(rotary(inputs).shape) == (1, LENGTH + 1, 8)
