"""Options that cannot be are refused by name, from Python and in commands."""

import argparse

import pytest

from conversion import llm_random_plan
from conversion import options
from conversion import vmoe
from conversion.__main__ import main
from conversion.__main__ import parser
from conversion.errors import ConversionError

pytestmark = pytest.mark.once

VMOE = [
    ("num_heads", 0, "a positive integer; received 0"),
    ("num_heads", True, "a positive integer; received True"),
    ("image_size", 224, "two positive integers, height and width"),
    ("image_size", (224, 0), "two positive integers, height and width"),
    ("top_k", 1.5, "a positive integer; received 1.5"),
    ("top_k", 0, "a positive integer; received 0"),
    ("capacity_factor", 0.0, "a positive number; received 0.0"),
    ("capacity_factor", "1", "a positive number; received '1'"),
    ("capacity_rounding", "floor", "one of 'round', 'ceil'; received 'floor'"),
    ("capacity_multiple_of", -4, "a positive integer; received -4"),
    ("group_size", 0, "a positive integer; received 0"),
    ("batch_priority", "no", "True or False; received 'no'"),
    ("positions", "Learned", "one of 'learned', 'sincos2d', 'none'"),
    ("pooling", "mean", "one of 'gap', 'token', 'map'; received 'mean'"),
    ("text_pooling", "gap", "one of 'last', 'token', 'mean', 'map'; received"),
    ("architecture", 3, "a name; received 3"),
]
LLM_RANDOM = [
    ("model_type", "gpt2", r"one of 'gpt', 'bert'; received 'gpt2' \(str\)"),
    ("num_heads", 0, "a positive integer; received 0"),
    ("group_size", 4.0, "a positive integer; received 4.0"),
    ("sparsity_dim", 2, "one of 0, 1; received 2"),
    ("sparsity_dim", True, "one of 0, 1; received True"),
    ("temperature", float("nan"), "a positive number; received nan"),
    ("learned_temperature", "exp", "one of 'fixed', 'plain', 'positive'"),
    ("emit_softmax_over", "Experts", "'experts', 'tokens'; received 'Experts'"),
    ("topk_fraction", 0, "a positive number of at most 1; received 0"),
    ("topk_fraction", 1.5, "a positive number of at most 1; received 1.5"),
    ("softmax_over", "slots", "one of 'experts', 'tokens'"),
    ("group_by_batch", True, "one of 'yes', 'no'; received True"),
]


class Nothing:
    """No checkpoint; options are looked at before it is."""

    def shapes(self):
        raise AssertionError


@pytest.mark.parametrize("name, value, expected", VMOE)
def test_vmoe(name, value, expected):
    flag = options.flag(name)
    with pytest.raises(ConversionError, match=f"^{flag} must be .*{expected}"):
        vmoe.deduce({}, vmoe.Options(**{name: value}))


@pytest.mark.parametrize("name, value, expected", LLM_RANDOM)
def test_llm_random(name, value, expected):
    flag = options.flag(name)
    given = llm_random_plan.Options(**{name: value})
    with pytest.raises(ConversionError, match=f"^{flag} must be .*{expected}"):
        llm_random_plan.deduce(Nothing(), given)


def test_every_option_is_here():
    for cases, kind in (
        (VMOE, options.VmoeOptions),
        (LLM_RANDOM, options.LlmRandomOptions),
    ):
        assert {name for name, _, _ in cases} == set(vars(kind()))


def test_nothing_given_is_no_error():
    options.VmoeOptions().check()
    options.LlmRandomOptions().check()


@pytest.mark.parametrize("command", ["vmoe", "llm-random"])
def test_commands_offer_what_is_accepted(command):
    kind = {"vmoe": options.VmoeOptions, "llm-random": options.LlmRandomOptions}
    kind = kind[command]
    subparsers = next(
        action
        for action in parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    offered = {a.dest: a.choices for a in subparsers.choices[command]._actions}
    for name in vars(kind()):
        assert offered[name] == options.choices(kind, name), name


@pytest.mark.parametrize(
    "arguments, match",
    [
        ("vmoe in out --image-size 0x4", "--image-size must be two positive"),
        (
            "llm-random in out --topk-fraction 1.5",
            "--topk-fraction must be a positive number of at most 1",
        ),
    ],
)
def test_commands_refuse_before_they_read(arguments, match):
    with pytest.raises(SystemExit, match=f"error: {match}"):
        main(arguments.split())
