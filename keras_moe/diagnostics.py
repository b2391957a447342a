"""Look at what routers decide: `capture`, `summarize`, `RouterMonitor`."""

import contextlib
import dataclasses

import keras
import numpy as np
from keras import ops

from keras_moe import routing

_captures = []  # the open `capture()` blocks, innermost last


class Plans(dict):
    """Plans by the path of their layer; `layers` has the layers likewise."""

    def __init__(self):
        super().__init__()
        self.layers = {}


@contextlib.contextmanager
def capture():
    """Collect the plan of every keras_moe layer that runs in this block.

    The block yields a dictionary from `layer.path` to the layer's last plan
    (a `routing.SoftPlan` or `routing.HardPlan`), whose attribute `layers` is
    one from the same path to the layer. A layer that is called more than once
    adds `#2`, `#3`, … to its path. It sees eager calls, such as
    `model(x)`; inside `fit`, `predict` or a function under compilation there
    are no values to collect and it raises.

    Example:

    >>> import keras, keras_moe
    >>> layer = keras_moe.layers.SoftMoE(4, 2, intermediate_dim=8)
    >>> with keras_moe.diagnostics.capture() as plans:
    ...     outputs = layer(keras.random.normal((2, 10, 6)))
    >>> dispatch, combine = plans[layer.path].weights()
    >>> tuple(dispatch.shape)  # (groups, tokens, experts, slots)
    (2, 10, 4, 2)
    """
    plans = Plans()
    _captures.append(plans)
    try:
        yield plans
    finally:
        _captures.pop()


def record(layer, plan):
    """Hand a layer's plan to every open `capture()` block."""
    if not _captures:
        return
    if _is_traced(getattr(plan, "gate", None), getattr(plan, "tokens", None)):
        raise RuntimeError(
            "capture() sees eager calls only, and "
            f"{layer.path!r} is being compiled. Call model(x) instead of "
            "fit, evaluate or predict inside the block."
        )
    plan = _snapshot(plan)
    for plans in _captures:
        path, times = layer.path, 1
        while path in plans:
            times += 1
            path = f"{layer.path}#{times}"
        plans[path] = plan
        plans.layers[path] = layer


def _snapshot(plan):
    """The plan, safe from training, which may change weights in place.

    A soft plan holds some weights of its layer as they are, and computes from
    them when asked.
    """
    if isinstance(plan, routing.HardPlan):
        return plan
    copies = {}
    for name in ("slots", "merge_temperature", "emit_temperature"):
        value = getattr(plan, name)
        if not isinstance(value, (int, float, type(None))):
            copies[name] = ops.copy(value)
    return dataclasses.replace(plan, **copies)


def _is_traced(*arrays):
    """Whether an array stands for values that a compiler will fill in."""
    backend = keras.backend.backend()
    arrays = [a for a in arrays if a is not None]
    if backend == "jax":
        import jax

        return any(isinstance(a, jax.core.Tracer) for a in arrays)
    if backend == "tensorflow":
        import tensorflow as tf

        return any(tf.is_symbolic_tensor(a) for a in arrays)
    import torch

    return torch.compiler.is_compiling()


def summarize(plan) -> dict:
    """Tell in numbers how a plan spreads its tokens over the experts.

    Args:
        plan: a `routing.SoftPlan` or `routing.HardPlan`, as from `capture`.

    Returns:
        A dictionary of numpy values. Masked tokens count nowhere.

        - `load`: (E,), sums to one. Share of each expert in what the tokens
          receive: of the combine weights (soft) or of the taken seats (hard).
        - `dropped`: share of the tokens that no expert serves.
        - `entropy`: how evenly a token that is served spreads over experts,
          mean over tokens; 0 is one expert, 1 all of them equally.
        - `similarity`: mean cosine between what two different slots (soft) or
          experts (hard) of a group read; 1 means they all read the same.

    Example:

    >>> import keras, keras_moe
    >>> layer = keras_moe.layers.ExpertChoiceMoE(4, 1.0, intermediate_dim=8)
    >>> with keras_moe.diagnostics.capture() as plans:
    ...     outputs = layer(keras.random.normal((2, 16, 6)))
    >>> facts = keras_moe.diagnostics.summarize(plans[layer.path])
    >>> [float(share) for share in facts["load"]]  # balanced by construction
    [0.25, 0.25, 0.25, 0.25]
    """
    if isinstance(plan, routing.SoftPlan):
        read, received = (ops.convert_to_numpy(w) for w in plan.weights())
        groups, tokens, _, _ = read.shape
        read = read.reshape(groups, tokens, -1)  # (G,T,E·S)
        received = received.sum(axis=-1)  # (G,T,E)
        load = received.sum(axis=(0, 1))
    elif isinstance(plan, routing.HardPlan):
        read, received = _seats_by_token(plan)
        load = read.sum(axis=(0, 1))
    else:
        raise ValueError(
            "plan must be a SoftPlan or a HardPlan, as capture() yields; "
            f"received {plan!r}."
        )
    seen = np.ones(received.shape[:2], "bool")
    if plan.mask is not None:
        seen = ops.convert_to_numpy(plan.mask)
    served = received.sum(axis=-1) > 0
    return {
        "load": load / max(load.sum(), 1e-30),
        "dropped": float(1.0 - served[seen].mean()) if seen.any() else 0.0,
        "entropy": _entropy(received[served]),
        "similarity": _similarity(read),
    }


def _seats_by_token(plan):
    """Seats and gates of a hard plan, added up by token: two (G,T,E)."""
    token = ops.convert_to_numpy(plan.token)
    gate = ops.convert_to_numpy(plan.gate)
    groups, experts, _ = token.shape
    seats = np.zeros((groups, int(plan.num_tokens), experts), "float32")
    gates = np.zeros_like(seats)
    group, expert, seat = np.nonzero(gate)
    where = (group, token[group, expert, seat], expert)
    np.add.at(seats, where, 1.0)
    np.add.at(gates, where, gate[group, expert, seat])
    return seats, gates


def _entropy(received):
    """Mean entropy of the rows, in units of the largest possible."""
    rows, experts = received.shape
    if rows == 0 or experts == 1:
        return 0.0
    share = received / received.sum(axis=-1, keepdims=True)
    logs = np.log(np.where(share > 0, share, 1.0))
    return float(-(share * logs).sum(axis=-1).mean() / np.log(experts))


def _similarity(read):
    """Mean cosine between two different columns of each (T,C)."""
    length = np.linalg.norm(read, axis=1, keepdims=True)
    unit = read / np.maximum(length, 1e-30)  # (G,T,C)
    columns = unit.shape[-1]
    if columns == 1:
        return 1.0
    # All pairs at once: |sum of the unit columns|² counts each with itself.
    everything = np.square(unit.sum(axis=-1)).sum(axis=-1)
    itself = np.square(unit).sum(axis=(1, 2))
    return float(((everything - itself) / (columns * (columns - 1))).mean())


class RouterMonitor(keras.callbacks.Callback):
    """Logs after each epoch how the routers treat the inputs `x`.

    For each keras_moe layer the epoch's logs (and so `History`, and every
    callback behind this one, such as `TensorBoard`) get `<path>/max_load` (the
    largest share of an expert, times E: 1 is balanced), `<path>/dropped`,
    `<path>/entropy` and `<path>/similarity`, see `summarize`.

    Args:
        x: inputs for one eager call of the model, a small batch.

    Example:

    >>> import keras, keras_moe, numpy as np
    >>> model = keras.Sequential(
    ...     [keras_moe.layers.SoftMoE(4, 1, intermediate_dim=8, name="moe")],
    ...     name="model")
    >>> model.compile(loss="mse")
    >>> x = np.ones((2, 6, 3), "float32")
    >>> history = model.fit(x, x, verbose=0,
    ...     callbacks=[keras_moe.diagnostics.RouterMonitor(x)])
    >>> [name for name in history.history if name.endswith("dropped")]
    ['model/moe/dropped']
    """

    def __init__(self, x):
        super().__init__()
        self.x = x

    def on_epoch_end(self, epoch, logs=None):
        with capture() as plans:
            self.model(self.x, training=False)
        if not plans:
            raise ValueError(
                "RouterMonitor found no keras_moe layer in the model "
                f"{self.model.name!r}."
            )
        for path, plan in plans.items():
            facts = summarize(plan)
            load = facts.pop("load")
            facts["max_load"] = float(load.max() * load.size)
            if logs is not None:
                logs.update({f"{path}/{k}": float(v) for k, v in facts.items()})
