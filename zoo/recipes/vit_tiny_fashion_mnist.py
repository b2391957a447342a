"""The dense twin of the Soft MoE ViT: wider MLPs, for an equal step time."""

from zoo.recipe import dense_twin
from zoo.recipes.soft_moe_vit_tiny_fashion_mnist import RECIPE as SOFT

RECIPE = dense_twin(
    SOFT,
    "vit_tiny_fashion_mnist",
    "Dense ViT, twin of the Soft MoE ViT, trained on Fashion-MNIST",
    mlp_dim=320,
)
