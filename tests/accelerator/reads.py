"""Training steps in which the host waits for nothing, and captured ones."""

import contextlib
import functools

import numpy as np
from keras import ops

from tests import contract_table
from tests import host_reads
from tests.accelerator import chip as chips
from tests.accelerator.items import Item

TABLE = "reads"
# What a compiled program that asks the host has in it.
ASKING = ("callback", "infeed", "outfeed", " send(", " recv(")


def items(chip):
    """By eager calls on PyTorch, of compiled programs on JAX."""
    if chips.BACKEND == "jax":
        labels, check = contract_table.EACH_ROUTER, compiled
    elif chips.BACKEND == "torch":
        labels, check = host_reads.LABELS, eager
    else:
        raise ValueError(f"reads are looked for on JAX and PyTorch; {chip}")
    for label in labels:
        for masked in (False, True):
            run = functools.partial(check, label, masked)
            yield Item(TABLE, f"{label}{', masked' * masked}", run)
    if chips.on_cuda():
        for label in contract_table.EACH_ROUTER:
            run = functools.partial(captured, label)
            yield Item(TABLE, f"{label}, a CUDA graph", run)


def row(label, masked, how):
    return [{"op": how, "of": label, "masked": masked}]


def eager(label, masked):
    with host_reads.without_seeds(), _as_on_a_gpu():
        layer, tokens, mask = host_reads.built(label)
        mask = mask if masked else None
        # Libraries are loaded, and memory is fetched, by a first step.
        host_reads.train(layer, tokens, mask, contextlib.nullcontext)
        host_reads.train(layer, tokens, mask, refusing_waits)
    return row(label, masked, "eager step without waits")


def _as_on_a_gpu():
    if chips.on_cuda():
        return contextlib.nullcontext()
    return host_reads.on_a_gpu()


@contextlib.contextmanager
def refusing_waits():
    """What PyTorch's calls show, and on a GPU what CUDA sees."""
    with host_reads.refusing_waits():
        if not chips.on_cuda():
            yield
            return
        import torch

        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")


def captured(label):
    """A training step as a CUDA graph gives, run again, what it gave."""
    import torch

    with host_reads.without_seeds():
        layer, tokens, _ = host_reads.built(label)
        tokens = tokens.detach().requires_grad_()
        arrays = [tokens, *(v.value for v in layer.trainable_variables)]

        def step():
            outputs = layer(tokens, training=True)
            loss = ops.sum(outputs * outputs)
            grads = torch.autograd.grad(loss, arrays, allow_unused=True)
            return [outputs, *(g for g in grads if g is not None)]

        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                expected = step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = step()
        graph.replay()
        torch.cuda.synchronize()
    for one, other in zip(found, expected):
        one, other = (ops.convert_to_numpy(x) for x in (one, other))
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    return row(label, False, "step as a CUDA graph")


def compiled(label, masked):
    """A compiled step takes nothing from the host, and asks it nothing."""
    import jax

    layer, tokens, mask = host_reads.built(label)
    weights = [v.value for v in layer.trainable_variables]
    states = [v.value for v in layer.non_trainable_variables]
    mask = mask if masked else None

    def loss(weights, states, tokens, mask):
        outputs, _, losses = layer.stateless_call(
            weights,
            states,
            tokens,
            mask=mask,
            training=True,
            return_losses=True,
        )
        return sum(losses, ops.sum(outputs * outputs))

    arrays = (weights, states, tokens, mask)
    program = jax.jit(jax.grad(loss)).lower(*arrays).compile()
    asking = [word for word in ASKING if word in program.as_text()]
    if asking:
        raise AssertionError(f"the program asks the host: {asking}")
    with jax.transfer_guard("disallow"):
        jax.block_until_ready(program(*arrays))
    return row(label, masked, "compiled step without transfers")
