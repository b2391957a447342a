"""Start of our programs with `python -m`, before Keras is imported.

Importing Keras and its backend takes seconds. TensorFlow logs meanwhile, below
Python and whatever its log level is, and Ctrl-C would show a traceback. In our
programs this module imports Keras quietly, and Ctrl-C ends the process at once
until `commands.run` begins. In programs of others it changes nothing.
"""

import contextlib
import os
import re
import signal
import sys
import threading

PROGRAMS = ("keras_moe", "zoo", "conversion")
LEVEL = "TF_CPP_MIN_LOG_LEVEL"
# Lines of TensorFlow's log, of all levels but "fatal".
NOISE = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog"
    rb"|[IWE]\d{4} \d\d:\d\d:[\d.]+ +\d+ [\w.]+:\d+\]"
    rb"|\d{4}-\d\d-\d\d \d\d:\d\d:[\d.]+: [IWE] "
    rb"|To enable the following instructions:"
)
_stderr = 2  # where stderr is while `quiet` has taken its place


def is_program() -> bool:
    """Whether this process is `python -m` of one of our programs."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if spec is not None:
        return spec.name in [f"{name}.__main__" for name in PROGRAMS]
    # A package is imported before its `__main__` is known.
    words = {"keras_moe", "-mkeras_moe"}
    return sys.argv[:1] == ["-m"] and not words.isdisjoint(sys.orig_argv)


@contextlib.contextmanager
def quiet():
    """Import within: TensorFlow's log is left out, Ctrl-C ends at once.

    Everything else that is written to stderr follows at the end of the block.
    `TF_CPP_MIN_LOG_LEVEL=0` shows the log.
    """
    global _stderr
    before = _catch()
    try:
        if os.environ.setdefault(LEVEL, "2") == "0" or not _is_open():
            yield
            return
        import tempfile  # brings many others

        sys.stderr.flush()
        with tempfile.TemporaryFile() as log:
            _stderr = os.dup(2)
            os.dup2(log.fileno(), 2)
            try:
                yield
            finally:
                sys.stderr.flush()
                os.dup2(_stderr, 2)
                os.close(_stderr)
                _stderr = 2
                log.seek(0)
                for line in log:
                    if not NOISE.match(line):
                        os.write(2, line)
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)


def let_go() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _catch():
    """Have Ctrl-C end the process; returns what it did before, or `None`."""
    before = signal.getsignal(signal.SIGINT)
    if (
        before is signal.default_int_handler
        and threading.current_thread() is threading.main_thread()
    ):
        signal.signal(signal.SIGINT, _end)
        return before
    return None


def _end(number, frame):
    """End the process: an exception may get lost while modules are loaded."""
    if _is_open():
        os.write(_stderr, b"interrupted while starting; nothing was written\n")
    os._exit(130)


def _is_open():
    """Whether there is a stderr."""
    try:
        os.fstat(_stderr)
    except OSError:
        return False
    return sys.stderr is not None


if is_program():
    _catch()
    with quiet():
        import keras as _  # noqa: F401
