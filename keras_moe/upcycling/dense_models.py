"""Dense models of KerasHub in this package's terms: arguments and weights.

`read` also takes this package's own backbones, dense or not, so that what
upcycles a model need not know where it comes from.
"""

import re
from typing import Any
from typing import NamedTuple

import keras
import keras_hub
import numpy as np

from keras_moe.models.language import causal_lm
from keras_moe.models.language import causal_lm_preprocessor
from keras_moe.models.language import tokenizer
from keras_moe.models.language.backbone import MoTBackbone
from keras_moe.models.vision import classifier
from keras_moe.models.vision import preprocessing
from keras_moe.models.vision.backbone import MoEViTBackbone


class Model(NamedTuple):
    """A backbone taken apart.

    `cls(**arguments)` has a weight for each key of `weights`, by path.
    """

    cls: type
    arguments: dict
    weights: dict[str, Any]


# KerasHub's names of weights, in the order in which they are replaced.
VIT = [
    (r"^vit_patching_and_embedding/class_token$", "class_token/token"),
    (r"^vit_patching_and_embedding/patch_embedding/", "patch_embedding/"),
    (r"^vit_patching_and_embedding/position_.*", "positions/positions"),
    (r"^vit_encoder/ln/", "norm/"),
    (r"/ln_1/", "/attention_norm/"),
    (r"/ln_2/", "/mlp_norm/"),
    (r"/mha/", "/attention/"),
    (r"/attention_output/", "/out/"),
    (r"/dense_1/", "/up/"),
    (r"/dense_2/", "/down/"),
]
GPT2 = [
    (r"^layer_norm/", "norm/"),
    (r"^transformer_layer_(\d+)/", r"block_\1/"),
    (r"/self_attention_layer_norm/", "/attention_norm/"),
    (r"/feedforward_layer_norm/", "/mlp_norm/"),
    (r"/self_attention/", "/attention/"),
    (r"/attention_output/", "/out/"),
    (r"/feedforward_intermediate_dense/", "/mlp/up/"),
    (r"/feedforward_output_dense/", "/mlp/down/"),
]
_BLOCK = re.compile(r"^vit_encoder/transformer_block_(\d+)/")


def read(backbone) -> Model:
    """Take a backbone apart.

    Args:
        backbone: of KerasHub, `ViTBackbone` or `GPT2Backbone`, or of this
            package.

    Raises:
        ValueError: for any other, or for one that cannot be expressed here.
    """
    if isinstance(backbone, (MoEViTBackbone, MoTBackbone)):
        arguments = backbone.get_config()
        del arguments["name"]
        weights = {w.path: w for w in backbone.weights}
        return Model(type(backbone), arguments, weights)
    if isinstance(backbone, keras_hub.models.ViTBackbone):
        return _vit(backbone)
    if isinstance(backbone, keras_hub.models.GPT2Backbone):
        return _gpt2(backbone)
    raise ValueError(
        "model must be a ViTImageClassifier, ViTBackbone, GPT2CausalLM or "
        "GPT2Backbone of KerasHub, or a model of keras_moe.models; received "
        f"{backbone!r}."
    )


def _vit(backbone):
    arguments = {
        "image_shape": backbone.image_shape,
        "patch_size": backbone.patch_size,
        "num_layers": backbone.num_layers,
        "num_heads": backbone.num_heads,
        "hidden_dim": backbone.hidden_dim,
        "mlp_dim": backbone.mlp_dim,
        "router": None,
        "class_token": backbone.use_class_token,
        "activation": "gelu",  # the exact one
        "dropout": backbone.dropout_rate,
        "attention_dropout": backbone.attention_dropout,
        "layer_norm_epsilon": backbone.layer_norm_epsilon,
        "data_format": backbone.data_format,
        "dtype": backbone.dtype_policy,
    }
    if backbone.hidden_dim % backbone.num_heads:
        raise ValueError(
            "model must have a hidden_dim that num_heads divides; received "
            f"hidden_dim={backbone.hidden_dim} and "
            f"num_heads={backbone.num_heads}."
        )

    def name(path):
        # KerasHub counts blocks from 1.
        path = _BLOCK.sub(lambda m: f"block_{int(m[1]) - 1}/", path)
        return _renamed(path, VIT)

    weights = {name(w.path): w for w in backbone.weights}
    places = weights["positions/positions"]
    weights["positions/positions"] = keras.ops.expand_dims(places, 0)
    return Model(MoEViTBackbone, arguments, weights)


def _gpt2(backbone):
    arguments = {
        "vocabulary_size": backbone.vocabulary_size,
        "num_layers": backbone.num_layers,
        "num_heads": backbone.num_heads,
        "hidden_dim": backbone.hidden_dim,
        "mlp_dim": backbone.intermediate_dim,
        "max_sequence_length": backbone.max_sequence_length,
        # KerasHub's heads are narrower where the division leaves a rest.
        "head_dim": backbone.hidden_dim // backbone.num_heads,
        "router": None,
        "activation": "gelu_tanh",
        "dropout": backbone.dropout,
        "layer_norm_epsilon": 1e-5,
        "dtype": backbone.dtype_policy,
    }
    weights = {_renamed(w.path, GPT2): w for w in backbone.weights}
    return Model(MoTBackbone, arguments, weights)


def _renamed(path, names):
    for theirs, ours in names:
        path = re.sub(theirs, ours, path)
    return path


def fill(backbone, weights) -> None:
    """Assign arrays to a backbone's weights, by path.

    A bias that the arrays lack is set to zero, which is what a projection
    without bias computes with.

    Raises:
        ValueError: if another weight is left over on either side, as with a
            model that is quantised or has LoRA weights.
    """
    own = {w.path: w for w in backbone.weights}
    lacking = {path for path in own if path not in weights}
    zero = {path for path in lacking if path.endswith("/bias")}
    odd = sorted((lacking - zero) | (set(weights) - set(own)))
    if odd:
        raise ValueError(
            "model must have the weights of its class, neither quantised nor "
            f"with LoRA; received one that differs in {', '.join(odd)}."
        )
    for path, variable in own.items():
        if path in zero:
            variable.assign(np.zeros(variable.shape))
        else:
            variable.assign(_copy(weights[path]))


def task(model, backbone):
    """The task `model` again, on another backbone, with its head.

    Args:
        model: a `ViTImageClassifier` or `GPT2CausalLM` of KerasHub, or a task
            of this package.
        backbone: of this package.
    """
    if isinstance(model, keras_hub.models.ViTImageClassifier):
        new = _classifier(model, backbone)
    elif isinstance(model, keras_hub.models.GPT2CausalLM):
        return _causal_lm(model, backbone)
    else:
        config = model.get_config()
        config.update(backbone=backbone, preprocessor=model.preprocessor)
        new = type(model)(**config)
    in_backbone = {id(w) for w in new.backbone.weights}
    head = {w.path: w for w in new.weights if id(w) not in in_backbone}
    in_backbone = {id(w) for w in model.backbone.weights}
    for weight in model.weights:
        if id(weight) not in in_backbone:
            head[weight.path].assign(_copy(weight))
    return new


def _copy(value):
    """An array of its own: JAX deletes those of a model that trains on."""
    return keras.ops.copy(value)


def _classifier(model, backbone):
    if model.pooling not in ("token", "gap"):
        raise ValueError(
            "model must have pooling='token' or 'gap'; received "
            f"{model.pooling!r}."
        )
    preprocessor = model.preprocessor
    kind = keras_hub.models.ViTImageClassifierPreprocessor
    if isinstance(preprocessor, kind):
        converter = preprocessor.image_converter
        if converter is not None:
            config = {
                **converter.get_config(),
                "data_format": converter.data_format,
            }
            converter = preprocessing.MoEViTImageConverter(**config)
        preprocessor = preprocessing.MoEViTImageClassifierPreprocessor(
            converter
        )
    return classifier.MoEViTImageClassifier(
        backbone,
        model.num_classes,
        preprocessor,
        pooling=model.pooling,
        representation_size=model.intermediate_dim,
        activation=model.activation,
        dropout=model.dropout,
        head_dtype=model.output_dense.dtype_policy,
    )


def _causal_lm(model, backbone):
    preprocessor = model.preprocessor
    if isinstance(preprocessor, keras_hub.models.GPT2CausalLMPreprocessor):
        theirs = preprocessor.tokenizer
        preprocessor = causal_lm_preprocessor.MoTCausalLMPreprocessor(
            tokenizer.MoTTokenizer(
                theirs.vocabulary,
                theirs.merges,
                sequence_length=theirs.sequence_length,
                add_prefix_space=theirs.add_prefix_space,
            ),
            sequence_length=preprocessor.sequence_length,
            add_start_token=preprocessor.add_start_token,
            add_end_token=preprocessor.add_end_token,
        )
    return causal_lm.MoTCausalLM(backbone, preprocessor)
