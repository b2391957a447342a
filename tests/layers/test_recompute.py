"""Layers that are computed again for gradients train as those that are not."""

import re

import keras
import numpy as np
import pytest

from keras_moe import diagnostics
from keras_moe import layers
from tests import support
from tests.support import BACKEND

E, T, D = 4, 8, 6
RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, T, D)).astype("float32")
MASK = RNG.random((4, T)) > 0.3


def token_choice(**options):
    """With every loss, every random draw and a bias that each call moves."""
    return layers.TokenChoiceMoE(
        E,
        2,
        capacity_factor=1.5,
        intermediate_dim=5,
        noise_std=1.0,
        jitter=0.1,
        dropout=0.2,
        importance_loss=0.1,
        load_loss=0.1,
        balance_loss=0.1,
        z_loss=0.01,
        balance_bias_rate=0.1,
        kernel_regularizer="l2",
        **options,
    )


def threshold():
    return layers.ExpertChoiceMoE(
        E, 2.0, selection="threshold", noise_std=0.5, intermediate_dim=5
    )


def keras_own():
    return keras.Sequential(
        [
            keras.layers.Dense(D),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3),
        ]
    )


def trained(wrap):
    """A model after two steps of `fit`, and its losses."""
    keras.utils.set_random_seed(0)
    tokens = outputs = keras.Input((T, D))
    for layer in (
        token_choice(dtype="mixed_bfloat16"),
        threshold(),
        keras_own(),
    ):
        branch = wrap(layer)(outputs)
        outputs = outputs + keras.ops.cast(branch, "float32")
    model = keras.Model(tokens, outputs)
    model.compile(
        keras.optimizers.SGD(0.01), "mse", jit_compile=BACKEND != "torch"
    )
    history = model.fit(X, X, batch_size=2, verbose=0, shuffle=False)
    return model, history.history["loss"]


def test_fit_moves_all_variables_as_without(tmp_path):
    plain, expected = trained(lambda layer: layer)
    model, losses = trained(layers.Recompute)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    names = [v.name for v in plain.variables]
    assert [v.name for v in model.variables] == names
    assert [v.dtype for v in model.variables] == [
        v.dtype for v in plain.variables
    ]
    # Seeds, of which two steps have drawn; averages; weights.
    assert names.count("seed_generator_state") == 4
    assert {"balance_bias", "thresholds", "moving_mean"} < set(names)
    for ours, theirs in zip(model.variables, plain.variables):
        np.testing.assert_allclose(
            ours.numpy(), theirs.numpy(), rtol=1e-5, atol=1e-6
        )
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.saving.load_model(path)
    for ours, theirs in zip(loaded.weights, model.weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def test_masks_losses_and_gradients_are_the_layers():
    outputs = []
    for wrap in (lambda layer: layer, layers.Recompute):
        keras.utils.set_random_seed(0)
        layer = wrap(token_choice(name="moe"))
        layer.build(X.shape)
        outputs.append(
            support.layer_grads(
                layer, X, np.ones_like(X), MASK, training=True, aux=1.0
            )
        )
    (plain, plain_losses, plain_grads), (ours, losses, grads) = outputs
    assert not ours[~MASK].any() and ours[MASK].any()
    np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-6)
    # Four, and regularisers of two kernels: none is counted twice.
    assert len(losses) == len(plain_losses) == 6
    np.testing.assert_allclose(losses, plain_losses, rtol=1e-5)
    for name, grad in plain_grads.items():
        mine = grads[name if name == "inputs" else f"moe/{name}"]
        np.testing.assert_allclose(mine, grad, rtol=1e-4, atol=1e-6)


class Masked(keras.layers.Layer):
    """Sets masked tokens to zero; Keras hands it the mask."""

    def __init__(self):
        super().__init__()
        self.supports_masking = True
        self.built = True

    def call(self, inputs, mask=None):
        return inputs * keras.ops.cast(mask, inputs.dtype)[..., None]


def test_masks_of_keras_pass():
    inputs = keras.ops.convert_to_tensor([[1, 2, 0], [3, 0, 0]])
    tokens = keras.layers.Embedding(4, D, mask_zero=True)(inputs)
    outputs = layers.Recompute(Masked())(tokens, training=True)
    mask = keras.ops.convert_to_numpy(outputs._keras_mask)
    np.testing.assert_array_equal(mask, [[True, True, False], [True, 0, 0]])
    assert not keras.ops.convert_to_numpy(outputs)[~mask].any()


@pytest.mark.once
def test_a_layer_of_several_inputs():
    attention = keras.layers.MultiHeadAttention(2, 3)
    attention.build(X.shape, X.shape)
    outputs, expected = (
        keras.ops.convert_to_numpy(
            layer(X, X[:, ::-1], value_mask=MASK, training=True)
        )
        for layer in (layers.Recompute(attention), attention)
    )
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)


class Several(keras.layers.Layer):
    """Returns more than a tensor."""

    def __init__(self, also):
        super().__init__()
        self.dense = keras.layers.Dense(D)
        self.also = also

    def build(self, input_shape):
        self.dense.build(input_shape)
        self.built = True

    def call(self, inputs):
        outputs = self.dense(inputs)
        return {"tokens": outputs, "also": [*self.also, outputs + 1.0]}


def test_outputs_that_are_no_tensors():
    also = [None, 3, "name", True, np.arange(2)]
    layer = layers.Recompute(Several(also))
    layer.build(X.shape)
    outputs = layer(X, training=True)
    expected = layer(X, training=False)
    assert outputs["also"][:4] == also[:4]
    assert outputs["also"][4] is also[4]
    for ours, theirs in (
        (outputs["tokens"], expected["tokens"]),
        (outputs["also"][-1], expected["tokens"] + 1.0),
    ):
        ours, theirs = map(keras.ops.convert_to_numpy, (ours, theirs))
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    layer = layers.Recompute(Several([object()]))
    layer.build(X.shape)
    with pytest.raises(ValueError, match="must return tensors, .*'object'"):
        layer(X, training=True)


class Counted(layers.SoftMoE):
    """Counts the calls of its Python code."""

    calls = 0

    def call(self, inputs, mask=None, training=None):
        self.calls += 1
        return super().call(inputs, mask=mask, training=training)


def test_only_training_computes_again():
    layer = layers.Recompute(Counted(E, 1, intermediate_dim=5))
    layer.build(X.shape)
    for training, runs in ((False, 1), (True, 2)):
        layer.layer.calls = 0
        support.layer_grads(layer, X, np.ones_like(X), training=training)
        # JAX differentiates what it traced once.
        assert layer.layer.calls == (1 if BACKEND == "jax" else runs)


def test_capture_sees_one_call():
    layer = layers.Recompute(layers.SoftMoE(E, 1, intermediate_dim=5))
    with diagnostics.capture() as plans:
        layer(X, training=True)
    assert list(plans) == [layer.layer.path]


def test_compilers_keep_both_runs():
    """The optimised program of XLA computes each activation twice."""
    if BACKEND == "torch":  # compiles nothing: the runs are counted above
        return
    counts = []
    for wrap in (lambda layer: layer, layers.Recompute):
        stack = []
        for _ in range(2):
            stack.append(
                wrap(
                    layers.SoftMoE(E, 2, intermediate_dim=32, activation="tanh")
                )
            )
        model = keras.Sequential([keras.Input((T, D)), *stack])
        text = optimised(model)
        counts.append(len(re.findall(r" tanh\(", text)))
    assert counts == [2, 4]


def optimised(model):
    """XLA's program of a model's gradients by its weights, as text."""
    weights = [v.value for v in model.trainable_variables]
    others = [v.value for v in model.non_trainable_variables]

    def loss(weights, x):
        outputs, _ = model.stateless_call(weights, others, x, training=True)
        return keras.ops.sum(keras.ops.square(outputs))

    if BACKEND == "jax":
        import jax

        program = jax.jit(jax.grad(loss)).lower(weights, X)
        options = {"xla_backend_optimization_level": 2}
        return program.compile(compiler_options=options).as_text()
    import tensorflow as tf

    @tf.function(jit_compile=True)
    def gradients(x, *weights):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            value = loss(weights, x)
        return tape.gradient(value, weights)

    arrays = [tf.convert_to_tensor(a) for a in (X, *weights)]
    return gradients.experimental_get_compiler_ir(*arrays)("optimized_hlo")


def test_config():
    layer = layers.Recompute(token_choice(), name="again", trainable=False)
    config = layer.get_config()
    assert set(config) == {"name", "trainable", "layer"}
    again = layers.Recompute.from_config(dict(config))
    assert again.get_config() == config
    assert again.compute_output_shape((None, T, D)) == (None, T, D)


class Lazy(keras.layers.Layer):
    """Builds a layer in its first call."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(D)

    def call(self, inputs):
        return self.dense(inputs)


@pytest.mark.filterwarnings("ignore:`build\\(\\)` was called on layer")
def test_what_cannot_be_recomputed_is_refused():
    with pytest.raises(ValueError, match="^layer must be a Keras layer; rec"):
        layers.Recompute("dense")
    with pytest.raises(ValueError, match="^name must be a string without"):
        layers.Recompute(keras.layers.Dense(1), name="a/b")
    layer = layers.Recompute(Lazy())
    with pytest.raises(ValueError, match="must be built, with all layers in"):
        layer(X, training=True)
    with keras.StatelessScope():
        pass  # Keras initialises at its end what was made inside another
    counter = keras.Variable(0.0, trainable=False)
    counts = layers.Recompute(
        keras.layers.Lambda(lambda x: x + counter.assign_add(1.0))
    )
    np.testing.assert_allclose(counts(X), X + 1.0)
    with pytest.raises(ValueError, match="must hold every .* assigned 1 of"):
        counts(X, training=True)
