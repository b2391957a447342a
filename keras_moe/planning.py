"""Costs of a model: parameters, FLOPs and memory, from shapes alone.

Nothing here makes a weight or runs a layer.
"""

import dataclasses
import math

from keras_moe import costs
from keras_moe.costs import Part
from keras_moe.costs import flops
from keras_moe.costs import parts

__all__ = [
    "BYTES",
    "Part",
    "Plan",
    "TRAINING_BYTES",
    "flops",
    "parts",
    "plan",
]

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# Bytes of a parameter in training: float32 with its gradient and Adam's two
# moments. At inference it has the dtype of the activations.
TRAINING_BYTES = 16


@dataclasses.dataclass(frozen=True)
class Plan:
    """Costs of a model on each of several devices; sizes in bytes."""

    parameters: int
    expert_parameters: int
    flops: int
    expert_devices: int
    parameter_bytes: int
    activation_bytes: int
    device_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.parameter_bytes + self.activation_bytes

    @property
    def fits(self) -> bool:
        return self.total_bytes <= self.device_bytes


def plan(
    backbone,
    shapes: dict[str, tuple],
    devices: int,
    device_bytes: int,
    batch: int = 1,
    training: bool = True,
    dtype: str = "float32",
) -> Plan:
    """Estimate what each device holds, with experts spread over devices.

    As in `keras_moe.distribution.expert_parallel`: a device has a part of each
    layer's experts (of as many devices as divide both), all other parameters,
    and the activations of its part of the batch.

    In training a parameter takes 16 bytes (float32, gradient, Adam's moments),
    and all that a backward pass reads is kept, with attention weights written
    out. With the backbone's `recompute=True`, the input of each block is kept,
    and the rest of one block at a time. At inference a parameter has the dtype
    of the activations, and the part of the model that keeps most is what there
    is at a time. What the compiler adds or saves, and the buffers of exchanges,
    are left out: expect tens of percent.

    Args:
        backbone: as in `flops`.
        shapes: shapes of its weights, as `keras_moe.models.weight_shapes`
            returns them.
        devices: how many.
        device_bytes: memory of one.
        batch: examples on each device.
        training: or inference.
        dtype: dtype of the activations, `"float32"`, `"bfloat16"` or
            `"float16"`.
    """
    sizes = {path: math.prod(shape) for path, shape in shapes.items()}
    in_experts = sum(n for path, n in sizes.items() if "/experts/" in path)
    total = sum(sizes.values())
    options = getattr(backbone, "router_options", None) or {}
    expert_devices = math.gcd(devices, options.get("num_experts", 1))
    here = total - in_experts + in_experts // expert_devices
    kept = _kept_bytes(backbone, BYTES[dtype], training)
    return Plan(
        parameters=total,
        expert_parameters=in_experts,
        flops=flops(backbone),
        expert_devices=expert_devices,
        parameter_bytes=here * (TRAINING_BYTES if training else BYTES[dtype]),
        activation_bytes=int(batch * kept),
        device_bytes=device_bytes,
    )


def _kept_bytes(backbone, number, training):
    """Bytes of the activations of an example; `number` is those of one."""
    of_parts = parts(backbone)
    saved = [p.kept * number + 4 * p.kept_float32 for p in of_parts]
    if not training:
        return max(saved)
    if not backbone.recompute:
        return sum(saved)
    length, _ = costs.embedding(backbone, None)
    passing = costs.tokens_passing(backbone, length)
    inputs = sum(passing.get(i, length) for i in range(backbone.num_layers))
    total = inputs * backbone.hidden_dim * number
    blocks = [0] * backbone.num_layers
    for part, size in zip(of_parts, saved):
        name, _, kind = part.name.partition("/")
        if kind in ("attention", "mlp"):
            blocks[int(name.removeprefix("block_"))] += size
        else:  # the embedding, and routers of `depth_layers`
            total += size
    return total + max(blocks)
