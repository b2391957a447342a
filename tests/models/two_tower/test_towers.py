"""`MoETwoTowerBackbone`: its equation, vmoe's numbers, and towers of others."""

import pathlib

import keras
import keras_hub
import numpy as np
import pytest
from keras_hub.src.tests.test_case import TestCase

from conversion.vmoe_names import source_name
from keras_moe import models
from keras_moe.models.two_tower.pooling import SequencePooling
from keras_moe.models.two_tower.similarity import Similarity
from tests import support
from tests.models.support import close
from tests.models.support import evaluate
from tests.models.support import images_of
from tests.models.support import make_backbone as make_image_tower
from tests.models.support import randomize
from tests.models.two_tower.support import LENGTH
from tests.models.two_tower.support import make_backbone
from tests.models.two_tower.support import make_text_tower
from tests.models.two_tower.support import pairs_of
from tests.models.two_tower.support import run
from tests.models.two_tower.support import texts_of
from tests.models.two_tower.support import unit

GOLDEN = pathlib.Path(__file__).parents[2] / "golden"


class KerasHubTest(TestCase):
    def test_backbone(self):
        self.run_backbone_test(
            cls=models.MoETwoTowerBackbone,
            init_kwargs={
                "image_tower": make_image_tower(),
                "text_tower": make_text_tower(),
                "projection_dim": 5,
            },
            input_data=pairs_of(images_of(2), [3, 4, 5], [6, 2]),
            expected_output_shape={
                "image_embeddings": (2, 5),
                "text_embeddings": (2, 5),
            },
            run_mixed_precision_check=False,
            run_quantization_check=False,
        )


# === What is computed ===


def test_embeddings_are_the_equation():
    backbone = randomize(
        make_backbone(projection_dim=5, text_pooling="last_token")
    )
    inputs = pairs_of(images_of(2), [3, 4, 5, 2], [6, 2])
    outputs = run(backbone, inputs)
    tokens = evaluate(backbone.image_tower, inputs["images"])
    texts = {name: inputs[name] for name in ("token_ids", "padding_mask")}
    words = run(backbone.text_tower, texts)
    weights = {w.path: keras.ops.convert_to_numpy(w) for w in backbone.weights}
    for kind, features in (
        ("image", tokens.mean(1)),
        ("text", words[[0, 1], [3, 1]]),
    ):
        features = features @ weights[f"{kind}_projection/kernel"]
        features = features + weights[f"{kind}_projection/bias"]
        close(outputs[f"{kind}_embeddings"], unit(features))
    logits = support.run(backbone.logits, *outputs.values())
    scale = np.exp(weights["similarity/log_scale"])
    image, text = outputs["image_embeddings"], outputs["text_embeddings"]
    close(logits, scale * image @ text.T + weights["similarity/bias"], 1e-5)


@pytest.mark.parametrize("pooling", ["mean", "token", "last", "last_token"])
def test_poolings(pooling):
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(3, 4, 2)).astype("float32")
    mask = np.array([[1, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
    layer = SequencePooling(pooling)
    found = support.run(lambda x, m: layer(x, padding_mask=m), tokens, mask)
    wanted = {
        "mean": [tokens[0, :3].mean(0), tokens[1].mean(0), [0, 0]],
        "token": tokens[:, 0],
        "last": tokens[:, -1],
        "last_token": [tokens[0, 2], tokens[1, 3], tokens[2, 0]],
    }[pooling]
    close(found, np.array(wanted), 1e-6)
    without = {"mean": tokens.mean(1), "token": tokens[:, 0]}
    close(support.run(layer, tokens), without.get(pooling, tokens[:, -1]), 1e-6)


def test_features_of_zero_have_finite_gradients():
    layer = Similarity()
    layer.build((2, 3))
    features = np.array([[0, 0, 0], [3, 0, 4]], "float32")
    value, (gradient,) = support.value_and_grads(
        lambda x: keras.ops.sum(layer(x)), features
    )
    close(value, 1.4)
    assert np.isfinite(gradient).all()


def test_two_towers_of_vmoe():
    with np.load(GOLDEN / "F5_two_tower_soft.npz") as arrays:
        arrays = dict(arrays)
    image_tower = models.MoEViTBackbone(
        image_shape=(16, 16, 3),
        patch_size=4,
        num_layers=3,
        num_heads=2,
        hidden_dim=32,
        mlp_dim=64,
        router="soft",
        moe_layers=(2,),
        router_options={"num_experts": 4, "slots_per_expert": 1},
        qk_norm=True,
    )
    text_tower = models.TextTransformerBackbone(
        vocabulary_size=50,
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        mlp_dim=24,
        max_sequence_length=6,
        qk_norm=True,
        mask_padding=False,
    )
    backbone = make_backbone(image_tower, text_tower)
    read = set()
    for weight in backbone.weights:
        name = f"params/{vmoe_name(weight.path)}"
        weight.assign(arrays[name].reshape(weight.shape))
        read.add(name)
    assert read == {name for name in arrays if name.startswith("params/")}
    inputs = {
        "images": arrays["images"],
        "token_ids": arrays["texts"],
        # vmoe attends to padding too: what the mask says has no effect.
        "padding_mask": np.zeros((4, 6), "int32"),
    }
    found = run(backbone, inputs)
    close(found["image_embeddings"], arrays["zimg_f32_dispatch"], 1e-5)
    close(found["text_embeddings"], arrays["ztxt"], 1e-5)
    logits = support.run(backbone.logits, *found.values())
    close(logits, arrays["logits_f32_dispatch"], 1e-5)


def vmoe_name(path):
    """Name of vmoe for our variable at a path of the backbone."""
    others = {
        "similarity/log_scale": "s",
        "similarity/bias": "b",
        "text_projection/kernel": "txt/head/kernel",
        "text_projection/bias": "txt/head/bias",
        "text_embedding/embeddings": "txt/Embed_0/embedding",
        "text_positions/embeddings": "txt/Encoder/posembed_input/pos_embedding",
    }
    if path in others:
        return others[path]
    if path.startswith("text_"):
        return f"txt/{source_name(path.removeprefix('text_'))}"
    return f"img/{source_name(path)}"


def test_half_precision():
    """Embeddings are float32 of length 1 whatever the towers compute in."""
    wide = randomize(make_backbone())
    half = models.MoETwoTowerBackbone(
        make_image_tower(dtype="mixed_bfloat16"),
        make_text_tower(dtype="mixed_bfloat16"),
    )
    half.set_weights(wide.get_weights())
    inputs = pairs_of(images_of(2), [3, 4, 5, 2], [6, 2])
    found, wanted = run(half, inputs), run(wide, inputs)
    for name, array in found.items():
        assert array.dtype == np.float32
        close(np.linalg.norm(array, axis=1), np.ones(2), 1e-6)
        assert 0 < np.abs(array - wanted[name]).max() < 0.05


# === Towers of others ===


def clip():
    sizes = {
        "hidden_dim": 8,
        "num_layers": 1,
        "num_heads": 2,
        "intermediate_dim": 12,
    }
    text = {"vocabulary_size": 8, "embedding_dim": 8}
    return (
        keras_hub.models.CLIPVisionEncoder(
            patch_size=4, image_shape=(8, 8, 3), name="see", **sizes
        ),
        keras_hub.models.CLIPTextEncoder(
            max_sequence_length=LENGTH, name="read", **text, **sizes
        ),
    )


def siglip():
    sizes = {
        "hidden_dim": 8,
        "num_layers": 1,
        "num_heads": 2,
        "intermediate_dim": 12,
    }
    return (
        keras_hub.models.SigLIPVisionEncoder(
            patch_size=4, image_shape=(8, 8, 3), name="see", **sizes
        ),
        keras_hub.models.SigLIPTextEncoder(
            vocabulary_size=8,
            embedding_dim=8,
            max_sequence_length=LENGTH,
            name="read",
            **sizes,
        ),
    )


def resnet_and_bert():
    return (
        keras_hub.models.ResNetBackbone(
            input_conv_filters=[64],
            input_conv_kernel_sizes=[3],
            stackwise_num_filters=[64],
            stackwise_num_blocks=[1],
            stackwise_num_strides=[1],
            block_type="basic_block",
            image_shape=(8, 8, 3),
        ),
        keras_hub.models.BertBackbone(
            vocabulary_size=8,
            num_layers=1,
            num_heads=2,
            hidden_dim=8,
            intermediate_dim=12,
            max_sequence_length=LENGTH,
        ),
    )


@pytest.mark.parametrize(
    "towers, poolings, projection",
    [
        (clip, ("gap", "last"), "none"),
        (siglip, ("pooled", "pooled"), "none"),
        (resnet_and_bert, ("gap", "pooled"), "both"),
    ],
)
def test_towers_of_kerashub(towers, poolings, projection):
    width = None if projection == "none" else 7
    backbone = make_backbone(
        *towers(), projection_dim=width, projection=projection
    )
    assert (backbone.image_pooling, backbone.text_pooling) == poolings
    inputs = pairs_of(images_of(2, (8, 8, 3)), [3, 4], [5, 6, 7])
    found = run(backbone, inputs)
    assert found["image_embeddings"].shape == (2, width or 8)
    text = inputs["token_ids"]
    given = {"token_ids": text}
    if "padding_mask" in backbone.text_tower.input:
        given["padding_mask"] = inputs["padding_mask"]
        given["segment_ids"] = np.zeros_like(text)
    features = run(backbone.text_tower, given)
    if isinstance(features, dict):
        features = features["pooled_output"]
    elif features.ndim == 3:
        features = features[:, -1]
    if projection == "both":
        kernel, bias = backbone.text_encoder.get_layer(
            "text_projection"
        ).get_weights()
        features = features @ kernel + bias
    close(found["text_embeddings"], unit(features))
    again = models.MoETwoTowerBackbone.from_config(backbone.get_config())
    assert again.get_config() == backbone.get_config()


# === Arguments ===


class Nothing(keras_hub.models.Backbone):
    """Reads images; gives a dictionary without what a tower has."""

    def __init__(self):
        images = keras.Input((8, 8, 3), name="images")
        super().__init__(inputs=images, outputs={"other": images})


@pytest.mark.once
@pytest.mark.parametrize(
    "arguments, text",
    [
        ({"image_tower": 3}, "image_tower must be a keras_hub.models.Backbo"),
        (
            {"image_tower": lambda: clip()[1]},
            "image_tower must read images alone, .* CLIPTextEncoder reads "
            "token_ids",
        ),
        (
            {"text_tower": make_image_tower},
            "text_tower must read a dictionary of token_ids",
        ),
        ({"image_tower": Nothing}, "image_tower must give .*'other'"),
        ({"projection_dim": 0}, "projection_dim must be an integer of at lea"),
        ({"projection": "all"}, "projection must be one of 'both', 'text'"),
        (
            {"projection_dim": 4, "projection": "text"},
            "projection must be 'both' or 'image' where the features of the "
            "image tower, 8, do not have the width of the embeddings, 4",
        ),
        ({"image_pooling": "mean"}, "image_pooling must be one of 'gap', 'to"),
        ({"image_pooling": "token"}, "image_pooling 'token' needs .*class_to"),
        ({"image_pooling": "pooled"}, "image_pooling 'pooled' needs a tower"),
        ({"initial_logit_scale": 0}, "initial_logit_scale must be a finite"),
        ({"initial_logit_bias": "b"}, "initial_logit_bias must be a finite"),
        (
            {"max_logit_scale": 9},
            "max_logit_scale must be None or a finite number, at least 10.0; "
            "received 9",
        ),
        ({"dtype": "float3"}, "dtype must be a Keras dtype"),
        ({"width": 3}, "MoETwoTowerBackbone has no argument width"),
    ],
)
def test_arguments_that_do_not_fit(arguments, text):
    arguments = {
        name: value() if callable(value) else value
        for name, value in arguments.items()
    }
    if isinstance(arguments.get("text_tower"), models.MoEViTBackbone):
        arguments["image_tower"] = siglip()[0]
    with pytest.raises(ValueError, match=f"(?s)^{text}"):
        make_backbone(**arguments)


@pytest.mark.once
def test_towers_that_do_not_fit():
    see, read = siglip()
    with pytest.raises(ValueError, match="'pooled' or None where the tower g"):
        make_backbone(see, read, text_pooling="last")
    see, read = clip()
    with pytest.raises(ValueError, match="text_pooling 'map' needs a MoEViT"):
        make_backbone(see, read, text_pooling="map")
    twin = make_image_tower()
    with pytest.raises(ValueError, match="weights of different paths"):
        models.MoETwoTowerBackbone(twin, twin)


def test_attention_pooling_does_not_read_padding():
    backbone = randomize(make_backbone(image_pooling="map", text_pooling="map"))
    inputs = texts_of([3, 4, 5, 2], [6, 2])
    before = run(backbone.text_encoder, inputs)
    inputs["token_ids"][1, 2:] = 7
    close(run(backbone.text_encoder, inputs), before, 1e-6)
    assert backbone.image_encoder.get_layer("image_pooling").num_heads == 2
