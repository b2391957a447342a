"""The dense twin of the Soft MoE ViT: wider MLPs, for an equal step time."""

import dataclasses

from zoo.recipes.soft_moe_vit_tiny_fashion_mnist import RECIPE as SOFT

_BACKBONE = {
    key: value
    for key, value in SOFT.backbone.items()
    if key not in ("router", "moe_layers", "router_options")
}

RECIPE = dataclasses.replace(
    SOFT,
    name="vit_tiny_fashion_mnist",
    title="Dense ViT, twin of the Soft MoE ViT, trained on Fashion-MNIST",
    backbone={**_BACKBONE, "mlp_dim": 320},
    twin=None,
)
