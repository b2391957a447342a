"""Token choice without drops: two of 16 experts, on text of seven domains."""

from zoo.recipe import TextRecipe

RECIPE = TextRecipe(
    name="moe_lm_tiny_domains",
    title="Token choice, 2 of 16 experts, on text of seven domains",
    data="domains",
    # A narrow model is short of parameters; experts bring them.
    backbone={
        "num_layers": 2,
        "num_heads": 4,
        "hidden_dim": 64,
        "mlp_dim": 256,
        "router": "token_choice",
        "moe_layers": (0, 1),
        # Two experts of 128 cost what an MLP of 256 costs.
        "router_options": {
            "num_experts": 16,
            "top_k": 2,
            "capacity_factor": None,
            "normalize_gates": True,
            "balance_bias_rate": 1e-3,
            "intermediate_dim": 128,
        },
    },
    sequence_length=128,
    steps_per_epoch=400,
    epochs=10,
    batch_size=16,
    # Chosen in short trainings of this model and of gpt_tiny_domains_wide.
    learning_rate=6e-3,
    twin="gpt_tiny_domains",
)
