"""Arrays of dropless token choice, in the programs that XLA compiles."""

import math
import re

import numpy as np
import pytest

from keras_moe import layers
from tests.support import BACKEND

T, D, F, E, K = 1024, 64, 64, 4, 2


def largest_array(program) -> int:
    """Numbers in the largest array of a program in HLO."""
    shapes = re.findall(r"[fs]\d+\[([\d,]+)\]", program)
    assert shapes
    return max(math.prod(int(n) for n in shape.split(",")) for shape in shapes)


@pytest.mark.parametrize("on", ["tf"] if BACKEND == "tensorflow" else [])
def test_a_batch_of_unknown_size_takes_few_copies_of_kernels(on):
    """Tiles of a fixed size would take (T·k/16 + E) copies of kernels."""
    import tensorflow as tf

    layer = layers.TokenChoiceMoE(
        E, K, capacity_factor=None, intermediate_dim=F
    )
    layer.build((None, None, D))
    signature = [tf.TensorSpec((None, None, D))]

    @tf.function(jit_compile=True, input_signature=signature)
    def step(tokens):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(tokens) ** 2)
        return tape.gradient(loss, layer.trainable_variables)

    tokens = np.random.default_rng(0).normal(size=(2, T // 2, D))
    tokens = tf.constant(tokens, tf.float32)
    program = step.experimental_get_compiler_ir(tokens)(stage="hlo")
    assert largest_array(program) <= 2 * T * K * F < (T * K // 16 + E) * D * F
