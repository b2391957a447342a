"""The Soft MoE ViT with Expert Choice: as many capacity slots as slots."""

from zoo.recipe import expert_choice
from zoo.recipes.soft_moe_vit_tiny_fashion_mnist import RECIPE as SOFT

RECIPE = expert_choice(
    SOFT,
    "expert_choice_vit_tiny_fashion_mnist",
    "Expert Choice ViT, 16 experts of 3 slots, for Fashion-MNIST",
)
