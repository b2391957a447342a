"""Drop-in replacements for the MLP of a transformer block."""

from keras_moe.layers.expert_choice import ExpertChoiceMoE
from keras_moe.layers.mixture_of_depths import MixtureOfDepths
from keras_moe.layers.mixture_of_tokens import MixtureOfTokens
from keras_moe.layers.recompute import Recompute
from keras_moe.layers.soft_moe import SoftMoE
from keras_moe.layers.token_choice import TokenChoiceMoE

__all__ = [
    "ExpertChoiceMoE",
    "MixtureOfDepths",
    "MixtureOfTokens",
    "Recompute",
    "SoftMoE",
    "TokenChoiceMoE",
]
