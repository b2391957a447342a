"""What every expert does to its rows, as one function of arrays."""

from keras_moe.activations import exportable
from keras_moe.ops import reference


def experts_mlp(
    rows, weights, activation, *, between=None, steps=reference.Dispatcher()
):
    """The MLP of each expert on its rows, (E,N,D) -> (E,N,D).

        hidden = activation(rows · up + bias)                         (E,N,F)
        hidden = activation(rows · gate + bias) * (rows · up + bias)  gated
        output = between(hidden) · down + bias                        (E,N,D)

    Args:
        rows: (E,N,D), the slots of each expert in all groups; or (P,D), rows
            sorted by expert, where `steps` are those of such rows.
        weights: pairs of a kernel and a bias or `None`: up, down and, if the
            experts are gated, gate.
        activation: of the hidden features.
        between: of them too, such as dropout.
        steps: a dispatcher, whose `product`, (E,N,D) · (E,D,F) -> (E,N,F), and
            `shift`, (E,N,F) + (E,1,F), these are.
    """
    up, down, *gate = weights
    activation = exportable(activation)
    hidden = _project(rows, *up, steps)
    if gate:
        hidden = activation(_project(rows, *gate[0], steps)) * hidden
    else:
        hidden = activation(hidden)
    if between is not None:
        hidden = between(hidden)
    return _project(hidden, *down, steps)


def _project(rows, kernel, bias, steps):
    outputs = steps.product(rows, kernel)
    return outputs if bias is None else steps.shift(outputs, bias)
