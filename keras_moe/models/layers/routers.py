"""Routers of the models, by the name that their argument `router` takes."""

from keras_moe import layers
from keras_moe.models.layers.batch_choice import BatchExpertChoice

ROUTERS = {
    "soft": layers.SoftMoE,
    "mixture_of_tokens": layers.MixtureOfTokens,
    "expert_choice": layers.ExpertChoiceMoE,
    "token_choice": layers.TokenChoiceMoE,
    "batch_expert_choice": BatchExpertChoice,
}
VISION = ("soft", "expert_choice", "token_choice")
TEXT = (*VISION, "mixture_of_tokens")
LANGUAGE = (
    "mixture_of_tokens",
    "expert_choice",
    "token_choice",
    "batch_expert_choice",
)
