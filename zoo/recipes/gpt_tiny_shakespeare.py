"""The dense twin of the Mixture of Tokens model: wider for equal time."""

import dataclasses

from zoo.recipes.mot_tiny_shakespeare import RECIPE as MIXED

RECIPE = dataclasses.replace(
    MIXED,
    name="gpt_tiny_shakespeare",
    title="Dense language model, twin of the Mixture of Tokens model",
    backbone={
        "num_layers": 4,
        "num_heads": 4,
        "hidden_dim": 128,
        "mlp_dim": 640,
        "router": None,
    },
    twin=None,
)
