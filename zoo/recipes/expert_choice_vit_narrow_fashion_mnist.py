"""The narrow Soft MoE ViT with Expert Choice: as many capacity slots."""

import dataclasses

from zoo.recipes.soft_moe_vit_narrow_fashion_mnist import RECIPE as SOFT

RECIPE = dataclasses.replace(
    SOFT,
    name="expert_choice_vit_narrow_fashion_mnist",
    title="Narrow Expert Choice ViT, 16 experts of 1 slot, for Fashion-MNIST",
    backbone={
        **SOFT.backbone,
        "router": "expert_choice",
        # 16 tokens · 1 / 16 = 1 capacity slot for each expert.
        "router_options": {"num_experts": 16, "capacity_factor": 1.0},
    },
    initial_scale=1.0,  # there is no scale to start
)
