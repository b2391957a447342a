"""The device that the checks run on: what it is, its clock, its memory."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import time
from typing import NamedTuple

import keras
from keras import ops

from keras_moe.ops import selection

BACKEND = keras.backend.backend()
# What sizes are fitted to where there is no accelerator, so that it is quick.
CPU_BYTES = 2**27


class Chip(NamedTuple):
    kind: str  # "cpu", "gpu" or "tpu"
    name: str
    driver: str
    free: int  # bytes

    @property
    def slug(self) -> str:
        """The name as a part of a file's name, without a dash."""
        return re.sub(r"[^a-z0-9]+", "_", self.name.lower()).strip("_")

    def columns(self) -> dict:
        """What each row of a record says of where it was made."""
        packages = ("keras", "numpy", BACKEND)
        versions = {n: importlib.metadata.version(n) for n in packages}
        said = [f"{name} {version}" for name, version in versions.items()]
        return {
            "chip": self.name,
            "driver": self.driver,
            "versions": ", ".join(said),
            "threads": os.environ.get("OMP_NUM_THREADS") or os.cpu_count(),
        }


def found() -> Chip:
    """The device that tensors are made on."""
    kind = selection.kind_of(ops.zeros(()))
    if kind == "cpu":
        return Chip(kind, "cpu", "", CPU_BYTES)
    if BACKEND == "torch":
        return _on_torch(kind)
    if BACKEND == "jax":
        return _on_jax(kind)
    return Chip(kind, kind, _driver(), CPU_BYTES)


def _on_torch(kind):
    import torch

    if not torch.cuda.is_available():
        name = ops.zeros(()).device.type
        return Chip(kind, name, "", CPU_BYTES)
    name, free = torch.cuda.get_device_name(), torch.cuda.mem_get_info()[0]
    runtime = f"CUDA {torch.version.cuda}" if torch.version.cuda else "ROCm"
    return Chip(kind, name, f"{_driver()}, {runtime}", free)


def _on_jax(kind):
    import jax

    device = jax.devices()[0]
    memory = device.memory_stats() or {}
    free = memory.get("bytes_limit", CPU_BYTES) - memory.get("bytes_in_use", 0)
    runtime = " ".join(device.client.platform_version.split())
    return Chip(kind, device.device_kind, f"{_driver()}, {runtime}", free)


def _driver() -> str:
    """What the driver of NVIDIA says, if its tool is there."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "driver unknown"
    asked = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(asked, capture_output=True, text=True)
    lines = done.stdout.split("\n") if done.returncode == 0 else [""]
    return f"driver {lines[0].strip() or 'unknown'}"


def on_cuda() -> bool:
    """Whether it is PyTorch on a GPU."""
    if BACKEND != "torch":
        return False
    import torch

    return torch.cuda.is_available()


def wait():
    """Until all that was begun on the device is done.

    What `timing.forward` compiles on JAX returns no sooner.
    """
    if on_cuda():
        import torch

        torch.cuda.synchronize()


def clock() -> float:
    """Seconds at which the device is done."""
    wait()
    return time.perf_counter()
