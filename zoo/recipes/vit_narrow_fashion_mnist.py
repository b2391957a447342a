"""The dense twin of the narrow Soft MoE ViT: wider MLPs, equal step time."""

from zoo.recipe import dense_twin
from zoo.recipes.soft_moe_vit_narrow_fashion_mnist import RECIPE as SOFT

RECIPE = dense_twin(
    SOFT,
    "vit_narrow_fashion_mnist",
    "Narrow dense ViT, twin of the narrow Soft MoE ViT, for Fashion-MNIST",
    mlp_dim=160,
)
