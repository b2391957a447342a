"""MLPs of experts, as one function of arrays."""

import functools
import math

from keras import ops

from keras_moe.ops import reference


def experts_mlp(
    rows, weights, activation, *, between=None, steps=reference.PLAIN
):
    """Compute the MLP of each expert on its rows, (E,N,D) -> (E,N,D).

        hidden = activation(rows · up + bias)                         (E,N,F)
        hidden = activation(rows · gate + bias) * (rows · up + bias)  gated
        output = between(hidden) · down + bias                        (E,N,D)

    Args:
        rows: (E,N,D), the slots of each expert in all groups; or (P,D), rows
            sorted by expert, where `steps` are those of such rows.
        weights: pairs of a kernel and a bias or `None`: up, down and, if the
            experts are gated, gate. A kernel is an array, or a function of the
            rows.
        activation: activation of the hidden features.
        between: of them too, such as dropout.
        steps: a dispatcher, whose `product`, (E,N,D) · (E,D,F) -> (E,N,F), and
            `shift`, (E,N,F) + (E,1,F), these are, and whose `activate` calls
            the activation.
    """
    up, down, *gate = weights
    hidden = _project(rows, *up, steps)
    if steps.activate is not None:
        activation = functools.partial(steps.activate, activation)
    if gate:
        hidden = activation(_project(rows, *gate[0], steps)) * hidden
    else:
        hidden = activation(hidden)
    if between is not None:
        hidden = between(hidden)
    return _project(hidden, *down, steps)


def _project(rows, kernel, bias, steps):
    # Not `ops.matmul`, which may round float64 to float32, nor `ops.add`, which
    # on TensorFlow takes (E,1,1) for the bias of the second axis where that is
    # as long.
    if callable(kernel):
        outputs = kernel(rows)
    elif steps.product is None:
        outputs = rows @ kernel
    else:
        outputs = steps.product(rows, kernel)
    if bias is None:
        return outputs
    plain = steps.shift is None
    return outputs + bias if plain else steps.shift(outputs, bias)


def gelu_of_erf(x):
    """GELU, x/2 · (1 + erf(x/√2)), in operators of other runtimes."""
    # Converters to LiteRT know GELU by these steps in this order.
    return 0.5 * x * (1.0 + ops.erf(x * math.sqrt(0.5)))
