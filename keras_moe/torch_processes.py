"""Experts spread over the processes of a group, on PyTorch.

Each of n processes holds E/n experts of every layer, and all other weights.
What a call sends is in `torch_exchanges`.
"""

import contextlib

import keras
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from keras_moe import checks
from keras_moe.layers.base import MoELayer
from keras_moe.layers.experts import FeedForwardExperts
from keras_moe.layers.mixture_of_depths import MixtureOfDepths
from keras_moe.processes import optimizer_of
from keras_moe.torch_exchanges import Exchange
from keras_moe.torch_exchanges import Joint


class _AllGather(torch.autograd.Function):
    """(B,…) of each process -> (n·B,…) of all; the sum of gradients back."""

    @staticmethod
    def forward(ctx, array, group):
        ctx.group = group
        return Joint(group).gather(array)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        grad = grad.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(grad, group=ctx.group)
        parts = grad.chunk(distributed.get_world_size(ctx.group))
        return parts[distributed.get_rank(ctx.group)], None


def gather(arrays, group) -> list:
    """Gather arrays (B,…) of all processes, with gradients: (n·B,…)."""
    _check_group(group)
    for array in arrays:
        if not isinstance(array, torch.Tensor) or not array.ndim:
            raise ValueError(
                "arrays must be tensors of PyTorch with a batch axis; "
                f"{checks.received(array)}."
            )
    return [_AllGather.apply(array, group) for array in arrays]


def synchronize(model, group) -> list:
    """Let routers see the joint batch; return the paths of their layers."""
    _check_group(group)
    layers = [
        layer
        for layer in _layers_of(model, (MoELayer, MixtureOfDepths))
        if layer.batch_states()
    ]
    joint = Joint(group)
    for layer in layers:
        layer.joint = joint
    return [layer.path for layer in layers]


def spread(model, group) -> list:
    """Keep this process's experts of each layer; return the layers' paths."""
    layers = _layers_of(model)
    _check_group(group)
    exchange = Exchange(group)
    for layer in layers:
        _check(layer, exchange.processes)
    if not layers:
        raise ValueError(
            f"model must have layers of experts; received {model.name!r}, "
            "which has none."
        )
    _check_optimizer(model)
    for layer in layers:
        _set_exchange(layer, exchange)
        for variable in layer.experts.variables:
            _slice(variable, exchange)
    _leave_to_us(model, [v for x in layers for v in x.experts.variables])
    synchronize(model, group)
    return [layer.path for layer in layers]


def _check_group(group):
    if not isinstance(group, distributed.ProcessGroup):
        raise ValueError(
            "group must be None or a torch.distributed process group of this "
            f"process; {checks.received(group)}."
        )


def _layers_of(model, kinds=MoELayer):
    """The layers of experts in a model, or of other kinds, all built."""
    if not isinstance(model, keras.Layer):
        raise ValueError(
            f"model must be a Keras model or layer; {checks.received(model)}."
        )
    layers = [x for x in model._flatten_layers() if isinstance(x, kinds)]
    for layer in layers:
        if not layer.built:
            raise ValueError(
                "model must be built before it is used by several processes; "
                f"received the layer {layer.name!r}, which is not."
            )
    return layers


def _check(layer, processes):
    experts = layer.experts
    if not isinstance(experts, FeedForwardExperts):
        raise ValueError(
            "experts given as expert=… cannot be spread over processes; "
            f"received the layer {layer.path!r}."
        )
    if experts.exchange is not None:
        raise ValueError(
            f"model is spread already; received the layer {layer.path!r}."
        )
    if layer.num_experts % processes:
        raise ValueError(
            "the number of processes must divide each layer's num_experts; "
            f"received {processes} processes and {layer.num_experts} experts "
            f"in the layer {layer.path!r}."
        )
    for projection in experts.projections():
        if projection.quantization_mode or projection.lora_enabled:
            raise ValueError(
                "quantised experts and experts with adapters cannot be spread "
                f"over processes; received the layer {layer.path!r}."
            )


def _check_optimizer(model):
    optimizer = optimizer_of(model)
    if optimizer is None:
        return
    if optimizer.built:
        raise ValueError(
            "model must be spread before its optimizer is built, whose "
            "moments have the shapes of all experts; received "
            f"{model.name!r} with an optimizer that is built."
        )
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    if optimizer.global_clipnorm is not None:
        raise ValueError(
            "model must have an optimizer without global_clipnorm, as the norm "
            "of a process has its own experts' gradients alone; received "
            f"{optimizer.global_clipnorm}."
        )


def _set_exchange(layer, exchange):
    layer.experts.exchange = exchange
    for projection in layer.experts.projections():
        projection.in_processes = exchange is not None


def _slice(variable, exchange):
    """Keep the part of this process, in the same `torch.nn.Parameter`."""
    value = variable.value
    own = value.shape[0] // exchange.processes
    begin = exchange.rank * own
    value.data = value.data[begin : begin + own].clone()
    value.grad = None
    variable._shape = tuple(value.shape)


def _join(variable, exchange):
    """Collect the parts of all processes."""
    value = variable.value
    parts = [torch.empty_like(value.data) for _ in range(exchange.processes)]
    distributed.all_gather(parts, value.data.contiguous(), group=exchange.group)
    value.data = torch.cat(parts)
    value.grad = None
    variable._shape = tuple(value.shape)


def _leave_to_us(model, variables):
    """Have DistributedDataParallel neither copy nor add up these weights."""
    ours = {id(variable.value) for variable in variables}
    names = [
        f"{name}.{parameter_name}" if name else parameter_name
        for name, module in model.named_modules()
        for parameter_name, parameter in module.named_parameters(recurse=False)
        if id(parameter) in ours
    ]
    names += [n for n, p in model.named_parameters() if id(p) in ours]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(
        model, sorted(set(names))
    )


@contextlib.contextmanager
def whole(model):
    """Hold all experts in every process inside the block."""
    spread_layers = [
        layer
        for layer in _layers_of(model)
        if layer.experts.exchange is not None
    ]
    if not spread_layers:
        raise ValueError(
            "model must be one whose experts spread_experts has spread; "
            f"received {model.name!r}."
        )
    exchanges = [layer.experts.exchange for layer in spread_layers]
    joined = []
    try:
        for layer, exchange in zip(spread_layers, exchanges):
            for variable in layer.experts.variables:
                _join(variable, exchange)
                joined.append((variable, exchange))
        for layer in spread_layers:
            _set_exchange(layer, None)
        yield model
    finally:
        for layer, exchange in zip(spread_layers, exchanges):
            _set_exchange(layer, exchange)
        for variable, exchange in joined:
            _slice(variable, exchange)
