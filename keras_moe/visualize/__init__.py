"""Pictures of what routers do; they need matplotlib (extra `viz`)."""

from keras_moe.visualize.experts import expert_load as expert_load
from keras_moe.visualize.experts import expert_similarity as expert_similarity
from keras_moe.visualize.images import expert_regions as expert_regions
from keras_moe.visualize.images import slot_regions as slot_regions
from keras_moe.visualize.images import token_weights as token_weights
from keras_moe.visualize.page import report as report
from keras_moe.visualize.texts import token_experts as token_experts

__all__ = [
    "expert_load",
    "expert_regions",
    "expert_similarity",
    "report",
    "slot_regions",
    "token_experts",
    "token_weights",
]
