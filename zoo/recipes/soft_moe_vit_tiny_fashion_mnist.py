"""Soft MoE in the last three of six blocks, one slot for each token."""

from zoo.recipe import ImageRecipe

RECIPE = ImageRecipe(
    name="soft_moe_vit_tiny_fashion_mnist",
    title="Soft MoE ViT, 16 experts of 1 slot, trained on Fashion-MNIST",
    data="fashion_mnist",
    backbone={
        "image_shape": (28, 28, 1),
        "patch_size": 7,
        "num_layers": 6,
        "num_heads": 3,
        "hidden_dim": 96,
        "mlp_dim": 384,
        "router": "soft",
        "moe_layers": (3, 4, 5),
        "router_options": {"num_experts": 16, "slots_per_expert": 1},
        "positions": "sincos2d",
        "activation": "gelu",
    },
    classifier={"pooling": "gap"},
    epochs=12,
    batch_size=128,
    learning_rate=2e-3,
    warmup=0.05,
    shift=1,
    label_smoothing=0.05,
    erase=0.0,
)
