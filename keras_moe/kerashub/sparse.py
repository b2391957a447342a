"""The calls of KerasHub's blocks replaced, and put back."""

import functools
import types
from typing import NamedTuple

import keras

from keras_moe import checks
from keras_moe import ops as moe_ops
from keras_moe.kerashub import banks
from keras_moe.kerashub.gemma4 import GEMMA4
from keras_moe.kerashub.gpt_oss import GPT_OSS
from keras_moe.kerashub.mixtral import MIXTRAL
from keras_moe.kerashub.qwen import QWEN
from keras_moe.kerashub.qwen import QWEN3
from keras_moe.kerashub.qwen import QWEN3_5

FAMILIES = (MIXTRAL, QWEN, QWEN3, QWEN3_5, GPT_OSS, GEMMA4)
# What models keep of programs that were compiled with the calls of before.
COMPILED = (
    "train_function",
    "test_function",
    "predict_function",
    "generate_function",
    "_cached_spec_generate_fn",  # of Gemma 4's speculative decoding
)


class SparseBlock(NamedTuple):
    """A block whose experts' computation changed.

    Args:
        path: path of the layer whose `call` changed.
        family: such as `"Mixtral"`.
    """

    path: str
    family: str


def use_sparse_experts(
    model: keras.Layer, implementation: str = "auto"
) -> list[SparseBlock]:
    """Compute only the chosen experts in KerasHub's mixtures of experts.

    KerasHub computes every expert for every token and weighs most of them
    with zero. After this call `fit`, `evaluate`, `predict` and `generate` of
    the model compute the `top_k` experts of each token alone, and outputs,
    gradients and auxiliary losses stay what they were, up to rounding:

        outputs[t] = sum over the k experts e of token t
                     of gate[t,e] · expert_e(tokens[t])               (T,D)

    KerasHub's own layers go on making router logits, shared experts and
    auxiliary losses. Weights, their names, configurations and files are
    KerasHub's: what is saved loads without keras_moe, and computes every
    expert until this function is called again; so does a clone.

    Families: Mixtral, Qwen1.5-MoE, Qwen3-MoE, Qwen3.5-MoE, gpt-oss, Gemma 4.
    Their code is recognised by its text; another version's that computes
    something else is refused, and then nothing changes.

    Mixtral's `router_jitter_noise` raises an error in KerasHub 0.32, in
    training; here it works. The seed of the noise comes from the tokens, as a
    seed's state would be one more variable of the model.

    Programs that the model or a model in it has compiled are dropped, so that
    the next call compiles anew. Give the outermost model: those around it are
    not known here, nor are programs that you compiled yourself.

    Args:
        model: a KerasHub task, a backbone, any layer that has such blocks in
            it, or a single block (for Gemma 4 a decoder block). Built.
        implementation: `"auto"`, `"grouped"`, or `"reference"`, which computes
            every expert.

    Returns:
        A list of `SparseBlock`, the path and the family of each block that
        changed; empty if all had this implementation already.

    Raises:
        ValueError: for a model without such blocks, a block whose `call` is
            not the one that keras_moe knows, or another `implementation`.

    Example:

    >>> import keras, keras_hub, keras_moe
    >>> backbone = keras_hub.models.MixtralBackbone(
    ...     vocabulary_size=16, num_layers=1, num_query_heads=2, hidden_dim=8,
    ...     intermediate_dim=8, num_key_value_heads=1, num_experts=4)
    >>> [block.family for block in keras_moe.use_sparse_experts(backbone)]
    ['Mixtral']
    >>> keras_moe.use_sparse_experts(backbone)
    []
    >>> len(keras_moe.use_dense_experts(backbone))
    1
    """
    names = moe_ops.names("grouped")
    checks.choice("implementation", implementation, names)
    return _make_sparse(model, implementation)


def keep_sparse(model) -> None:
    """Make blocks sparse that are not, whatever the others' implementation."""
    _make_sparse(model, None)


def _make_sparse(model, implementation):
    """`None` leaves blocks alone that have an implementation."""
    changes = []
    for family, layer in found(model):
        block = family.block_of(layer)
        before = _replaced(block)
        if before is None:
            family.check(layer)
        elif implementation in (None, before.implementation):
            continue
        changes.append((family, layer, block))
    for family, layer, block in changes:
        # Keras tracks what is set on a layer; this is no part of its state.
        vars(block)["call"] = _make_call(
            family, implementation or "auto", layer, block
        )
    return report(model, [(f, b) for f, _, b in changes])


def use_dense_experts(model: keras.Layer) -> list[SparseBlock]:
    """Undo `use_sparse_experts`: the blocks run KerasHub's own code again.

    Programs that the model has compiled are dropped.

    Args:
        model: as of `use_sparse_experts`.

    Returns:
        A list of `SparseBlock`, those that changed; empty if none was sparse.

    Raises:
        ValueError: for a model without blocks of a known family, or with
            experts that are quantised or have adapters (LoRA).
    """
    changes = []
    for family, layer in found(model):
        block = family.block_of(layer)
        if _replaced(block) is None:
            continue
        if banks.is_replaced(family, layer):
            raise ValueError(
                "model must have experts as KerasHub stores them, as its own "
                f"code reads them; those of {block.path!r} are quantised or "
                "have adapters (LoRA)."
            )
        changes.append((family, block))
    for _, block in changes:
        del vars(block)["call"]
    return report(model, changes)


def found(model):
    """Pairs of a family and a layer of it in the model, at least one.

    In the model's order, by which files of adapters name them.
    """
    if not isinstance(model, keras.Layer):
        raise ValueError(
            f"model must be a Keras model or layer; {checks.received(model)}."
        )
    found = [
        (family, layer)
        for layer in _in_order(model, set())
        for family in FAMILIES
        if family.covers(layer)
    ]
    if not found or not all(f.has_weights(layer) for f, layer in found):
        known = ", ".join(family.name for family in FAMILIES)
        gemma = f"{GEMMA4.layer} with enable_moe_block=True"
        raise ValueError(
            "model must be built and have KerasHub's mixture-of-experts blocks "
            f"of a family that keras_moe knows, {known} (a {gemma}); received "
            f"{model.name!r}, a {type(model).__name__} that is not built or "
            "has no such block."
        )
    return found


def _in_order(layer, seen):
    """A layer and those in it, from the first to the last, each once.

    `_flatten_layers` turns the order around with each level of nesting: that
    of a task is not that of its backbone.
    """
    if id(layer) in seen:
        return
    seen.add(id(layer))
    yield layer
    for one in layer._flatten_layers(include_self=False, recursive=False):
        yield from _in_order(one, seen)


class _Origin(NamedTuple):
    """Marks a call that is from here."""

    implementation: str


def _make_call(family, implementation, layer, block):
    # Wrapped, it has the signature that Keras goes by.
    @functools.wraps(type(block).call)
    def call(self, *args, **kwargs):
        return family.call(self, implementation, *args, **kwargs)

    call.origin = _Origin(implementation)
    return types.MethodType(call, layer)


def _replaced(block) -> _Origin | None:
    """Our replacement of a block's call, `None` for KerasHub's own."""
    call = vars(block).get("call")
    origin = getattr(call, "origin", None)
    return origin if isinstance(origin, _Origin) else None


def report(model, changes):
    """Drop compiled programs if anything changed, and name what did."""
    if changes:
        for layer in model._flatten_layers():
            if isinstance(layer, keras.Model):
                _drop_programs(layer)
    return [SparseBlock(block.path, f.name) for f, block in changes]


def _drop_programs(model):
    for name in COMPILED:
        if getattr(model, name, None) is not None:
            setattr(model, name, None)
