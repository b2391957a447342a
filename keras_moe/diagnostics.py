"""Look at what routers decide: `capture`, `summarize`, `RouterMonitor`."""

import contextlib
import contextvars

import keras
import numpy as np

from keras_moe import checks
from keras_moe import plan_arrays
from keras_moe.captured import Plans
from keras_moe.captured import Slots

__all__ = [
    "Plans",
    "RouterMonitor",
    "Slots",
    "capture",
    "collect",
    "open_blocks",
    "record",
    "record_slots",
    "summarize",
]

# The open blocks of all threads: layers look here first, as it costs nothing.
open_blocks: dict[int, Plans] = {}  # by id
# Those of this thread or asyncio task.
_open = contextvars.ContextVar("open blocks of capture()", default=())


@contextlib.contextmanager
def capture(*, slots: bool = False):
    """Collect the plan of every keras_moe layer that runs in this block.

    The block yields a dictionary from `layer.path` to the layer's plan (a
    `routing.SoftPlan`, `HardPlan` or `GroupedPlan`), whose attribute `layers`
    is one from the same names to the layers. Further calls of one layer are
    called `path#2`, `path#3`, …; other layers that have the same path `path@2`,
    `path@3`, … (and the second call of such a layer `path@2#2`).

    It sees eager calls, such as `model(x)`, of its own thread or asyncio task
    and the tasks begun in the block. Keras' own calls on shapes, by which it
    builds a model, hold no values and are left out. `fit`, `evaluate` and
    `predict` are eager on PyTorch; on JAX and TensorFlow they are compiled.

    Args:
        slots: whether to keep the experts' slots too, in the attribute
            `slots`, a dictionary from the same names to `Slots`, such as for
            the share of hidden features that are never active.

    Raises:
        RuntimeError: if a layer is compiled in the block; on leaving the block
            if no layer was seen in it.

    Example:

    >>> import keras, keras_moe
    >>> layer = keras_moe.layers.SoftMoE(4, 2, intermediate_dim=8)
    >>> with keras_moe.diagnostics.capture() as plans:
    ...     outputs = layer(keras.random.normal((2, 10, 6)))
    >>> dispatch, combine = plans[layer.path].weights()
    >>> tuple(dispatch.shape)  # (groups, tokens, experts, slots)
    (2, 10, 4, 2)
    >>> with keras_moe.diagnostics.capture(slots=True) as plans:
    ...     outputs = layer(keras.random.normal((2, 10, 6)))
    >>> tuple(plans.slots[layer.path].hidden.shape)
    (2, 4, 2, 8)
    """
    with collect(checks.flag("slots", slots)) as plans:
        yield plans
    if not plans:
        raise RuntimeError(
            "capture() saw no keras_moe layer in its block. It sees eager "
            "calls in its own thread, such as model(x); not fit, evaluate or "
            "predict of a model that was compiled before, other threads, nor "
            "calls on keras.Input."
        )


@contextlib.contextmanager
def collect(slots=False):
    """As `capture`, for callers that say themselves what no plan means."""
    plans = Plans(slots)
    open_blocks[id(plans)] = plans
    _open.set((*_open.get(), plans))
    try:
        yield plans
    finally:
        # Blocks may end in another order than they began. A task begun in the
        # block holds it in a context of its own, so it is closed besides.
        plans.closed = True
        del open_blocks[id(plans)]
        _open.set(tuple(p for p in _open.get() if p is not plans))


def record(layer, plan):
    """Hand a layer's plan to every open `capture()` block."""
    if not _is_seen():
        return
    if not _has_values(plan_arrays.group_arrays(plan).values()):
        raise RuntimeError(
            f"capture() sees eager calls only, and {layer.path!r} has no "
            "values: it is being compiled, traced or on the device 'meta'. "
            "Call model(x) instead of fit, evaluate or predict inside the "
            "block."
        )
    plan = plan_arrays.snapshot(plan)
    for plans in _blocks():
        plans.add(layer, plan)


def record_slots(layer, inputs, outputs):
    """Add a layer's slots to each open `capture(slots=True)` block."""
    collections = [plans for plans in _blocks() if plans.slots is not None]
    if not collections or not _is_seen():
        return
    hidden = None
    # Experts that are spread over processes have hidden features elsewhere.
    here = layer.experts.exchange is None
    if here and len(inputs.shape) == 4:
        hidden = layer.experts.hidden(inputs)
    for plans in collections:
        plans.add_slots(layer, Slots(inputs, hidden, outputs))


def _blocks():
    return [plans for plans in _open.get() if not plans.closed]


def _is_seen():
    """Whether a block is open here and Keras does not just work out shapes."""
    if not _blocks():
        return False
    # Keras has no public question for it; a scope knows the one around it.
    with keras.SymbolicScope() as scope:
        return scope.original_scope is None


if keras.backend.backend() == "torch":
    import torch

    # Its compiler does not read context variables.
    _is_seen = torch.compiler.assume_constant_result(_is_seen)


def _has_values(arrays):
    """Whether arrays hold values, not what a compiler will fill in."""
    backend = keras.backend.backend()
    arrays = [a for a in arrays if a is not None]
    if backend == "jax":
        import jax

        return not any(isinstance(a, jax.core.Tracer) for a in arrays)
    if backend == "tensorflow":
        import tensorflow as tf

        return not any(tf.is_symbolic_tensor(a) for a in arrays)
    import torch

    return not torch.compiler.is_compiling() and not any(
        a.is_meta for a in arrays
    )


def summarize(plan) -> dict:
    """Tell in numbers how a plan spreads its tokens over the experts.

    Args:
        plan: a `routing.SoftPlan`, `HardPlan` or `GroupedPlan`, as from
            `capture`.

    Returns:
        A dictionary of numpy values. Masked tokens count nowhere.

        - `load`: (E,), sums to one. Share of each expert in what the tokens
          receive: of the combine weights (soft) or of the taken capacity slots
          (hard).
        - `dropped`: share of the tokens that no expert serves.
        - `entropy`: how evenly a token that is served spreads over experts,
          mean over tokens; 0 is one expert, 1 all of them equally.
        - `similarity`: mean cosine between what two different slots (soft) or
          experts (hard) of a group read; 1 means they all read the same.
          One that reads nothing in a group counts for no pair there; 0 if
          there is no pair, 1 with a single slot or expert.

    Raises:
        ValueError: if `plan` is none.

    Example:

    >>> import keras, keras_moe
    >>> layer = keras_moe.layers.ExpertChoiceMoE(4, 1.0, intermediate_dim=8)
    >>> with keras_moe.diagnostics.capture() as plans:
    ...     outputs = layer(keras.random.normal((2, 16, 6)))
    >>> facts = keras_moe.diagnostics.summarize(plans[layer.path])
    >>> [float(share) for share in facts["load"]]  # balanced by construction
    [0.25, 0.25, 0.25, 0.25]
    """
    read, received = plan_arrays.shares(plan)
    hard = plan_arrays.kind(plan).hard
    load = (read.sum(axis=-1) if hard else received).sum(axis=(0, 1))
    seen = plan_arrays.seen(plan, received.shape[:2])
    # A token that passes `MixtureOfDepths` may have a negative weight.
    served = (read.sum(axis=-1) if hard else received).sum(axis=-1) > 0
    return {
        "load": load / max(load.sum(), 1e-30),
        "dropped": float(1.0 - served[seen].mean()) if seen.any() else 0.0,
        "entropy": _entropy(received[served]),
        "similarity": _similarity(read.reshape(*read.shape[:2], -1)),
    }


def _entropy(received):
    """Mean entropy of the rows, in units of the largest possible."""
    rows, experts = received.shape
    if rows == 0 or experts == 1:
        return 0.0
    share = received / received.sum(axis=-1, keepdims=True)
    logs = np.log(np.where(share > 0, share, 1.0))
    return _share(-(share * logs).sum(axis=-1).mean() / np.log(experts))


def _similarity(read):
    """Mean cosine of two different columns of each (T,C) that both read."""
    unit, reads = plan_arrays.unit_columns(read)
    if read.shape[-1] == 1:
        return 1.0
    number = reads.sum(axis=-1)  # columns of a group that read anything
    pairs = (number * (number - 1)).sum()
    if pairs == 0:
        return 0.0
    # All pairs at once: |sum of the unit columns|² counts each with itself.
    everything = np.square(unit.sum(axis=-1)).sum()
    itself = np.square(unit).sum()
    return _share((everything - itself) / pairs)


def _share(value):
    """A number from 0 to 1 where rounding went beyond; zero has no sign."""
    return float(np.clip(value, 0.0, 1.0)) + 0.0


class RouterMonitor(keras.callbacks.Callback):
    """Logs after each epoch how the routers treat the inputs `x`.

    For each keras_moe layer the epoch's logs (and so `History`, and every
    callback behind this one, such as `TensorBoard`) get `<path>/max_load` (the
    largest share of an expert, times E: 1 is balanced), `<path>/dropped`,
    `<path>/entropy` and `<path>/similarity`, see `summarize`.

    Args:
        x: inputs for one eager call of the model, a small batch.

    Raises:
        ValueError: if `x` is no array or structure of arrays, or empty, or
            the model has no keras_moe layer.

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
        self.x = checks.batch("x", x)

    def on_epoch_end(self, epoch, logs=None):
        with collect() as plans:
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
