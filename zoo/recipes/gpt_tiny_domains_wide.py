"""A wider dense language model than gpt_tiny_domains."""

import dataclasses

from zoo.recipes.gpt_tiny_domains import RECIPE as TWIN

RECIPE = dataclasses.replace(
    TWIN,
    name="gpt_tiny_domains_wide",
    title="Dense language model, wider than the twin",
    backbone={**TWIN.backbone, "mlp_dim": 704},
)
