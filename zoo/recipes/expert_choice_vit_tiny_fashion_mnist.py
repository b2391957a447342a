"""The Soft MoE ViT with Expert Choice: as many capacity slots as slots."""

import dataclasses

from zoo.recipes.soft_moe_vit_tiny_fashion_mnist import RECIPE as SOFT

RECIPE = dataclasses.replace(
    SOFT,
    name="expert_choice_vit_tiny_fashion_mnist",
    title="Expert Choice ViT, 16 experts of 3 slots, for Fashion-MNIST",
    backbone={
        **SOFT.backbone,
        "router": "expert_choice",
        # round(49 · 1 / 16) = 3 capacity slots for each expert.
        "router_options": {"num_experts": 16, "capacity_factor": 1.0},
    },
    initial_scale=1.0,  # there is no scale to start
)
