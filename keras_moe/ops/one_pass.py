"""Several steps of a formula in one pass over memory, where that is asked for.

JAX's compiler does so anyway, and PyTorch's kernels are what they are.
TensorFlow runs step by step, each through memory; on CPUs XLA can be asked to
compile some of them as one.
"""

import contextlib

import keras


def wanted(dtype):
    """A context; what TensorFlow adds to a graph in it is compiled as one.

    That is a request, which exported programs and their converters may ignore.
    """
    if not serves(dtype):
        return contextlib.nullcontext()
    import tensorflow as tf

    return tf.xla.experimental.jit_scope()


def serves(dtype) -> bool:
    """Whether TensorFlow builds a graph of float32 for CPUs alone.

    Of narrower types, one pass would round less often than the steps do.
    """
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    wide = keras.backend.standardize_dtype(dtype) == "float32"
    if tf.executing_eagerly() or not wide:
        return False
    devices = tf.config.list_logical_devices()
    return all(device.device_type == "CPU" for device in devices)
