"""The MLP of each expert, as one function of arrays."""

import math

from keras import ops


def experts_mlp(rows, weights, activation, *, between=None, product=None):
    """The MLP of each expert on its rows, (E,N,D) -> (E,N,D).

        hidden = activation(rows · up + bias)                         (E,N,F)
        hidden = activation(rows · gate + bias) * (rows · up + bias)  gated
        output = between(hidden) · down + bias                        (E,N,D)

    Args:
        rows: (E,N,D), the slots of each expert in all groups.
        weights: pairs of a kernel and a bias or `None`: up, down and, if the
            experts are gated, gate.
        activation: of the hidden features.
        between: of them too, such as dropout.
        product: (E,N,D) · (E,D,F) -> (E,N,F), a dispatcher's; `None` is the
            plain product.
    """
    up, down, *gate = weights
    hidden = _project(rows, *up, product)
    if gate:
        hidden = activation(_project(rows, *gate[0], product)) * hidden
    else:
        hidden = activation(hidden)
    if between is not None:
        hidden = between(hidden)
    return _project(hidden, *down, product)


def _project(rows, kernel, bias, product):
    # `ops.matmul` may round float64 to float32.
    outputs = product(rows, kernel) if product else rows @ kernel
    # Not `ops.add`, which on TensorFlow takes (E,1,1) for the bias of the
    # second axis where that is as long.
    return outputs if bias is None else outputs + bias


def gelu_of_erf(x):
    """GELU, x/2 · (1 + erf(x/√2)), in operators of other runtimes."""
    # Converters to LiteRT know GELU by these steps in this order.
    return 0.5 * x * (1.0 + ops.erf(x * math.sqrt(0.5)))
