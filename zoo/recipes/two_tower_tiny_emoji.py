"""The dense twin of the Soft MoE two towers: wider MLPs, equal step time."""

from zoo.recipe import dense_twin
from zoo.recipes.soft_moe_two_tower_tiny_emoji import RECIPE as SOFT

RECIPE = dense_twin(
    SOFT,
    "two_tower_tiny_emoji",
    "Dense two towers, twin of the Soft MoE ones, on emoji and names",
    mlp_dim=416,
)
