"""A Soft MoE ViT in a short training, to be held against its relatives.

Several seeds of each of them are affordable then. Slots start from a sharper
reading than in the paper: of scales of 1, 6 and 20, 6 was the best after two
epochs, by little.
"""

from zoo.recipe import ImageRecipe

RECIPE = ImageRecipe(
    name="soft_moe_vit_tiny_short",
    title="Soft MoE ViT, 16 experts of 1 slot, 5 epochs of Fashion-MNIST",
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
    epochs=5,
    batch_size=128,
    learning_rate=2e-3,
    warmup=0.05,
    shift=1,
    label_smoothing=0.05,
    erase=0.0,
    initial_scale=6.0,
    twin="vit_tiny_short",
)
