"""One contract for all layers: dtypes, gradients, training, int8, LoRA."""

import contextlib
import functools

import keras
import numpy as np
import pytest
from keras.src import testing

from keras_moe import diagnostics
from tests.contract_table import BATCH
from tests.contract_table import EACH_ROUTER
from tests.contract_table import EVERYTHING
from tests.contract_table import FEATURES
from tests.contract_table import FEED_FORWARD
from tests.contract_table import LAYERS
from tests.contract_table import TOKENS
from tests.contract_table import evaluate
from tests.contract_table import make
from tests.contract_table import make_model
from tests.contract_table import randomize
from tests.contract_table import tokens_of
from tests.support import BACKEND
from tests.support import layer_grads
from tests.support import weight_name

every_layer = pytest.mark.parametrize("label", LAYERS)


def dtype_of(tensor):
    return keras.backend.standardize_dtype(tensor.dtype)


def same_layer(label, dtype):
    """A layer of random weights and its twin of another dtype."""
    layer, other = make(label), make(label, dtype=dtype)
    for one in (layer, other):
        one.build((BATCH, TOKENS, FEATURES))
    randomize(layer)
    other.set_weights(layer.get_weights())
    return layer, other


# === Dtypes ===


@pytest.mark.parametrize(
    "dtype, label",
    [("bfloat16", label) for label in [*LAYERS, "depths"]]
    + [("float16", label) for label in EACH_ROUTER],
)
def test_mixed_precision(label, dtype):
    layer, mixed = same_layer(label, f"mixed_{dtype}")
    assert {dtype_of(v) for v in mixed.weights} == {"float32"}
    # The tokens are exact in both dtypes, so that both layers route alike.
    tokens = tokens_of(BATCH, TOKENS)
    with diagnostics.capture() as plans:
        outputs = mixed(tokens, training=False)
    assert dtype_of(outputs) == dtype
    (plan,) = plans.values()
    assert {dtype_of(weights) for weights in plan.weights()} == {"float32"}
    outputs = keras.ops.convert_to_numpy(keras.ops.cast(outputs, "float32"))
    assert np.isfinite(outputs).all()
    expected = evaluate(layer, tokens)
    error = np.abs(outputs - expected).max() / np.abs(expected).max()
    assert 0 < error < (0.03 if dtype == "bfloat16" else 0.004)


@pytest.mark.parametrize(
    "dtype, label",
    [("mixed_bfloat16", label) for label in [*LAYERS, "depths_predictor"]]
    + [("mixed_float16", label) for label in EACH_ROUTER],
)
def test_mixed_precision_trains(label, dtype):
    _, layer = same_layer(label, dtype)
    tokens = tokens_of(BATCH, TOKENS)
    _, losses, grads = layer_grads(layer, tokens, tokens, training=True)
    assert {dtype_of(loss) for loss in losses} <= {"float32"}
    for name, grad in grads.items():
        assert np.isfinite(grad).all() and grad.dtype == "float32", name


def test_a_template_keeps_its_dtype():
    """Under mixed precision, float32 experts stay float32."""
    template = LAYERS["soft_dense"].arguments["expert"]
    layer = make("soft_dense", dtype="mixed_bfloat16")
    mixed = type(layer)(4, 2, expert=template, dtype="mixed_bfloat16")
    outputs = mixed(tokens_of(BATCH, TOKENS))
    assert dtype_of(outputs) == "bfloat16"
    for one, dtype in ((layer, "bfloat16"), (mixed, "float32")):
        assert {c.compute_dtype for c in one.experts.clones} == {dtype}


@contextlib.contextmanager
def double_precision():
    """jax has float64 only where it is asked for."""
    if BACKEND != "jax":
        yield
        return
    import jax

    with jax.enable_x64(True):
        yield


@every_layer
def test_float64(label):
    with double_precision():
        single, layer = same_layer(label, "float64")
        assert {dtype_of(v) for v in layer.weights} == {"float64"}
        tokens = tokens_of(BATCH, TOKENS).astype("float64")
        outputs = evaluate(layer, tokens)
        assert outputs.dtype == "float64"
        defined = make(label, dtype="float64", implementation="reference")
        defined.build(tokens.shape)
        defined.set_weights(layer.get_weights())
        expected = evaluate(defined, tokens)
        # float32 anywhere on the way would leave an error of about 1e-7.
        np.testing.assert_allclose(outputs, expected, 1e-13, 1e-13)
        assert np.abs(outputs - outputs.astype("float32")).max() > 1e-10
        np.testing.assert_allclose(
            outputs, evaluate(single, tokens.astype("float32")), 1e-4, 1e-5
        )


# === Training ===


@pytest.mark.parametrize("label", [*LAYERS, "depths_predictor"])
def test_every_weight_receives_a_gradient(label):
    layer = make(label)
    layer.build((BATCH, TOKENS, FEATURES))
    randomize(layer)
    tokens = tokens_of(BATCH, TOKENS)
    outputs, losses, grads = layer_grads(
        layer, tokens, tokens_of(BATCH, TOKENS, seed=1), training=True, aux=1.0
    )
    expected = {"token_losses": 4, "dropless_gated": 1, "depths_predictor": 1}
    assert len(losses) == expected.get(label, 0)
    assert set(grads) == {"inputs"} | {
        weight_name(layer, v) for v in layer.trainable_variables
    }
    for name, grad in grads.items():
        assert np.isfinite(grad).all(), name
        # Of the stacked weights, each expert's share.
        stacked = name.startswith(("experts/up", "experts/down"))
        shares = grad if stacked else [grad]
        for share in shares:
            assert np.abs(share).max() > 1e-7, name


def compiled_by():
    """Keras' own choice on torch, which is eager, as it is in its tests."""
    return "auto" if BACKEND == "torch" else True


@pytest.mark.parametrize(
    "eager, label",
    [(False, label) for label in LAYERS]
    + [(True, label) for label in EACH_ROUTER],
)
def test_fit(label, eager):
    keras.utils.set_random_seed(0)
    model = make_model(label, TOKENS, residual=True)
    model.compile(
        keras.optimizers.Adam(0.03),
        "mse",
        run_eagerly=eager,
        jit_compile=False if eager else compiled_by(),
    )
    tokens = tokens_of(BATCH, TOKENS)
    targets = np.tanh(tokens[..., ::-1])
    before = model.get_layer("moe").get_weights()
    history = model.fit(tokens, targets, BATCH, epochs=5, verbose=0)
    loss = history.history["loss"]
    assert np.isfinite(loss).all() and loss[-1] < 0.9 * loss[0], loss
    for old, new in zip(before, model.get_layer("moe").get_weights()):
        assert np.abs(old - new).max() > 1e-5


def test_fit_compiled_on_every_backend(monkeypatch):
    """`jit_compile=True` on torch too, traced whole but run without Inductor.

    Inductor needs a C++ compiler, which a machine need not have.
    """
    if BACKEND == "torch":
        import torch

        traced = functools.partial(torch.compile, backend="aot_eager")
        monkeypatch.setattr(torch, "compile", traced)
    model = make_model("token", TOKENS)
    model.compile("sgd", "mse", jit_compile=True)
    tokens = tokens_of(BATCH, TOKENS)
    history = model.fit(tokens, tokens, BATCH, epochs=2, verbose=0)
    assert history.history["loss"][1] < history.history["loss"][0]


@pytest.mark.parametrize("label", [*LAYERS, "depths"])
def test_keras_layer_test(label):
    row = EVERYTHING[label]
    case = testing.TestCase("run_layer_test")
    case.run_layer_test(
        row.cls,
        row.arguments,
        input_data=keras.ops.convert_to_tensor(tokens_of(BATCH, TOKENS)),
        expected_output_shape=(BATCH, TOKENS, FEATURES),
        expected_num_losses={"token_losses": 3, "dropless_gated": 1}.get(
            label, 0
        ),
        supports_masking=True,
    )


# === int8 and LoRA ===


# Keras has no convolution in int8.
@pytest.mark.parametrize("label", [k for k in LAYERS if k != "soft_grid"])
def test_int8(label, quick_quantization):
    model = make_model(label, TOKENS)
    layer = model.get_layer("moe")
    tokens = tokens_of(BATCH, TOKENS)
    before = evaluate(model, tokens)
    model.quantize("int8")
    kernels = [v for v in layer.experts.weights if v.path.endswith("kernel")]
    assert kernels and {dtype_of(v) for v in kernels} == {"int8"}
    router = [v for v in layer.weights if "/experts/" not in v.path]
    assert router and {dtype_of(v) for v in router} == {"float32"}
    error = np.abs(evaluate(model, tokens) - before).max()
    assert 0 < error < 0.05 * np.abs(before).max()


@pytest.mark.parametrize("label", FEED_FORWARD)
def test_lora(label):
    model = make_model(label, TOKENS, residual=True)
    experts = model.get_layer("moe").experts
    tokens = tokens_of(BATCH, TOKENS)
    before = evaluate(model, tokens)
    experts.up.enable_lora(2)
    experts.down.enable_lora(2)
    np.testing.assert_array_equal(evaluate(model, tokens), before)
    kernels = [v for v in experts.weights if v.path.endswith("/kernel")]
    frozen = [v for v in kernels if "gate" not in v.path]
    trained = [v for v in experts.weights if "lora" in v.path]
    assert len(frozen) == 2 and len(trained) == 4
    for variable in frozen:
        assert all(variable is not v for v in model.trainable_variables)
    old = [keras.ops.convert_to_numpy(v) for v in (*frozen, *trained)]
    model.compile(keras.optimizers.Adam(0.01), "mse")
    model.fit(tokens, np.tanh(tokens), BATCH, epochs=3, verbose=0)
    changes = [
        np.abs(keras.ops.convert_to_numpy(v) - o).max()
        for v, o in zip((*frozen, *trained), old)
    ]
    assert max(changes[:2]) == 0 and min(changes[2:]) > 0
