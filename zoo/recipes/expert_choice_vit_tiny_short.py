"""The Soft MoE ViT's sibling with Expert Choice: seats as many as slots."""

import dataclasses

from zoo.recipes.soft_moe_vit_tiny_short import RECIPE as SOFT

RECIPE = dataclasses.replace(
    SOFT,
    name="expert_choice_vit_tiny_short",
    title="Expert Choice ViT, 16 experts of 1 seat, 5 epochs of Fashion-MNIST",
    backbone={
        **SOFT.backbone,
        "router": "expert_choice",
        # round(16 · 1 / 16) = 1 seat an expert, as the slots of its sibling.
        "router_options": {"num_experts": 16, "capacity_factor": 1.0},
    },
)
