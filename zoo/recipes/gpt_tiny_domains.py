"""The dense twin of the language model of experts: wider for equal time."""

import dataclasses

from zoo.recipes.moe_lm_tiny_domains import RECIPE as MIXED

RECIPE = dataclasses.replace(
    MIXED,
    name="gpt_tiny_domains",
    title="Dense language model, twin of the token choice model",
    backbone={
        "num_layers": 2,
        "num_heads": 4,
        "hidden_dim": 64,
        "mlp_dim": 384,
        "router": None,
    },
    twin=None,
)
