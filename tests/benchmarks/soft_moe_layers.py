"""The whole Soft MoE layer on PyTorch, against soft-moe-pytorch from PyPI.

Same sizes, same number of experts' parameters: MLPs of four times the features
with exact GELU. Forward, or with the gradients of the tokens and all weights.
"""

import numpy as np
from tqdm import tqdm

from keras_moe import layers
from tests.benchmarks import soft_routing
from tests.benchmarks import timing
from tests.benchmarks.soft_routing import FEATURES
from tests.benchmarks.soft_routing import SIZES


def rows():
    import torch
    from soft_moe_pytorch import SoftMoE as Peer

    def forward(layer):
        return torch.no_grad()(layer)

    def forward_backward(layer):
        weights = [p for p in layer.parameters() if p.requires_grad]

        def step(tokens):
            tokens = tokens.detach().requires_grad_()
            value = layer(tokens).square().sum()
            return torch.autograd.grad(value, [tokens, *weights])

        return step

    for size in tqdm(SIZES, desc="torch, layers"):
        groups, tokens, experts, slots = size
        ours = layers.SoftMoE(experts, slots, intermediate_dim=4 * FEATURES)
        ours.build((groups, tokens, FEATURES))
        peer = Peer(FEATURES, num_experts=experts, num_slots=slots)
        inputs = np.random.default_rng(0).normal(
            size=(groups, tokens, FEATURES)
        )
        arrays = timing.tensors([inputs.astype("float32")])
        for mode, wrap in (("F", forward), ("FB", forward_backward)):
            functions = {"soft-moe-pytorch": wrap(peer), "SoftMoE": wrap(ours)}
            seconds = timing.paired(functions, arrays, turns=3)
            for columns in timing.against(seconds, "soft-moe-pytorch"):
                yield soft_routing.row(size, mode, columns, "Soft MoE layer")
