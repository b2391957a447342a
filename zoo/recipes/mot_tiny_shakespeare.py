"""Mixture of Tokens in every other block; experts cost what an MLP costs."""

from zoo.recipe import TextRecipe

RECIPE = TextRecipe(
    name="mot_tiny_shakespeare",
    title="Mixture of Tokens, 32 experts, groups of 8, on Shakespeare's plays",
    data="shakespeare",
    backbone={
        "num_layers": 4,
        "num_heads": 4,
        "hidden_dim": 128,
        "mlp_dim": 512,
        "router": "mixture_of_tokens",
        "moe_layers": (1, 3),
        # 32 experts of 128 on groups of 8: 32 · 128 / 8 = 512, as the MLP.
        "router_options": {
            "num_experts": 32,
            "group_size": 8,
            "intermediate_dim": 128,
        },
    },
    sequence_length=128,
    steps_per_epoch=250,
    epochs=8,
    batch_size=16,
    learning_rate=2e-3,
    twin="gpt_tiny_shakespeare",
)
