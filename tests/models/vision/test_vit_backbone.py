"""`MoEViTBackbone` as a KerasHub backbone, and its own arguments."""

import gc

import keras
import numpy as np
import pytest
from keras_hub.src.tests.test_case import TestCase

from keras_moe.models import MoEViTBackbone
from keras_moe.models.layers.attention import Attention
from keras_moe.models.vision.block import TransformerBlock
from tests.models.support import ROUTERS
from tests.models.support import TINY
from tests.models.support import close
from tests.models.support import evaluate
from tests.models.support import images_of
from tests.models.support import make_backbone
from tests.models.support import randomize

every_router = pytest.mark.parametrize("router", ROUTERS)


# === What KerasHub asks of every backbone ===


class KerasHubTest(TestCase):
    def run_backbone(self, router, **more):
        # Slow, and checked for every router further down.
        self.run_backbone_test(
            cls=MoEViTBackbone,
            init_kwargs={**TINY, **ROUTERS[router]},
            input_data=images_of(),
            expected_output_shape=(2, 12, 8),
            run_mixed_precision_check=False,
            run_quantization_check=False,
        )

    def test_expert_choice(self):
        self.run_backbone("expert_choice")

    def test_token_choice(self):
        self.run_backbone("token_choice")

    def test_dense(self):
        self.run_backbone("dense")

    def test_vision_backbone(self):
        self.run_vision_backbone_test(
            cls=MoEViTBackbone,
            init_kwargs={**TINY, **ROUTERS["soft"]},
            # The check of shapes does not take numpy.
            input_data=keras.ops.convert_to_tensor(images_of()),
            expected_output_shape=(2, 12, 8),
            # The check wants weights in half precision too. Routers keep
            # theirs in float32; see `test_precision`.
            run_mixed_precision_check=False,
            # The check wants features before tokens in the output too. Tokens
            # are not an image: (batch, tokens, features) in either format.
            run_data_format_check=False,
        )


# === Arguments ===


@pytest.mark.parametrize(
    "arguments",
    [
        {"router": None},
        {"positions": "none", "class_token": True, "qk_norm": True},
        {
            **ROUTERS["soft"],
            "patch_size": (4, 8),
            "moe_layers": [0],
            "positions": "sincos2d",
            "stem_dims": (4, 6),
            "activation": "relu",
            "dropout": 0.1,
            "attention_dropout": 0.2,
            "layer_norm_epsilon": 1e-5,
            "data_format": "channels_last",
            "dtype": "mixed_bfloat16",
        },
    ],
    ids=["dense", "tokens", "all"],
)
def test_config_keeps_every_argument(arguments):
    backbone = MoEViTBackbone(**{**TINY, **arguments}, name="vit")
    config = backbone.get_config()
    for name, value in {**TINY, **arguments}.items():
        if name == "dtype":
            value = keras.dtype_policies.serialize(keras.DTypePolicy(value))
        if name == "moe_layers":
            value = tuple(value)
        if name == "patch_size" and isinstance(value, int):
            value = (value, value)
        assert config[name] == value, name
    assert MoEViTBackbone.from_config(config).get_config() == config


def test_default_moe_layers_are_the_last_half():
    for number, expected in [(1, ()), (2, (1,)), (3, (2,)), (4, (2, 3))]:
        backbone = make_backbone(num_layers=number)
        assert backbone.moe_layers == expected
        for index, block in enumerate(backbone.blocks):
            assert block.router == ("soft" if index in expected else None)


@pytest.mark.parametrize("positions", ["learned", "sincos2d", "none"])
@pytest.mark.parametrize("class_token", [False, True])
def test_positions(positions, class_token):
    """Only positions tell a patch's place, and the class token reads all."""
    backbone = randomize(
        make_backbone("dense", positions=positions, class_token=class_token)
    )
    images = images_of()
    outputs = evaluate(backbone, images)
    assert outputs.shape == (2, 12 + class_token, 8)
    # The rows of patches upside down: without positions, so is the output.
    swapped = images.reshape(2, 3, 4, 16, 3)[:, ::-1].reshape(images.shape)
    rows = evaluate(backbone, swapped)[:, class_token:].reshape(2, 3, 4, 8)
    rows = rows[:, ::-1].reshape(2, 12, 8)
    difference = np.abs(rows - outputs[:, class_token:]).max()
    assert difference < 1e-5 if positions == "none" else difference > 1e-3
    if class_token:
        other = evaluate(backbone, images_of(seed=1))
        assert np.abs(other - outputs)[:, 0].min(-1).max() > 1e-4


def test_patches_are_read_in_rows():
    """A change of one patch comes out at its token, row by row."""
    backbone = make_backbone("dense", num_layers=1, positions="none")
    backbone.blocks[0].attention.out.kernel.assign(np.zeros((2, 4, 8)))
    images = images_of(1)
    changed = images.copy()
    changed[:, 4:8, 8:12] += 1  # second row, third column
    difference = evaluate(backbone, changed) - evaluate(backbone, images)
    (moved,) = np.nonzero(np.abs(difference[0]).max(-1) > 1e-6)
    assert moved.tolist() == [1 * 4 + 2]


def test_qk_norm():
    plain, normed = make_backbone(), make_backbone(qk_norm=True)
    names = {w.path for w in normed.weights} - {w.path for w in plain.weights}
    assert names == {
        f"block_{i}/attention/{name}/gamma"
        for i in range(2)
        for name in ("query_norm", "key_norm")
    }
    # Queries of any length give the same weights.
    images = images_of()
    before = evaluate(normed, images)
    query = normed.blocks[0].attention.query
    query.kernel.assign(3 * keras.ops.convert_to_numpy(query.kernel))
    close(evaluate(normed, images), before, 1e-4)


def test_channels_first():
    last = randomize(make_backbone())
    first = make_backbone(image_shape=(3, 12, 16), data_format="channels_first")
    for weight, other in zip(first.weights, last.weights):
        weight.assign(other)
    images = images_of()
    outputs = evaluate(first, images.transpose(0, 3, 1, 2))
    close(outputs, evaluate(last, images))


@pytest.mark.parametrize(
    "shape, patch, tokens", [((8, 8, 1), 8, 1), ((6, 20, 4), (3, 5), 8)]
)
def test_other_sizes(shape, patch, tokens):
    backbone = make_backbone(image_shape=shape, patch_size=patch)
    outputs = evaluate(backbone, images_of(3, shape))
    assert outputs.shape == (3, tokens, 8) and np.isfinite(outputs).all()


# === Groups ===


def test_groups_of_two_images():
    """Tokens of two images meet, as if they were one sequence."""
    options = {"num_experts": 2, "slots_per_expert": 2}
    block = TransformerBlock(
        2, 12, "soft", {**options, "group_size": 12}, name="block"
    )
    tokens = np.random.default_rng(0).normal(size=(4, 6, 8)).astype("float32")
    block.build(tokens.shape)
    pairs = keras.ops.reshape(tokens, (2, 12, 8))
    expected = keras.ops.reshape(block.mlp(pairs), (4, 6, 8))
    close(
        *map(
            keras.ops.convert_to_numpy,
            [block._mlp(tokens, None, False), expected],
        )
    )


def test_images_meet_in_larger_groups_only():
    images = images_of(2)
    other = np.stack([images[0], images_of(1, seed=5)[0]])
    for size, meet in [(None, False), (12, False), (4, False), (24, True)]:
        options = {**ROUTERS["soft"]["router_options"], "group_size": size}
        backbone = randomize(make_backbone(router_options=options))
        change = evaluate(backbone, images) - evaluate(backbone, other)
        assert (np.abs(change[0]).max() > 1e-4) == meet, size


# === Dropout ===


def test_attention_dropout():
    tokens = np.random.default_rng(0).normal(size=(2, 5, 8)).astype("float32")
    plain = Attention(2, qk_norm=True)
    almost = Attention(2, qk_norm=True, dropout=1e-9)
    often = Attention(2, qk_norm=True, dropout=0.5)
    for layer in (plain, almost, often):
        layer.build(tokens.shape)
        layer.set_weights(plain.get_weights())
    run = keras.ops.convert_to_numpy
    expected = run(plain(tokens, training=True))
    close(run(almost(tokens, training=True)), expected)
    close(run(often(tokens, training=False)), expected, 1e-6)
    assert np.abs(run(often(tokens, training=True)) - expected).max() > 1e-3


@pytest.mark.parametrize("router", ["soft", "token_choice"])
def test_training_with_dropout(router):
    backbone = make_backbone(router, dropout=0.3, attention_dropout=0.3)
    before = {w.path: keras.ops.convert_to_numpy(w) for w in backbone.weights}
    images = images_of()
    assert (
        np.abs(
            evaluate(backbone, images)
            - evaluate(backbone, images, training=True)
        ).max()
        > 1e-3
    )
    backbone.compile("adam", "mse")
    history = backbone.fit(images, np.ones((2, 12, 8)), 2, verbose=0)
    assert np.isfinite(history.history["loss"][0])
    for weight in backbone.trainable_weights:
        if weight.path.endswith("key/bias"):
            continue  # the softmax does not see it
        after = keras.ops.convert_to_numpy(weight)
        assert (after != before[weight.path]).any(), weight.path


# === Precision ===


@pytest.mark.parametrize(
    "policy, router",
    [("mixed_bfloat16", router) for router in ROUTERS]
    + [("bfloat16", "soft"), ("float16", "soft")],
)
def test_precision(policy, router):
    if policy == "float16" and keras.backend.backend() == "jax":
        pytest.skip("XLA has no attention in float16 on CPUs")
    full = randomize(make_backbone(router, class_token=True, qk_norm=True))
    half = make_backbone(router, class_token=True, qk_norm=True, dtype=policy)
    values = {w.path: keras.ops.convert_to_numpy(w) for w in full.weights}
    for weight in half.weights:
        weight.assign(values[weight.path])
    images = images_of()
    if router in ("soft", "dense"):
        close(evaluate(half, images), evaluate(full, images), 0.1)
    assert half.output.dtype == half.compute_dtype
    # Choices may differ: where two are nearly equal, rounding decides.
    assert np.isfinite(evaluate(half, images)).all()


@every_router
def test_int8(router, tmp_path, monkeypatch):
    # Keras collects garbage after each layer: most of a second, every time.
    monkeypatch.setattr(gc, "collect", lambda: None)
    backbone = randomize(make_backbone(router))
    images = images_of()
    before = evaluate(backbone, images)
    backbone.quantize("int8")
    kernels = [w for w in backbone.weights if w.dtype == "int8"]
    # Query, key, value, out, up and down in each of two blocks.
    assert len(kernels) == 12
    after = evaluate(backbone, images)
    assert 0 < np.abs(after - before).mean() < 0.2
    backbone.save_to_preset(tmp_path / "int8")
    loaded = MoEViTBackbone.from_preset(tmp_path / "int8")
    assert sum(w.dtype == "int8" for w in loaded.weights) == 12
    close(evaluate(loaded, images), after, 1e-6)


def test_keras_file(tmp_path):
    backbone = randomize(make_backbone("token_choice", class_token=True))
    backbone.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is MoEViTBackbone
    close(evaluate(loaded, images_of()), evaluate(backbone, images_of()), 0)
