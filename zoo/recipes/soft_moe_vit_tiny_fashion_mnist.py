"""Soft MoE in the last two of four blocks, about one slot for each token."""

from zoo.recipe import ImageRecipe

RECIPE = ImageRecipe(
    name="soft_moe_vit_tiny_fashion_mnist",
    title="Soft MoE ViT, 24 experts of 2 slots, trained on Fashion-MNIST",
    data="fashion_mnist",
    backbone={
        "image_shape": (28, 28, 1),
        "patch_size": 4,
        "num_layers": 4,
        "num_heads": 3,
        "hidden_dim": 96,
        "mlp_dim": 384,
        "router": "soft",
        "moe_layers": (2, 3),
        "router_options": {"num_experts": 24, "slots_per_expert": 2},
        "positions": "sincos2d",
        "activation": "gelu",
    },
    classifier={"pooling": "gap"},
    epochs=12,
    batch_size=64,
    learning_rate=1.2e-3,
    label_smoothing=0.05,
    erase=0.0,
    twin="vit_tiny_fashion_mnist",
)
