"""Shapes of the papers' models, without making their weights."""

from concurrent import futures

import keras

from keras_moe.architectures import ARCHITECTURES as ARCHITECTURES
from keras_moe.architectures import get as get


def weight_shapes(make_model) -> dict[str, tuple]:
    """{path: shape} of a model's weights, without making the weights.

    Args:
        make_model: a function without arguments that returns the model, built
            but not compiled (`compile=False` for a classifier). It runs in a
            thread of its own, with Keras' default settings.

    Example:

    >>> from keras_moe.models import MoEViTBackbone, weight_shapes
    >>> shapes = weight_shapes(
    ...     lambda: MoEViTBackbone.from_architecture("soft_moe_h14"))
    >>> shapes["block_31/moe/experts/up/kernel"]
    (256, 1280, 5120)
    """

    def build():
        with keras.StatelessScope(initialize_variables=False):
            return {w.path: tuple(w.shape) for w in make_model().weights}

    # Keras keeps a list of variables to initialise later, for each thread.
    # With the thread that list goes, and nothing is ever allocated.
    with futures.ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(build).result()
