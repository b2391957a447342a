"""What the layers are held against: the papers' formulas, line by line.

Nothing is shared, rearranged or saved: every softmax on its own, every product
an einsum over (groups, tokens, experts, slots), as the vmoe code writes them.
"""

from keras import ops


def unit(array, axis):
    norm = ops.sqrt(ops.sum(ops.square(array), axis=axis, keepdims=True))
    return array / (norm + 1e-6)


def soft_moe(tokens, embeddings, scale, *mlp):
    """SoftMoE, with its weights in the layer's order."""
    logits = ops.einsum(
        "gtd,des->gtes", unit(tokens, -1), scale * unit(embeddings, 0)
    )
    groups, length, experts, slots_per_expert = logits.shape
    dispatch = ops.softmax(logits, axis=1)
    flat = ops.reshape(logits, (groups, length, experts * slots_per_expert))
    combine = ops.reshape(ops.softmax(flat, axis=-1), logits.shape)
    slots = ops.einsum("gtes,gtd->gesd", dispatch, tokens)
    return ops.einsum("gtes,gesd->gtd", combine, experts_mlp(slots, *mlp))


def experts_mlp(slots, up, up_bias, down, down_bias):
    """One MLP for each expert, exact GELU: (G,E,S,D) -> (G,E,S,D)."""
    hidden = ops.einsum("gesd,edf->gesf", slots, up) + up_bias
    hidden = ops.gelu(hidden, approximate=False)
    return ops.einsum("gesf,efd->gesd", hidden, down) + down_bias


def mixture_of_tokens(tokens, router, *mlp, group_size):
    """MixtureOfTokens over the batch, with its weights in their order."""
    batch, length, features = tokens.shape
    grouped = (batch // group_size, group_size, length, features)
    grouped = ops.reshape(tokens, grouped)
    weights = ops.softmax(ops.einsum("nstd,de->nste", grouped, router), axis=1)
    mixed = ops.einsum("nste,nstd->nted", weights, grouped)
    up, up_bias, down, down_bias = mlp
    hidden = ops.einsum("nted,edf->ntef", mixed, up) + up_bias[:, 0]
    hidden = ops.gelu(hidden, approximate=False)
    mixed = ops.einsum("ntef,efd->nted", hidden, down) + down_bias[:, 0]
    outputs = ops.einsum("nste,nted->nstd", weights, mixed)
    return ops.reshape(outputs, tokens.shape)
