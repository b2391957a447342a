"""What is known of where a program runs, without reading a value."""

import keras

from keras_moe import distribution

KINDS = ("cpu", "gpu", "tpu")
_BACKEND = keras.backend.backend()


def kind_of(array) -> str:
    """`"cpu"`, `"gpu"` or `"tpu"`: where the array is, or will be.

    A JAX program under compilation does not know. Then it is the device that
    JAX compiles for by default.
    """
    if _BACKEND == "jax":
        return _kind_on_jax(array)
    if _BACKEND == "tensorflow":
        return _kind_on_tensorflow(array)
    return _kind_on_torch(array)


def _kind_on_jax(array):
    import jax

    if isinstance(array, jax.Array) and not isinstance(array, jax.core.Tracer):
        return _kind(next(iter(array.devices())).platform)
    default = jax.config.jax_default_device or jax.devices()[0]
    return _kind(getattr(default, "platform", default))


def _kind_on_tensorflow(array):
    import tensorflow as tf

    named = getattr(array, "device", "")  # empty in most graphs
    if named:
        return _kind(tf.DeviceSpec.from_string(named).device_type.lower())
    types = {d.device_type for d in tf.config.list_logical_devices()}
    return next((k for k in ("tpu", "gpu") if k.upper() in types), "cpu")


def _kind_on_torch(array):
    import torch

    return _kind(torch.as_tensor(array).device.type)


def _kind(platform):
    """Of a platform's name; what has no kind of its own is like a GPU."""
    if platform in ("cpu", "meta"):
        return "cpu"
    return "tpu" if platform in ("tpu", "xla") else "gpu"


def only_portable(array) -> str:
    """Why nothing but portable formulas may run; empty if more may.

    JAX's and TensorFlow's programs transform everything that is here. Spread
    over devices, portable formulas need the fewest exchanges.
    """
    if shards() > 1:
        return "groups are spread over several devices"
    if _BACKEND != "torch":
        return ""
    import torch

    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return "the program is compiled as a whole"
    if torch.as_tensor(array).is_meta:
        return "shapes alone are asked for"
    if is_transformed(array):
        return "a transform of torch.func is active"
    return ""


def is_transformed(array) -> bool:
    """Whether PyTorch is inside of `torch.func` or forward-mode derivatives."""
    if _BACKEND != "torch":
        return False
    import torch

    return (
        torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
    )


def shards() -> int:
    """On how many devices the groups of a batch lie."""
    return distribution.batch_shards()
