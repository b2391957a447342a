"""The dense twin of the Soft MoE ViT: wider MLPs, for an equal step time."""

from zoo.recipe import dense_twin
from zoo.recipes.soft_moe_vit_tiny_short import RECIPE as SOFT

RECIPE = dense_twin(
    SOFT,
    "vit_tiny_short",
    "Dense ViT, twin of the Soft MoE ViT, 5 epochs of Fashion-MNIST",
    mlp_dim=480,
)
