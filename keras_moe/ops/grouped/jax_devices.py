"""Grouped products on JAX where tokens, and perhaps experts, lie on devices.

    tokens (N,D) -> pairs of each device, sorted by expert
      -> all-to-all -> rows of the device's experts, sorted again
      -> experts -> all-to-all -> tokens (N,D)

Each of n devices has N/n tokens. Where experts are spread, m devices hold E/m
experts each, and a device receives at most R = N/n · min(k, E/m) rows from each
of these m, whatever the router chooses: shapes are static, and no row is lost
where one expert takes all tokens. Loops run over the tiles that hold rows.
Where every device holds all experts, m is 1 and nothing is exchanged.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import keras
from jax.sharding import PartitionSpec
from keras import ops

from keras_moe import distribution
from keras_moe import indexing
from keras_moe.ops.grouped import jax as one_device
from keras_moe.ops.grouped.made import MadeKernels
from keras_moe.ops.reference import Dispatcher
from keras_moe.plans import GroupedPlan


def prepare(plan, dtype):
    """Compute on each device which rows it sends, and which it receives."""
    mesh = keras.distribution.distribution().device_mesh.backend_mesh
    axis = distribution.EXPERT
    axis = axis if mesh.shape.get(axis, 1) > 1 else None
    local = functools.partial(
        _routes,
        experts=plan.num_experts,
        axis=axis,
        devices=_devices_along(axis, mesh),
    )
    everywhere = PartitionSpec(mesh.axis_names)
    expert = plan.expert.reshape(-1, plan.expert.shape[2])
    routes = _on_each_device(mesh, local, everywhere)(expert)
    return DevicesDispatcher(plan, routes, mesh, axis)


def _devices_along(axis, mesh) -> int:
    return mesh.shape[axis] if axis else 1


def _on_each_device(mesh, function, in_specs):
    """Run a function on each device; outputs lie one behind another."""
    return jax.shard_map(
        function,
        mesh=mesh,
        in_specs=in_specs,
        out_specs=PartitionSpec(mesh.axis_names),
        check_vma=False,
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Routes:
    """Rows that one device sends and receives; m, R, k and E as above.

    Args:
        token: int32 (m·R,), the token of each row that is sent.
        sent: Boolean (m·R,), whether there is one.
        place: int32 (N/n,k), the row of each pair among those sent.
        order: int32 (m·R,), sorts the rows received by expert.
        inverse: int32 (m·R,), of `order`.
        owner: int32 (m·R,), which of the device's experts each sorted row has.
        bounds: int32 (E/m+1,), where each expert's sorted rows begin and end.
    """

    token: Any
    sent: Any
    place: Any
    order: Any
    inverse: Any
    owner: Any
    bounds: Any


def _routes(expert, *, experts, axis, devices):
    """Compute the routes of one device from the choices (N/n,k) of its own."""
    number, choices = expert.shape
    pairs, bounds = GroupedPlan(expert[None], None, experts).by_expert()
    own = experts // devices
    width = number * min(choices, own)  # R
    first, last = bounds[:-1:own], bounds[own::own]  # (m,)
    index = first[:, None] + jnp.arange(width, dtype=first.dtype)  # (m,R)
    sent = index < last[:, None]
    token = pairs[jnp.minimum(index, number * choices - 1)] // choices

    device = jnp.minimum(expert // own, devices - 1)  # some, where masked
    row = indexing.inverse(pairs).reshape(number, choices) - first[device]
    place = device * width + jnp.minimum(row, width - 1)

    counts = (bounds[1:] - bounds[:-1]).reshape(devices, own)
    counts = _exchanged(counts, axis)  # of each device that sends
    ends = jnp.cumsum(counts, axis=1)
    search = functools.partial(jnp.searchsorted, side="right")
    owner = jax.vmap(search, (0, None))(ends, jnp.arange(width)).reshape(-1)
    order = jnp.argsort(owner, stable=True).astype("int32")
    total = jnp.cumsum(counts.sum(axis=0))
    return Routes(
        token.reshape(-1),
        sent.reshape(-1),
        place,
        order,
        indexing.inverse(order),
        jnp.minimum(owner[order], own - 1),
        jnp.concatenate([jnp.zeros_like(total[:1]), total]).astype("int32"),
    )


def _exchanged(blocks, axis):
    """(m,…): block j goes to device j, whose block i comes from device i."""
    if axis is None:
        return blocks
    return jax.lax.all_to_all(blocks, axis, 0, 0)


def _exchanged_rows(rows, axis, devices):
    blocks = rows.reshape(devices, -1, rows.shape[-1])
    return _exchanged(blocks, axis).reshape(rows.shape)


@dataclasses.dataclass(frozen=True, repr=False)
class DevicesDispatcher(Dispatcher):
    """The routes of all devices, one behind another."""

    plan: Any
    routes: Routes
    mesh: Any
    axis: Any

    @property
    def _everywhere(self):
        return PartitionSpec(self.mesh.axis_names)

    @property
    def _by_expert(self):
        return PartitionSpec(self.axis) if self.axis else PartitionSpec()

    @property
    def _devices(self):
        return _devices_along(self.axis, self.mesh)

    def _on_each(self, function, *arrays):
        """Run a function of each device's routes, and of (array, spec)…"""
        specs = self._everywhere, *(spec for _, spec in arrays)
        run = _on_each_device(self.mesh, function, specs)
        return run(self.routes, *(array for array, _ in arrays))

    def dispatch(self, tokens):
        """(G,T,D) -> (n·m·R,D): send each token to its experts' devices."""

        def local(routes, tokens):
            rows = jnp.where(routes.sent[:, None], tokens[routes.token], 0)
            rows = _exchanged_rows(rows, self.axis, self._devices)
            return rows[routes.order]

        flat = tokens.reshape(-1, tokens.shape[-1])
        return self._on_each(local, (flat, self._everywhere))

    def product(self, rows, kernels):
        """The rows of each expert by its kernel, on the expert's device."""
        made = isinstance(kernels, MadeKernels)
        arrays = (*kernels.arrays, *kernels.shared) if made else (kernels,)
        own = self.plan.num_experts // self._devices

        def local(routes, rows, *arrays):
            local_kernels = arrays[0]
            if made:
                count = len(kernels.arrays)
                local_kernels = dataclasses.replace(
                    kernels,
                    arrays=arrays[:count],
                    shared=arrays[count:],
                    shape=(own, *kernels.shape[1:]),
                )
            multiply = one_device.multiplier(
                routes.bounds, rows.shape[0], own, self.plan.gate
            )
            return multiply(rows, local_kernels)

        sliced = len(kernels.arrays) if made else 1
        return self._on_each(
            local,
            (rows, self._everywhere),
            *((array, self._by_expert) for array in arrays[:sliced]),
            *((array, PartitionSpec()) for array in arrays[sliced:]),
        )

    def shift(self, rows, biases):
        """Add its expert's bias to each row: (…,F) + (E,1,F)."""

        def local(routes, rows, biases):
            biases = biases[:, 0].astype(indexing.wide(rows.dtype))
            return rows + biases[routes.owner].astype(rows.dtype)

        return self._on_each(
            local, (rows, self._everywhere), (biases, self._by_expert)
        )

    def combine(self, rows):
        """(n·m·R,D) -> (G,T,D): add up, weighed, the rows of each token."""

        def local(routes, rows, gate):
            rows = rows[routes.inverse]
            rows = _exchanged_rows(rows, self.axis, self._devices)
            return sum(
                rows[routes.place[:, j]] * gate[:, j, None]
                for j in range(gate.shape[1])
            )

        groups, length, choices = self.plan.gate.shape
        gate = ops.cast(self.plan.gate, rows.dtype).reshape(-1, choices)
        tokens = self._on_each(
            local, (rows, self._everywhere), (gate, self._everywhere)
        )
        return tokens.reshape(groups, length, rows.shape[-1])
