"""The Soft MoE ViT in a short training, to be held against its relatives.

Several seeds of each of them are affordable then. Slots start from a sharper
reading than in the long training: of 1, 6 and 20, 6 was the best after two
epochs, by little.
"""

import dataclasses

from zoo.recipes.soft_moe_vit_tiny_fashion_mnist import RECIPE as LONG

RECIPE = dataclasses.replace(
    LONG,
    name="soft_moe_vit_tiny_short",
    title="Soft MoE ViT, 16 experts of 1 slot, 5 epochs of Fashion-MNIST",
    epochs=5,
    initial_scale=6.0,
    twin="vit_tiny_short",
)
