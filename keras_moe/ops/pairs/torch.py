"""Chunks of pairs on PyTorch."""

import torch


def register(cls, static, arrays):
    """PyTorch needs no word of structures."""


def loop(number, step, start):
    state = start
    for chunk in range(number):
        state = step(chunk, state)
    return state


def products(images, texts):
    """Zeros: gradients by images (R,N,D) and by texts (B,D)."""
    return torch.zeros_like(images), torch.zeros_like(texts)


def add(products, chunk, gradient, images, texts):
    """Add what a chunk's gradient by its logits (R,B) makes, in place."""
    by_images, by_texts = products
    by_images[:, chunk] = gradient @ texts
    return by_images, by_texts.addmm_(gradient.T, images)


def joined(products):
    return products


def with_gradient(function, forward, backward):
    """As `keras_moe.ops.jax_gradients.with_gradient`."""

    class Known(torch.autograd.Function):
        @staticmethod
        def forward(ctx, context, *arrays):
            outputs, saved = forward(arrays, context)
            ctx.context, ctx.number = context, len(arrays)
            ctx.save_for_backward(*arrays, *saved)
            return outputs

        @staticmethod
        def backward(ctx, grad):
            tensors = ctx.saved_tensors
            arrays, saved = tensors[: ctx.number], tensors[ctx.number :]
            if not torch.is_grad_enabled():
                return None, *backward(arrays, ctx.context, saved, grad)
            # The gradient is to be derived itself.
            wanted = ctx.needs_input_grad[1:]
            grads = torch.autograd.grad(
                function(arrays, ctx.context),
                [x for x, needed in zip(arrays, wanted) if needed],
                grad,
                create_graph=True,
            )
            grads = iter(grads)
            return None, *(next(grads) if needed else None for needed in wanted)

    def differentiable(arrays, context):
        if torch.is_grad_enabled() and any(x.requires_grad for x in arrays):
            return Known.apply(context, *arrays)
        return function(arrays, context)

    return differentiable
