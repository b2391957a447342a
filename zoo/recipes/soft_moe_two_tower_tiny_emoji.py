"""Two towers, the image tower with Soft MoE in its last two blocks."""

from zoo.recipe import PairRecipe

RECIPE = PairRecipe(
    name="soft_moe_two_tower_tiny_emoji",
    title="Two towers, Soft MoE of 16 experts of 1 slot, on emoji and names",
    data="emoji",
    backbone={
        "image_shape": (32, 32, 3),
        "patch_size": 8,
        "num_layers": 3,
        "num_heads": 4,
        "hidden_dim": 128,
        "mlp_dim": 224,
        "router": "soft",
        "moe_layers": (1, 2),
        "router_options": {"num_experts": 16, "slots_per_expert": 1},
        "stem_dims": (32, 64),
    },
    text={"num_layers": 1, "num_heads": 4, "hidden_dim": 64, "mlp_dim": 256},
    towers={
        "projection_dim": 128,
        "text_pooling": "mean",
        "initial_logit_bias": 0.0,
    },
    vocabulary_size=4096,
    epochs=8,
    steps_per_epoch=250,
    batch_size=128,
    learning_rate=2e-3,
    tagged=0.25,
    shift=2.0,
    turn=10.0,
    zoom=0.12,
    colour=0.15,
    twin="two_tower_tiny_emoji",
    further={"phrased": 0.5},
)
