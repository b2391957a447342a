"""Gradients by hand for JAX that leave its other transforms as they are.

`jax.custom_vjp` has no forward mode, and `jax.custom_jvp` no gradient of one's
own. Here the derivative of a function is a primitive that is linear in its
last arguments: forward mode computes it as JAX would, its transpose is what was
written by hand. Higher orders differentiate either as it stands.
"""

import functools

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad
from jax.interpreters import batching
from jax.interpreters import mlir


def with_gradient(function, forward, backward):
    """Give a function a gradient of its own, in reverse mode alone.

    Args:
        function: `(arrays, context) -> outputs`, which JAX can differentiate;
            `arrays` is a tuple of floating arrays.
        forward: `(arrays, context) -> (outputs, saved)`.
        backward: `(arrays, context, saved, gradients) -> gradients`, of
            outputs and of arrays.

    All three are functions of a module, so that what they compile to is found
    again. `context` and `saved` are structures of arrays.
    """

    @jax.custom_jvp
    def differentiable(arrays, context):
        return forward(arrays, context)[0]

    @differentiable.defjvp
    def change(values, changes):
        arrays, context = values
        outputs, saved = forward(arrays, context)
        leaves, tree = jax.tree.flatten((arrays, context, saved))
        changed = _linear.bind(
            *leaves,
            *changes[0],
            function=function,
            backward=backward,
            tree=tree,
            results=jax.tree.structure(outputs),
        )
        return outputs, jax.tree.unflatten(jax.tree.structure(outputs), changed)

    return differentiable


_linear = Primitive("linear_with_transpose_by_hand")
_linear.multiple_results = True


def _split(leaves, tree):
    """(arrays, context, saved) and the changes of the arrays."""
    structures = jax.tree.unflatten(tree, leaves[: tree.num_leaves])
    return *structures, leaves[tree.num_leaves :]


def _apply(*leaves, function, backward, tree, results):
    """As JAX differentiates the function."""
    arrays, context, _, changes = _split(leaves, tree)
    _, changed = jax.jvp(
        lambda *arrays: function(arrays, context), arrays, tuple(changes)
    )
    return jax.tree.leaves(changed)


def _shapes(*leaves, **parameters):
    shapes = jax.eval_shape(
        functools.partial(_apply, **parameters),
        *(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves),
    )
    return [jax.core.ShapedArray(x.shape, x.dtype) for x in shapes]


def _derive(values, changes, **parameters):
    return jax.jvp(
        functools.partial(_apply, **parameters),
        tuple(values),
        tuple(ad.instantiate_zeros(change) for change in changes),
    )


def _transpose(grads, *leaves, function, backward, tree, results):
    arrays, context, saved, changes = _split(leaves, tree)
    grads = [ad.instantiate_zeros(grad) for grad in grads]
    by_arrays = backward(
        arrays, context, saved, jax.tree.unflatten(results, grads)
    )
    gradients = (
        by_array if ad.is_undefined_primal(change) else None
        for change, by_array in zip(changes, by_arrays)
    )
    return [*(None,) * tree.num_leaves, *gradients]


def _batch(leaves, axes, **parameters):
    outputs = jax.vmap(functools.partial(_apply, **parameters), axes)(*leaves)
    return outputs, (0,) * len(outputs)


_linear.def_abstract_eval(_shapes)
_linear.def_impl(
    jax.jit(_apply, static_argnames=("function", "backward", "tree", "results"))
)
mlir.register_lowering(_linear, mlir.lower_fun(_apply, multiple_results=True))
ad.primitive_jvps[_linear] = _derive
ad.primitive_transposes[_linear] = _transpose
batching.primitive_batchers[_linear] = _batch
