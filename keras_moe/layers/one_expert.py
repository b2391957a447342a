"""Keras' constraints and regularisers, shown one expert's weight at a time.

A stacked weight has an axis of experts that a dense layer's lacks: a kernel is
(E,D,F) for (D,F), a bias (E,1,F) for (F,). What looks at axes, such as
`UnitNorm` along axis 0, would take the experts for the inputs.
"""

import keras
from keras import ops


class EachConstraint(keras.constraints.Constraint):
    """Constrains the weight of each expert by itself."""

    def __init__(self, constraint, bias=False):
        self.constraint = constraint
        self.bias = bias

    def __call__(self, weight):
        outputs = ops.stack(
            [self.constraint(one) for one in _each(weight, self.bias)]
        )
        return outputs[:, None] if self.bias else outputs

    def get_config(self):
        inner = keras.constraints.serialize(self.constraint)
        return {"constraint": inner, "bias": self.bias}


class EachRegularizer(keras.regularizers.Regularizer):
    """Sums the penalties of the experts' weights."""

    def __init__(self, regularizer, bias=False):
        self.regularizer = regularizer
        self.bias = bias

    def __call__(self, weight):
        return sum(self.regularizer(one) for one in _each(weight, self.bias))

    def get_config(self):
        inner = keras.regularizers.serialize(self.regularizer)
        return {"regularizer": inner, "bias": self.bias}


def constraint(value, bias=False):
    """`value` for a stacked weight; `None` stays."""
    return None if value is None else EachConstraint(value, bias)


def regularizer(value, bias=False):
    """`value` for a stacked weight; `None` stays."""
    return None if value is None else EachRegularizer(value, bias)


def _each(weight, bias):
    weight = ops.convert_to_tensor(weight)
    for e in range(weight.shape[0]):
        yield weight[e, 0] if bias else weight[e]
