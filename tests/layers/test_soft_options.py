"""Soft MoE's further options: slots by capacity, widths, grids, keys, drops."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_moe import diagnostics
from keras_moe import layers
from keras_moe import ops as moe_ops
from tests.layers.test_errors import raises
from tests.support import BACKEND
from tests.support import numpy

E, D = 2, 6
X = np.random.default_rng(0).normal(size=(3, 9, D)).astype("float32")


def make(slots=None, **options):
    if "expert" not in options:
        options.setdefault("intermediate_dim", 5)
    layer = layers.SoftMoE(E, slots, **options)
    layer.build(X.shape)
    rng = np.random.default_rng(1)
    for weight in layer.trainable_variables:
        weight.assign(rng.normal(size=weight.shape))
    return layer


def unit(x, axis):
    return x / np.sqrt((x**2).sum(axis, keepdims=True) + 1e-6)


def softmax(x, axis):
    x = np.exp(x - x.max(axis, keepdims=True))
    return x / x.sum(axis, keepdims=True)


def test_keys_widths_and_capacity():
    """All in one, as numpy; round(9 · 0.8 / 2) = 4 slots an expert."""
    layer = make(
        capacity_factor=0.8,
        output_dim=4,
        key_projection=True,
        activation="relu",
    )
    phi, scale, key_scale, key_offset, up, up_bias, down, down_bias = (
        numpy(w).astype("float64")
        for w in (
            layer.slot_embedding,
            layer.scale,
            layer.key_scale,
            layer.key_offset,
            layer.experts.up.kernel,
            layer.experts.up.bias,
            layer.experts.down.kernel,
            layer.experts.down.bias,
        )
    )
    assert phi.shape == (D, E, 4) and layer.slots_per_expert is None
    keys = unit(X * key_scale + key_offset, -1)
    logits = np.einsum("btd,des->btes", keys, scale * unit(phi, 0))
    slots = np.einsum("btes,btd->besd", softmax(logits, 1), X)
    hidden = np.einsum("besd,edf->besf", slots, up) + up_bias
    made = np.einsum("besf,efd->besd", np.maximum(hidden, 0), down) + down_bias
    combine = softmax(logits.reshape(3, 9, -1), -1).reshape(logits.shape)
    expected = np.einsum("btes,besd->btd", combine, made)
    with diagnostics.capture(slots=True) as plans:
        outputs = numpy(layer(X))
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-4)
    kept = plans.slots[layer.path]
    for found, array in (
        (kept.inputs, slots),
        (kept.hidden, np.maximum(hidden, 0)),
        (kept.outputs, made),
    ):
        np.testing.assert_allclose(numpy(found), array, rtol=1e-4, atol=1e-4)
    assert layer(keras.Input((9, D))).shape == (None, 9, 4)
    image = layer(X.reshape(3, 3, 3, D))
    np.testing.assert_allclose(
        numpy(image).reshape(3, 9, 4), outputs, atol=1e-5
    )


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in moe_ops.names("soft")
        if name != "auto" and BACKEND in moe_ops.IMPLEMENTATIONS[name].backends
    ],
)
def test_every_implementation_serves_another_width(name):
    options = {"slots": 2, "output_dim": 11, "max_scale": 3.0}
    outputs = make(implementation=name, **options)(X)
    expected = make(implementation="reference", **options)(X)
    np.testing.assert_allclose(
        numpy(outputs), numpy(expected), rtol=1e-4, atol=1e-4
    )


def test_slots_form_a_grid_for_convolutions():
    template = keras.layers.Conv2D(4, 3, padding="same", name="template")
    layer = make(6, slot_shape=(2, 3), expert=template, output_dim=4)
    with diagnostics.capture(slots=True) as plans:
        layer(X)
    kept = plans.slots[layer.path]
    assert kept.hidden is None
    for e, clone in enumerate(layer.experts.clones):
        grid = ops.reshape(kept.inputs[:, e], (3, 2, 3, D))
        expected = numpy(clone(grid)).reshape(3, 6, 4)
        np.testing.assert_allclose(
            numpy(kept.outputs[:, e]), expected, rtol=1e-5, atol=1e-5
        )
    assert layers.SoftMoE.from_config(layer.get_config()).slot_shape == (2, 3)


def test_whole_experts_are_dropped():
    """Of each sequence; what stays is divided by the share that stays."""
    layer = make(2, expert_dropout=0.5)
    with diagnostics.capture(slots=True) as plans:
        whole = numpy(layer(X))
    combine = numpy(plans[layer.path].combine)
    made = numpy(plans.slots[layer.path].outputs)
    parts = np.einsum("btes,besd->ebtd", combine, made)
    np.testing.assert_allclose(whole, parts.sum(0), rtol=1e-4, atol=1e-5)
    seen = set()
    for _ in range(6):
        outputs = numpy(layer(X, training=True))
        for b in range(3):
            fits = [
                keep
                for keep in np.ndindex(2, 2)
                if np.allclose(
                    outputs[b],
                    2 * np.einsum("e,etd->td", keep, parts[:, b]),
                    atol=1e-4,
                )
            ]
            assert len(fits) == 1
            seen |= set(fits)
    assert len(seen) >= 3


def test_what_does_not_fit():
    text = "inputs must have a known number of tokens when a layer with capa"
    with raises(text):
        layers.SoftMoE(E, capacity_factor=1.0, intermediate_dim=4).build(
            (None, None, D)
        )
    dense = keras.layers.Dense(D)
    with raises("slot_shape must multiply to slots_per_expert, 6; received (2"):
        make(6, slot_shape=(2, 2), expert=dense)
    with raises("slot_shape must be None where expert is None; received"):
        make(6, slot_shape=(2, 3))
    with raises("expert must return (None, None, 4), as output_dim says; re"):
        make(2, expert=dense, output_dim=4)
    with raises("slots must be True or False; received 'all' (str)."):
        diagnostics.capture(slots="all").__enter__()
    with raises("exactly one of slots_per_expert and capacity_factor must be"):
        make(2, capacity_factor=1.0)
    with raises("capacity_factor must be None or a finite number, greater"):
        make(capacity_factor=0.0)
    layer = make(capacity_factor=1.0)
    copy = keras.layers.deserialize(keras.layers.serialize(layer))
    assert copy.capacity_factor == 1.0 and copy.slots_per_expert is None
