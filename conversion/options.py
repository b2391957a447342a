"""Options of the commands, on the command line and from Python.

An option that is `None` is deduced from the checkpoint, or asked for. Nothing
heavy is imported here, as `--help` needs this.
"""

import dataclasses
import math

from conversion.errors import ConversionError


def _option(expected, fits, choices=None, default=None):
    rule = {"expected": expected, "fits": fits, "choices": choices}
    return dataclasses.field(default=default, metadata=rule)


def _one_of(*choices):
    listed = ", ".join(repr(choice) for choice in choices)
    return _option(
        f"one of {listed}",
        # True equals 1 and is no number that anyone would mean
        lambda value: not isinstance(value, bool) and value in choices,
        choices,
    )


def _is_count(value):
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _count():
    return _option("a positive integer", _is_count)


def _positive(most=math.inf):
    def fits(value):
        return (
            isinstance(value, (int, float))
            and not isinstance(value, bool)
            and math.isfinite(value)
            and 0 < value <= most
        )

    bound = "" if most == math.inf else f" of at most {most}"
    return _option(f"a positive number{bound}", fits)


def _is_size(value):
    return (
        isinstance(value, (tuple, list))
        and len(value) == 2
        and all(_is_count(side) for side in value)
    )


class _Checked:
    def check(self):
        """Hold each option that is given against what it may be.

        Raises:
            ConversionError: naming the option, what fits and what came.
        """
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None and not field.metadata["fits"](value):
                raise ConversionError(
                    f"{flag(field.name)} must be {field.metadata['expected']}; "
                    f"received {value!r} ({type(value).__name__})."
                )


@dataclasses.dataclass
class VmoeOptions(_Checked):
    """Options for checkpoints of vmoe; `None` is deduced or asked for."""

    architecture: str | None = _option(
        "a name", lambda value: isinstance(value, str)
    )
    num_heads: int | None = _count()
    image_size: tuple | None = _option(
        "two positive integers, height and width", _is_size
    )
    top_k: int | None = _count()
    capacity_factor: float | None = _positive()
    capacity_rounding: str | None = _one_of("round", "ceil")
    capacity_multiple_of: int | None = _count()
    group_size: int | None = _count()
    batch_priority: bool = _option(
        "True or False", lambda value: isinstance(value, bool), default=False
    )
    positions: str | None = _one_of("learned", "sincos2d", "none")
    pooling: str | None = _one_of("gap", "token", "map")
    text_pooling: str | None = _one_of("last", "token", "mean", "map")


@dataclasses.dataclass
class LlmRandomOptions(_Checked):
    """Options for checkpoints of llm-random; `None` is deduced or asked for."""

    model_type: str | None = _one_of("gpt", "bert")
    num_heads: int | None = _count()
    group_size: int | None = _count()
    sparsity_dim: int | None = _one_of(0, 1)
    temperature: float | None = _positive()
    learned_temperature: str | None = _one_of("fixed", "plain", "positive")
    emit_softmax_over: str | None = _one_of("experts", "tokens")
    topk_fraction: float | None = _positive(most=1)
    softmax_over: str | None = _one_of("experts", "tokens")
    group_by_batch: str | None = _one_of("yes", "no")


def flag(name):
    """Spelling of an option on the command line."""
    return f"--{name.replace('_', '-')}"


def choices(kind, name):
    """The values that an option of `VmoeOptions`, … can have, or `None`."""
    return kind.__dataclass_fields__[name].metadata["choices"]
