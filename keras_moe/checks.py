"""Argument checks: every error names the argument, what fits, what came."""

import numbers
import sys

import keras
import numpy as np

# Larger integers have too many digits to show, and from some size on Python
# refuses to write them.
SHOWN_BITS = 256


def received(value) -> str:
    if isinstance(value, int) and value.bit_length() > SHOWN_BITS:
        return f"received an integer of {value.bit_length()} bits"
    return f"received {value!r} ({type(value).__name__})"


def integer(name: str, value, minimum: int = 1) -> int:
    """Return `value` if it is an integer of at least `minimum`."""
    is_integer = isinstance(value, numbers.Integral)
    if not is_integer or isinstance(value, bool) or value < minimum:
        raise ValueError(
            f"{name} must be an integer of at least {minimum}; "
            f"{received(value)}."
        )
    return int(value)


def optional_integer(name: str, value) -> int | None:
    """Return `value` if it is `None` or a positive integer."""
    return None if value is None else integer(name, value)


def real(
    name: str,
    value,
    minimum: float = 0.0,
    exclusive: bool = False,
    other: str = "",
) -> float:
    """Return `value` if it is a finite number from `minimum` on."""
    is_real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    # Integers and fractions may exceed what a float holds.
    finite = is_real and abs(plain(value)) <= sys.float_info.max
    if finite and value >= minimum:
        fits = value > minimum or not exclusive
    else:
        fits = False
    if not fits:
        bound = "greater than" if exclusive else "at least"
        raise ValueError(
            f"{name} must be {other}a finite number, {bound} {minimum}; "
            f"{received(value)}."
        )
    return float(value)


def optional_real(
    name: str, value, minimum: float = 0.0, exclusive: bool = False
) -> float | None:
    """Return `value` if it is `None` or a finite number from `minimum` on."""
    if value is None:
        return None
    return real(name, value, minimum, exclusive, "None or ")


def rate(name: str, value) -> float:
    """Return `value` if it is a number in [0, 1)."""
    is_real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_real or not 0 <= value < 1:
        raise ValueError(
            f"{name} must be a number from 0 up to, not including, 1; "
            f"{received(value)}."
        )
    return float(value)


def flag(name: str, value) -> bool:
    """Return `value` if it is a Boolean, Python's or NumPy's."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name} must be True or False; {received(value)}.")
    return bool(value)


def at_defaults(owner, defaults: dict, where: str) -> None:
    """Refuse attributes of `owner` that something else leaves without use.

    Args:
        owner: a layer; its attributes have the names of its arguments.
        defaults: {name: default}.
        where: clause that names the reason, as in "where selection='top_k'".
    """
    for name, default in defaults.items():
        value = getattr(owner, name)
        if value != default:
            raise ValueError(
                f"{name} must be left at its default, {default!r}, {where}; "
                f"received {value!r}."
            )


def no_others(owner: str, given: dict, fits) -> None:
    """Raise an error for arguments that Keras would ignore.

    Args:
        owner: the class, by its name.
        given: arguments that have no parameter of their own.
        fits: names of those that Keras takes.
    """
    others = sorted(set(given) - set(fits))
    if others:
        raise ValueError(
            f"{owner} has no argument {', '.join(others)}; beside its own it "
            f"takes {', '.join(sorted(fits))}."
        )


def plain(value):
    """Return a scalar of NumPy as Python's, which JSON knows."""
    return value.item() if isinstance(value, np.generic) else value


def name(name: str, value) -> str:
    """Return `value` if a layer may be called so."""
    if not isinstance(value, str) or "/" in value:
        raise ValueError(
            f"{name} must be a string without '/'; {received(value)}."
        )
    return value


def choice(name: str, value, choices) -> str:
    """Return `value` if it is one of `choices`."""
    if value not in tuple(choices):
        listed = ", ".join(repr(c) for c in choices)
        raise ValueError(f"{name} must be one of {listed}; {received(value)}.")
    return value


def resolve(name: str, get, value, kind: str):
    """Return `get(value)`, a Keras look-up, with an error naming `name`."""
    try:
        return get(value)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{name} must be {kind}; {received(value)}."
        ) from error


def batch(name: str, value):
    """Return `value` if it is arrays, and none of them without examples."""
    leaves = keras.tree.flatten(value)
    fits = [
        (isinstance(leaf, np.ndarray) or keras.ops.is_tensor(leaf))
        and len(leaf.shape) > 0
        for leaf in leaves
    ]
    if not leaves or not all(fits):
        wrong = leaves[fits.index(False)] if leaves else value
        raise ValueError(
            f"{name} must be an array with an axis for the examples, or a "
            f"structure of such arrays; {received(wrong)}."
        )
    if 0 in [leaf.shape[0] for leaf in leaves]:
        raise ValueError(
            f"{name} must hold one example or more; received none."
        )
    return value


def numbers_of(name: str, value):
    """Return `value` as a numpy array of finite real numbers."""
    try:
        if keras.ops.is_tensor(value):
            value = keras.ops.convert_to_numpy(value)
        array = np.asarray(value)
    except ValueError as error:  # of lists of different lengths
        raise ValueError(
            f"{name} must be an array; received a {type(value).__name__} that "
            f"makes none: {error}"
        ) from error
    if array.dtype.kind not in "biuf":
        raise ValueError(
            f"{name} must be an array of numbers; {received(value)}."
        )
    if not np.isfinite(array).all():
        raise ValueError(
            f"{name} must be finite numbers; received NaN or infinity."
        )
    return array


def at_run_time(tensor, fits, message: str):
    """Return `tensor`; TensorFlow's graph raises where it does not fit.

    For sizes that only a graph leaves open. Programs that drop such checks
    (XLA, exported files) go on, and other backends know their sizes.

    Args:
        tensor: what to check.
        fits: from the tensor to a Boolean scalar tensor.
        message: of the `tf.errors.InvalidArgumentError`.
    """
    if keras.backend.backend() != "tensorflow":
        return tensor
    import tensorflow as tf

    check = tf.debugging.Assert(fits(tensor), [message])
    with tf.control_dependencies([] if check is None else [check]):
        return tf.identity(tensor)
