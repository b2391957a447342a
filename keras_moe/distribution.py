"""Many devices: experts spread over them, the batch too.

`expert_parallel` is for JAX, where `keras.distribution` shards weights. What
the backends offer, with Keras 3.15:

- **JAX.** `expert_parallel()` gives each device a part of each layer's experts
  and a part of the batch. Layers exchange slots, or the rows of dropless token
  choice, between the devices of tokens and those of experts. Every router is
  tested on 8 virtual devices of a CPU. Where each device can hold all experts,
  `keras.distribution.DataParallel()` needs nothing of this module: it shards
  the batch alone.
- **TensorFlow.** `tf.distribute.MirroredStrategy` copies the model to each
  device and shards the batch: build and compile in `with strategy.scope():`,
  then `fit`. Under `MultiWorkerMirroredStrategy` Keras' `fit` raises an error;
  `strategy.run(model.train_step, …)` in a loop of one's own trains. Keras
  offers no sharding of weights.
- **PyTorch.** Keras' `fit` runs on one device. A Keras model is a
  `torch.nn.Module`, which `torch.nn.parallel.DistributedDataParallel` wraps
  for a training loop of your own: one process a device, each with its part of
  the batch. `spread_experts` gives each process a part of the experts;
  `synchronize_routers` lets thresholds and balance biases see all parts of
  the batch; `gather_batch` gathers embeddings for a contrastive loss.

`guides/6_many_devices.py` trains a small Soft MoE with `expert_parallel`,
`MirroredStrategy` and `DistributedDataParallel`, on virtual devices of a CPU,
to the losses of one device. Tests train in two processes on each backend.
Nothing was run on accelerators or on several machines.

Routers that group tokens over the batch (Mixture of Tokens; a `group_size`)
see the batch of the whole mesh on JAX, and that of one device on the others.
"""

import math

import keras

from keras_moe import checks
from keras_moe.processes import gather_batch
from keras_moe.processes import spread_experts
from keras_moe.processes import synchronize_routers
from keras_moe.processes import whole_experts

__all__ = [
    "ANSWERS",
    "DATA",
    "EXPERT",
    "HIDDEN",
    "JointLayout",
    "SLOTS",
    "WEIGHTS",
    "batch_shards",
    "exchange",
    "expert_parallel",
    "gather_batch",
    "layout_map",
    "spread_experts",
    "synchronize_routers",
    "whole_experts",
]

DATA = "data"
EXPERT = "expert"
# Paths of weights and of tensors, and how many axes these have.
WEIGHTS = r"(?:.*/)?experts/(?:up|gate|down)/(?:kernel|bias)"
# KerasHub's banks of experts, which are quantised or have adapters (LoRA), too.
_BANKS = (
    r"(?:.*/)?(?:experts|moe_expert_bank)/(?:lora_)?(?:expert_feedforward_"
    r"(?:gate|intermediate|output)_dense|(?:gate_up|gate|up|down)_proj)"
    r"(?:_scale|_a|_b)?"
)
_BANK_BIASES = r"(?:.*/)?experts/(?:gate_up|down)_proj_bias"
HIDDEN = r"(?:.*/)?experts/(?:input|(?:up|gate|down)/output)"
SLOTS = r"(?:.*/)?slots"
ANSWERS = r"(?:.*/)?experts/output"


def expert_parallel(
    expert_devices: int | None = None,
    devices: list[str] | None = None,
    **kwargs,
):
    """Sends tokens to the devices that hold their experts. JAX only.

    The devices form a mesh, `data` x `expert`. Each row of `expert` devices
    holds every layer's experts once, an E-th part of them each; the rows hold
    copies. The batch is cut into as many parts as there are devices. All
    other weights are on every device.

    A layer's routing runs where the tokens are. The slots of a row's devices
    are exchanged (an all-to-all), so that each device has those of its own
    experts, and exchanged back. Neither weights nor tokens are gathered.

    Dropless token choice exchanges rows. A device has room for the case that
    all tokens of its row choose its experts: T · min(top_k, its experts) rows
    for T tokens of the row. It multiplies the rows that come.

    Args:
        expert_devices: length of `expert`, which must divide every layer's
            number of experts, and the number of devices. By default all
            devices.
        devices: such as `["gpu:0", "gpu:1"]`; by default all there are.
        **kwargs: `auto_shard_dataset` of `keras.distribution.Distribution`.

    Returns:
        A `keras.distribution.Distribution`, for
        `keras.distribution.set_distribution` or `with ….scope():`. The model
        is built under it. The size of a batch must be a multiple of the number
        of devices.

    Raises:
        ValueError: for an argument that does not fit, or another backend.

    Example:

    >>> import keras, keras_moe.distribution
    >>> if keras.backend.backend() == "jax":
    ...     spread = keras_moe.distribution.expert_parallel()
    ...     with spread.scope():
    ...         model = keras.Sequential([keras.Input((16, 8)),
    ...             keras_moe.layers.SoftMoE(8, 2, intermediate_dim=32)])
    """
    if keras.backend.backend() != "jax":
        raise ValueError(
            "expert_parallel needs the JAX backend, as keras.distribution "
            f"does; received backend {keras.backend.backend()!r}."
        )
    devices = keras.distribution.list_devices() if devices is None else devices
    count = len(devices)
    expert_devices = checks.optional_integer("expert_devices", expert_devices)
    expert_devices = count if expert_devices is None else expert_devices
    if count % expert_devices:
        raise ValueError(
            f"expert_devices must divide the number of devices, {count}; "
            f"received {expert_devices}."
        )
    mesh = keras.distribution.DeviceMesh(
        (count // expert_devices, expert_devices), (DATA, EXPERT), devices
    )
    return _ExpertParallel(
        layout_map=layout_map(mesh), batch_dim_name=DATA, **kwargs
    )


def layout_map(mesh):
    """Map weights and tensors to devices: a `keras.distribution.LayoutMap`.

    For one's own `keras.distribution.ModelParallel`. Experts lie along the
    mesh's axis `"expert"`, groups of tokens along all axes. KerasHub's banks
    of experts are known too, also with `use_sparse_experts`,
    `quantize_experts` and `enable_expert_lora`.

    Args:
        mesh: a `keras.distribution.DeviceMesh` with the axis `"expert"`.

    Raises:
        ValueError: for a mesh without that axis.
    """
    if EXPERT not in mesh.axis_names:
        raise ValueError(
            f"mesh must have an axis {EXPERT!r}; received one with the axes "
            f"{tuple(mesh.axis_names)}."
        )
    others = tuple(name for name in mesh.axis_names if name != EXPERT)
    layouts = keras.distribution.LayoutMap(mesh)
    layouts[WEIGHTS] = (EXPERT, None, None)
    layouts[_BANKS] = (EXPERT, None, None)
    layouts[_BANK_BIASES] = (EXPERT, None)
    everywhere = tuple(mesh.axis_names)
    # (G,E,S,…): every device its groups; the experts their slots; and back.
    layouts[SLOTS] = JointLayout((everywhere,), mesh)
    layouts[HIDDEN] = JointLayout((others or None, EXPERT), mesh)
    layouts[ANSWERS] = JointLayout((everywhere,), mesh)
    return layouts


class JointLayout(keras.distribution.TensorLayout):
    """A layout that may cut one axis along several axes of the mesh.

    Args:
        joint: for each of the first axes of a tensor, the names of the mesh's
            axes that it is cut along, or `None`.
        mesh: a `keras.distribution.DeviceMesh`.
    """

    def __init__(self, joint, mesh):
        # Keras' own axes are single names.
        super().__init__((), mesh)
        self.joint = tuple(joint)

    @property
    def backend_layout(self):
        from jax import sharding

        return sharding.NamedSharding(
            self.device_mesh.backend_mesh, sharding.PartitionSpec(*self.joint)
        )


class _ExpertParallel(keras.distribution.ModelParallel):
    """`ModelParallel` whose batch is cut along both axes of the mesh."""

    def get_data_layout(self, data_shape):
        return JointLayout((_batch_axes(self),), self.device_mesh)

    @property
    def num_model_replicas(self):
        return self.device_mesh.devices.size


def _batch_axes(active) -> tuple:
    """Name the axes of a distribution's mesh that cut the batch."""
    if isinstance(active, _ExpertParallel):
        return tuple(active.device_mesh.axis_names)
    return (active.batch_dim_name,)


def batch_shards() -> int:
    """On how many devices the active distribution cuts the batch, or 1."""
    active = keras.distribution.distribution()
    if active is None:
        return 1
    mesh = active.device_mesh
    sizes = dict(zip(mesh.axis_names, mesh.shape))
    return math.prod(int(sizes[name]) for name in _batch_axes(active))


def by_groups(function, *arrays):
    """Run a function of groups (G,…) on each device for those it holds. JAX.

    Without a distribution, or where the groups do not divide evenly among its
    devices, run the function once for all groups.
    """
    active = keras.distribution.distribution()
    count = batch_shards()
    groups = arrays[0].shape[0]
    if count == 1 or not isinstance(groups, int) or groups % count:
        return function(*arrays)
    import jax

    own = jax.sharding.PartitionSpec(_batch_axes(active))
    return jax.shard_map(
        function,
        mesh=active.device_mesh.backend_mesh,
        in_specs=own,
        out_specs=own,
        check_vma=False,
    )(*arrays)


def knows_layout() -> bool:
    """Test whether experts are laid out by `expert_parallel`, or are whole."""
    active = keras.distribution.distribution()
    return isinstance(
        active, (_ExpertParallel, keras.distribution.DataParallel)
    )


def exchange(layer, slots):
    """Bring slots (G,E,S,D) from where their tokens are to their experts.

    Both places are named, as a compiler that knows one alone may rather
    gather all tokens, or all experts' weights, for the gradients.

    Args:
        layer: whose slots these are.
        slots: returned as they are where the active distribution has no layout
            for them.
    """
    distribution = keras.distribution.distribution()
    if len(slots.shape) == 2:  # rows of a grouped plan, which has brought them
        return slots
    for name in ("slots", "experts/input"):
        layout = distribution.get_tensor_layout(f"{layer.path}/{name}")
        if layout is not None:
            slots = keras.distribution.distribute_tensor(slots, layout)
    return slots


def experts_here(kernel) -> int:
    """Count the experts of a kernel (E,D,F) that this process can read."""
    if keras.backend.backend() == "jax":
        from keras_moe import jax_processes

        if jax_processes.in_parts(kernel.value):
            return jax_processes.rows_here(kernel.value)
    return int(kernel.shape[0])
