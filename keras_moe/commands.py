"""How commands end: with their output, or with one line that says why not."""

import argparse
import math
import sys
from collections.abc import Callable


def run(command: Callable, resume: str = "nothing was written") -> None:
    """Run a command; an error becomes one line and exit code 1.

    Errors of arguments, files, the Hub and missing packages are told so. Any
    other is a fault of ours and shows where it is.

    Args:
        command: a function without arguments.
        resume: what Ctrl-C leaves behind, or how to go on after it.

    Raises:
        SystemExit: with 1 after an error, with 130 after Ctrl-C.
    """
    try:
        command()
    except KeyboardInterrupt:
        print(f"interrupted; {resume}", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {one_line(error)}")


def one_line(error: Exception) -> str:
    """The text of an error, without line breaks and without credentials."""
    text = " ".join(str(error).split()) or type(error).__name__
    # Only what has asked a server can have an address in it.
    answers = sys.modules.get("keras_moe.models.hub_answers")
    return text if answers is None else answers.redact(text)


def positive(text: str) -> int:
    """An integer of at least 1, for argparse."""
    number = _number(int, text)
    if number is None or number < 1:
        raise argparse.ArgumentTypeError(
            f"must be an integer of at least 1; received {text!r}"
        )
    return number


def positive_real(text: str) -> float:
    """A finite number greater than 0, for argparse."""
    number = _number(float, text)
    if number is None or not math.isfinite(number) or number <= 0:
        raise argparse.ArgumentTypeError(
            f"must be a finite number greater than 0; received {text!r}"
        )
    return number


def _number(kind, text):
    try:
        return kind(text)
    except ValueError:
        return None
