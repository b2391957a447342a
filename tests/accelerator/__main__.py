"""Check and measure keras_moe on the accelerator of this machine.

    python -m tests.accelerator [--parts parity reads memory tables]
        [--out DIR] [--minutes 8]

It needs Keras, PyTorch or JAX of a build for the accelerator, and this
checkout; no network. `KERAS_BACKEND` chooses the backend; without it, it is the
first of PyTorch and JAX that has an accelerator. Records go to the results of
the benchmarks, or to `--out`, in files named by the chip. Without an
accelerator the parity is checked on the CPU.

Parts: `parity` of every implementation with the reference; `reads`, that no
step lets the host wait; `memory` of training steps; `tables` of times. The exit
status is 1 if anything failed or was not reached in time.
"""

import argparse
import importlib.util
import os
import pathlib
import sys

PARTS = ("parity", "reads", "memory", "tables")


def arguments_of(words):
    parser = argparse.ArgumentParser(
        "python -m tests.accelerator",
        description="Check and measure keras_moe on an accelerator.",
    )
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, help="those to run; default: all"
    )
    parser.add_argument(
        "--out", type=pathlib.Path, help="folder of the records"
    )
    parser.add_argument(
        "--minutes", type=_minutes, default=8.0, help="time to take, 8"
    )
    return parser.parse_args(words)


def _minutes(text):
    minutes = float(text)
    if not 0 < minutes < float("inf"):
        raise argparse.ArgumentTypeError(
            f"must be a number above 0; received {text!r}"
        )
    return minutes


def backend() -> str:
    """`KERAS_BACKEND`, or the first backend that has an accelerator."""
    if os.environ.get("KERAS_BACKEND"):
        return os.environ["KERAS_BACKEND"]
    installed = [n for n in _HAVE if importlib.util.find_spec(n)]
    if not installed:
        raise SystemExit("PyTorch or JAX must be installed; neither is")
    return next((n for n in installed if _HAVE[n]()), installed[0])


def _torch_has_one():
    import torch

    return torch.cuda.is_available()


def _jax_has_one():
    import jax

    return jax.default_backend() != "cpu"


_HAVE = {"torch": _torch_has_one, "jax": _jax_has_one}


def main(words=None) -> int:
    options = arguments_of(words)
    os.environ["KERAS_BACKEND"] = backend()
    from tests.accelerator import run  # which imports Keras

    return run.run(options.parts, options.out, options.minutes)


if __name__ == "__main__":
    sys.exit(main())
