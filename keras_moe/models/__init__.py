"""Models with mixtures of experts, on KerasHub's classes."""

from keras_moe import extras

try:
    import keras_hub as _  # noqa: F401  (needed by all of this package)
except ImportError as error:
    raise extras.missing("KerasHub", "models", "keras_moe.models") from error

from keras_moe.models.architectures import ARCHITECTURES
from keras_moe.models.architectures import weight_shapes
from keras_moe.models.catalogue import list_presets
from keras_moe.models.causal_lm import MoTCausalLM
from keras_moe.models.causal_lm_preprocessor import MoTCausalLMPreprocessor
from keras_moe.models.language_model import MoTBackbone
from keras_moe.models.masked_lm import MoTMaskedLM
from keras_moe.models.masked_lm_preprocessor import MoTMaskedLMPreprocessor
from keras_moe.models.positions import resize_positions
from keras_moe.models.tokenizer import MoTTokenizer
from keras_moe.models.vit import MoEViTBackbone
from keras_moe.models.vit_classifier import MoEViTImageClassifier
from keras_moe.models.vit_classifier import MoEViTImageClassifierPreprocessor
from keras_moe.models.vit_classifier import MoEViTImageConverter
from keras_moe.models.vit_classifier import image_converter

__all__ = [
    "ARCHITECTURES",
    "MoEViTBackbone",
    "MoEViTImageClassifier",
    "MoEViTImageClassifierPreprocessor",
    "MoEViTImageConverter",
    "MoTBackbone",
    "MoTCausalLM",
    "MoTCausalLMPreprocessor",
    "MoTMaskedLM",
    "MoTMaskedLMPreprocessor",
    "MoTTokenizer",
    "image_converter",
    "list_presets",
    "resize_positions",
    "weight_shapes",
]
