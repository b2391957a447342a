"""Ends of commands: their output, or one line that says why there is none."""

import argparse
import contextlib
import gc
import importlib
import math
import os
import signal
import sys
import threading
from collections.abc import Callable

from keras_moe import files
from keras_moe import starting
from keras_moe.addresses import redact

# What arguments, files, the Hub, packages and the machine may be at fault for.
EXPECTED = (ValueError, OSError, ImportError, MemoryError)
LARGEST = 2**31 - 1


def run(
    command: Callable,
    resume: str = "the same command starts again",
    needs: str | None = None,
) -> None:
    """Run a command; an error becomes one line and exit code 1.

    Errors of arguments, files, the Hub and missing packages are reported so.
    Any other is a fault of ours and shows where it is.

    Args:
        command: a function without arguments.
        resume: what Ctrl-C leaves behind, or how to go on after it.
        needs: module that the command imports, see `load`.

    Raises:
        SystemExit: with 1 after an error, with 130 after Ctrl-C.
    """
    starting.let_go()
    said = None
    with _asides() as asides, _interrupts() as interrupts:
        try:
            if needs is not None:
                load(needs)
            command()
            sys.stdout.flush()
        except BrokenPipeError:
            _close_stdout()
            sys.exit(1)
        except KeyboardInterrupt:
            interrupts.append(signal.SIGINT)
        except BaseException as error:
            # Ctrl-C may come out as another library's own error.
            if not interrupts and not _is_expected(error):
                raise
            said = f"error: {one_line(error)}"
        if interrupts or said is not None:
            # Frames are gone: files and progress bars are closed here.
            gc.collect(1)
            asides.clear()
    if interrupts:
        if starting.is_program():  # another one, while Python ends
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        print(f"interrupted; {resume}", file=sys.stderr, flush=True)
        sys.exit(130)
    if said is not None:
        sys.exit(said)


def _is_expected(error):
    return isinstance(error, EXPECTED) or files.system_error(error) is not None


def load(name: str):
    """Import a module, without what TensorFlow logs meanwhile."""
    if name in sys.modules:
        return sys.modules[name]
    with starting.quiet():
        return importlib.import_module(name)


def one_line(error: BaseException) -> str:
    """The text of an error, without line breaks and without secrets."""
    error = files.system_error(error) or error
    text = " ".join(str(error).split()) or type(error).__name__
    return redact(text)


@contextlib.contextmanager
def _interrupts():
    """Yields a list that each Ctrl-C of the block is added to."""
    found, before = [], signal.getsignal(signal.SIGINT)
    ours = threading.current_thread() is threading.main_thread()
    if not ours or before is not signal.default_int_handler:
        yield found  # a program that has its own way
        return

    def interrupt(number, frame):
        found.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield found
    except KeyboardInterrupt:
        found.append(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _asides():
    """Yields a list of what Python ignores where it cannot raise an error.

    Such as errors of files that are closed after the first error was raised.
    What the list holds in the end is shown.
    """
    shown, kept = sys.unraisablehook, []

    def unraisable(event):
        if issubclass(event.exc_type, KeyboardInterrupt):  # once more
            again = os.getpid(), signal.SIGINT
            threading.Timer(0.01, os.kill, again).start()
        else:
            text = f"{event.err_msg or 'error'}: {event.exc_value!r}"
            kept.append(redact(text))

    sys.unraisablehook = unraisable
    try:
        yield kept
    finally:
        sys.unraisablehook = shown
        for text in kept:
            print(text, file=sys.stderr)


def _close_stdout():
    """Keep Python from writing to a pipe that nobody reads, as it ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def positive(text: str) -> int:
    """An integer of at least 1 that fits 32 bits, for argparse."""
    return _integer(text, 1)


def seed(text: str) -> int:
    """An integer of at least 0 that fits 32 bits, for argparse."""
    return _integer(text, 0)


def positive_real(text: str) -> float:
    """A finite number greater than 0, for argparse."""
    number = _number(float, text)
    if number is None or not math.isfinite(number) or number <= 0:
        raise argparse.ArgumentTypeError(
            f"must be a finite number greater than 0; received {text!r}"
        )
    return number


def tolerance(text: str) -> float:
    """A finite number of at least 0, for argparse."""
    number = _number(float, text)
    if number is None or not math.isfinite(number) or number < 0:
        raise argparse.ArgumentTypeError(
            f"must be a finite number of at least 0; received {text!r}"
        )
    return number


def _integer(text, least):
    number = _number(int, text)
    if number is None or not least <= number <= LARGEST:
        raise argparse.ArgumentTypeError(
            f"must be an integer from {least} to {LARGEST}; received {text!r}"
        )
    return number


def _number(kind, text):
    try:
        return kind(text)
    except ValueError:
        return None
