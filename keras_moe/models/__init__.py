"""Models with mixtures of experts, on KerasHub's classes."""

from keras_moe import extras

try:
    import keras_hub as _  # noqa: F401  (needed by all of this package)
except ImportError as error:
    raise extras.missing("KerasHub", "models", "keras_moe.models") from error

from keras_moe.models.language.backbone import MoTBackbone
from keras_moe.models.language.causal_lm import MoTCausalLM
from keras_moe.models.language.causal_lm_preprocessor import (
    MoTCausalLMPreprocessor,
)
from keras_moe.models.language.masked_lm import MoTMaskedLM
from keras_moe.models.language.masked_lm_preprocessor import (
    MoTMaskedLMPreprocessor,
)
from keras_moe.models.language.tokenizer import MoTTokenizer
from keras_moe.models.presets.catalogue import list_presets
from keras_moe.models.two_tower.backbone import MoETwoTowerBackbone
from keras_moe.models.two_tower.preprocessing import MoETwoTowerPreprocessor
from keras_moe.models.two_tower.task import MoETwoTower
from keras_moe.models.two_tower.text import TextTransformerBackbone
from keras_moe.models.two_tower.tokenizer import CaptionTokenizer
from keras_moe.models.two_tower.zero_shot import ZeroShotClassifier
from keras_moe.models.vision.architectures import ARCHITECTURES
from keras_moe.models.vision.architectures import weight_shapes
from keras_moe.models.vision.backbone import MoEViTBackbone
from keras_moe.models.vision.classifier import MoEViTImageClassifier
from keras_moe.models.vision.positions import resize_positions
from keras_moe.models.vision.preprocessing import (
    MoEViTImageClassifierPreprocessor,
)
from keras_moe.models.vision.preprocessing import MoEViTImageConverter
from keras_moe.models.vision.preprocessing import image_converter

__all__ = [
    "ARCHITECTURES",
    "CaptionTokenizer",
    "MoETwoTower",
    "MoETwoTowerBackbone",
    "MoETwoTowerPreprocessor",
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
    "TextTransformerBackbone",
    "ZeroShotClassifier",
    "image_converter",
    "list_presets",
    "resize_positions",
    "weight_shapes",
]
