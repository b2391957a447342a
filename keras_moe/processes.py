"""Models in several processes, each with its part of the batch."""

import keras


def optimizer_of(model):
    """The optimizer of a compiled model; `None` of others, and of layers."""
    if isinstance(model, keras.Model) and model.compiled:
        return model.optimizer
    return None


def joint_batch(layer, *arrays):
    """Collect arrays (G,…) of all processes where a layer is to see them.

    Args:
        layer: whose `joint` is `None`, or the processes of
            `synchronize_routers`.
        *arrays: of this process; `None` stays.
    """
    if layer.joint is None:
        return arrays
    return tuple(a if a is None else layer.joint.gather(a) for a in arrays)


def spread_experts(model, group=None) -> list[str]:
    """Spread the experts of a model over processes. PyTorch only.

    Each of n processes keeps E/n experts of every layer of this package, and
    all other weights. In a call, the slots (G,E,S,D) of a process go to the
    processes of their experts (an all-to-all), and the outputs come back. Each
    process must call the model with inputs of the same shape.

    Dropless token choice sends each row to the process of its expert, and each
    process multiplies the rows that come, however many. Numbers of rows are
    exchanged first. The host reads them in each call, as sizes of arrays are
    numbers of Python; on a GPU it waits for the router there. Where all routers
    are dropless, without `balance_bias`, batches may have any lengths, 0 too.

    All other weights are for `DistributedDataParallel`, which averages their
    gradients and leaves experts alone: spread first, wrap after. Gradients of
    experts are those of the mean loss of the processes, too. A norm over all
    gradients is another one in each process: clip by none, or the copies of the
    other weights would differ.

    `thresholds` and `balance_bias` follow the joint batch of all processes, as
    by `synchronize_routers`.

    Args:
        model: a built model or layer, the same in all processes, whose
            optimizer is not built.
        group: a `torch.distributed` process group; by default all processes.

    Returns:
        The paths of the layers whose experts are spread.

    Raises:
        ValueError: for another backend, without a process group, or for a
            model that does not fit: experts that n does not divide, given as
            `expert=`, quantised, or with adapters; an optimizer with
            `global_clipnorm`. Saving raises one outside of `whole_experts`.

    Example:

    >>> import keras, keras_moe.distribution
    >>> def train(model, inputs):  # in each process
    ...     keras_moe.distribution.spread_experts(model)
    ...     model = torch.nn.parallel.DistributedDataParallel(model)
    ...     model(inputs).square().mean().backward()
    """
    if keras.backend.backend() != "torch":
        raise ValueError(
            "spread_experts needs the PyTorch backend; on JAX use "
            "expert_parallel. Received backend "
            f"{keras.backend.backend()!r}."
        )
    group = _group("spread_experts", group)
    from keras_moe import torch_processes

    return torch_processes.spread(model, group)


def synchronize_routers(model, group=None) -> list[str]:
    """Let routers learn from the batches of all processes. PyTorch only.

    `thresholds` of `ExpertChoiceMoE`, `threshold` of `MixtureOfDepths` and
    `balance_bias` of `TokenChoiceMoE` move in each call in training, by the
    gates or loads of the batch. After this call a layer first collects those
    of all processes (an all-gather of (tokens, experts) numbers), so that each
    process moves its copy as one process would with the joint batch. Without
    it, `DistributedDataParallel` trains copies that move apart.

    Each process must call the model with inputs of the same shape, and begin
    with the same weights.

    Args:
        model: a built model or layer, the same in all processes.
        group: a `torch.distributed` process group; by default all processes.

    Returns:
        The paths of the layers that collect.

    Raises:
        ValueError: for another backend, without a process group, or for a
            model that has no such layer.

    Example:

    >>> import keras, keras_moe.distribution
    >>> def train(model, inputs):  # in each process
    ...     keras_moe.distribution.synchronize_routers(model)
    ...     model = torch.nn.parallel.DistributedDataParallel(model)
    ...     model(inputs, training=True).square().mean().backward()
    """
    if keras.backend.backend() != "torch":
        raise ValueError(
            "synchronize_routers needs the PyTorch backend; on JAX a batch is "
            "that of all devices. Received backend "
            f"{keras.backend.backend()!r}."
        )
    group = _group("synchronize_routers", group)
    from keras_moe import torch_processes

    paths = torch_processes.synchronize(model, group)
    if not paths:
        raise ValueError(
            "model must have layers with thresholds or balance biases; "
            f"received {model.name!r}, which has none."
        )
    return paths


def gather_batch(*arrays, group=None) -> list:
    """Gather the parts of a batch of all processes, in order. PyTorch only.

    (B,…) of each of n processes becomes (n·B,…) in all of them, which an
    all-gather sends. For losses that compare the examples of a batch, such as
    `keras_moe.losses.contrastive_loss`. `DistributedDataParallel` takes the
    mean of the processes' gradients: if each computes the loss of the joint
    batch from what is gathered, the mean is the gradient of that loss.

    Each process must give arrays of the same shape, at the same time.

    Args:
        *arrays: tensors of this process. Gradients go back to the process
            that an example is of; second derivatives do not.
        group: a `torch.distributed` process group; by default all processes.

    Returns:
        A list of tensors, one of each array.

    Raises:
        ValueError: for another backend, without a process group, and for what
            is no tensor with a batch axis.

    Example:

    >>> import keras_moe.distribution, keras_moe.losses
    >>> def loss_of(model, inputs, similarity):  # in each process
    ...     outputs = model(inputs)  # DistributedDataParallel of two towers
    ...     images, texts, captions = keras_moe.distribution.gather_batch(
    ...         outputs["image_embeddings"], outputs["text_embeddings"],
    ...         inputs["token_ids"])
    ...     return keras_moe.losses.contrastive_loss(
    ...         images, texts, similarity.logit_scale, similarity.logit_bias,
    ...         kind="sigmoid", captions=captions)
    """
    if keras.backend.backend() != "torch":
        raise ValueError(
            "gather_batch needs the PyTorch backend; on JAX a batch is that of "
            f"all devices. Received backend {keras.backend.backend()!r}."
        )
    group = _group("gather_batch", group)
    from keras_moe import torch_processes

    return torch_processes.gather(arrays, group)


def _group(caller, group):
    """The process group, all processes for `None`; an error without any."""
    from torch import distributed

    if not distributed.is_available() or not distributed.is_initialized():
        raise ValueError(
            f"{caller} needs torch.distributed.init_process_group to be "
            "called first, in each process."
        )
    return distributed.group.WORLD if group is None else group


def whole_experts(model):
    """Hold all experts in every process inside a `with` block.

    For files: save in one process, load in all, both inside the block. Every
    process enters and leaves the block, which collects all experts and
    afterwards keeps each process's own.

    On PyTorch gradients of experts are lost. On JAX, where `expert_parallel`
    spreads weights over the devices of several processes, moments of the
    optimizer are collected too. The weights then lie in the memory of the
    host, and no distribution is active: do not train inside the block. A model
    of one process is left as it is.

    Args:
        model: on PyTorch, a model that `spread_experts` has spread; on JAX any
            model, built.

    Raises:
        ValueError: for another backend or model.

    Example:

    >>> import keras_moe.distribution
    >>> def save(model, rank):  # in each process
    ...     with keras_moe.distribution.whole_experts(model):
    ...         if rank == 0:
    ...             model.save_weights("model.weights.h5")
    """
    backend = keras.backend.backend()
    if backend == "jax":
        from keras_moe import jax_processes

        return jax_processes.whole(model)
    if backend != "torch":
        raise ValueError(
            "whole_experts needs the JAX or PyTorch backend; received backend "
            f"{backend!r}."
        )
    from keras_moe import torch_processes

    return torch_processes.whole(model)
