"""The Soft MoE ViT's sibling with Expert Choice: seats as many as slots."""

import dataclasses

from zoo.recipes.soft_moe_vit_tiny_fashion_mnist import RECIPE as SOFT

RECIPE = dataclasses.replace(
    SOFT,
    name="expert_choice_vit_tiny_fashion_mnist",
    title="Expert Choice ViT, 24 experts of 2 seats, on Fashion-MNIST",
    backbone={
        **SOFT.backbone,
        "router": "expert_choice",
        # round(49 · 1 / 24) = 2 seats an expert, as the slots of its sibling.
        "router_options": {"num_experts": 24, "capacity_factor": 1.0},
    },
)
