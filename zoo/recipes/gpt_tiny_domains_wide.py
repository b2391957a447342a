"""A still wider twin of the language model of experts, slower on JAX."""

import dataclasses

from zoo.recipes.gpt_tiny_domains import RECIPE as TWIN

RECIPE = dataclasses.replace(
    TWIN,
    name="gpt_tiny_domains_wide",
    title="Dense language model, wider than the twin",
    backbone={**TWIN.backbone, "mlp_dim": 704},
)
