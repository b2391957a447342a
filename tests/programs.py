"""Programs that run in a process of their own and print facts as JSON."""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]


def said_by(program, backend, **environment):
    """The JSON in the last line that a program prints.

    Args:
        program: name of a module.
        backend: of Keras.
        **environment: further variables of its environment.
    """
    finished = subprocess.run(
        [sys.executable, "-m", program],
        env={**os.environ, "KERAS_BACKEND": backend, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(finished.stdout.splitlines()[-1])


def on_devices(program):
    """The same of a program of JAX, on 8 virtual devices of a CPU."""
    return said_by(
        program,
        "jax",
        JAX_PLATFORMS="cpu",
        XLA_FLAGS="--xla_force_host_platform_device_count=8 "
        "--xla_backend_optimization_level=0",
    )
