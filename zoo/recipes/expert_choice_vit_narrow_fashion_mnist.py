"""The narrow Soft MoE ViT with Expert Choice: as many capacity slots."""

from zoo.recipe import expert_choice
from zoo.recipes.soft_moe_vit_narrow_fashion_mnist import RECIPE as SOFT

RECIPE = expert_choice(
    SOFT,
    "expert_choice_vit_narrow_fashion_mnist",
    "Narrow Expert Choice ViT, 16 experts of 1 slot, for Fashion-MNIST",
)
