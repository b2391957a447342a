"""The whole Soft MoE layer: against the plain formulas, products, a peer.

MLPs of four times the features with exact GELU. Forward (F), or with the
gradients of the tokens and all weights (FB). `products` is what one large
product takes for as many multiplications as the layer's own products; on
PyTorch `soft-moe-pytorch` and `soft-moe` are the layers of these packages from
PyPI. The second is not among the developers' packages: it requires timm, for
models that are not used here. `flushed` is the first of them while PyTorch
takes numbers below 1.2e-38 for zero: it has weights as small, which some CPUs
are slow to multiply.
"""

import functools
import importlib.util
import pathlib

from tqdm import tqdm

from keras_moe import layers
from tests.benchmarks import plain
from tests.benchmarks import timing
from tests.benchmarks.soft_routing import FEATURES
from tests.benchmarks.soft_routing import SIZES
from tests.benchmarks.soft_routing import row

OP = "Soft MoE layer"
# Packages and their modules.
PEERS = {"soft-moe-pytorch": "soft_moe_pytorch", "soft-moe": "soft_moe"}
# As many slots, tokens and multiplications, on ever more experts; of as many
# hidden features as features, so that all of them fit into memory.
EXPERTS = tuple((4, 1024, n, 1024 // n) for n in (8, 32, 128, 512, 1024))


def rows():
    if timing.BACKEND == "torch":
        check_peers()
    for size in tqdm(SIZES, desc=timing.BACKEND):
        for mode in timing.MODES:
            functions, arrays = competitors(size, mode)
            seconds = timing.paired(functions, arrays, turns=5)
            for columns in timing.against(seconds, "plain"):
                yield row(size, mode, columns, OP)


def experts_rows():
    """Functions of one mode take turns, from 8 experts to 1024."""
    for mode, wrap in tqdm(timing.MODES.items(), desc=timing.BACKEND):
        functions = {}
        for size in EXPERTS:
            layer, arrays = build(size, hidden=FEATURES)
            name = f"{size[2]} experts"
            functions[name] = functools.partial(wrap(layer), *arrays)
        seconds = timing.paired(functions, (), turns=5)
        for size, columns in zip(EXPERTS, timing.against(seconds, "8 experts")):
            yield row(size, mode, columns, OP)


def competitors(size, mode):
    """Functions of the same arrays, by name, and these arrays."""
    wrap = timing.MODES[mode]
    layer, arrays = build(size)
    functions = {"plain": wrap(plain.soft_moe), "SoftMoE": wrap(layer)}
    groups, tokens, experts, slots = size
    total = experts * slots
    once_for_each_group = (
        3 * tokens * total * FEATURES + 8 * total * FEATURES**2
    )
    functions["products"] = timing.product_of(
        mode, groups * once_for_each_group
    )
    if timing.BACKEND == "torch":
        for name, layer in peers(experts, slots).items():
            functions[name] = peer(layer, mode)
        functions["flushed"] = flushed(functions["soft-moe-pytorch"])
    return functions, arrays


def build(size, hidden=4 * FEATURES, **options):
    """The layer as a function of tokens and weights, and such arrays."""
    groups, tokens, experts, slots = size
    layer = layers.SoftMoE(experts, slots, intermediate_dim=hidden, **options)
    return timing.layer_of_arrays(layer, (groups, tokens, FEATURES))


def check_peers():
    """Raise before anything is timed if a package is missing."""
    missing = [
        package
        for package, module in PEERS.items()
        if importlib.util.find_spec(module) is None
    ]
    if missing:
        names = " ".join(missing)
        raise ModuleNotFoundError(
            f"soft_moe_layers times layers of {' and '.join(PEERS)} on "
            f"PyTorch; missing: {names} (pip install --no-deps {names})."
        )


def peers(experts, slots):
    """Layers of other packages, of the same sizes."""
    import torch
    from soft_moe_pytorch import SoftMoE

    def mlp():
        return torch.nn.Sequential(
            torch.nn.Linear(FEATURES, 4 * FEATURES),
            torch.nn.GELU(),
            torch.nn.Linear(4 * FEATURES, FEATURES),
        )

    # The package itself would import timm.
    folder = importlib.util.find_spec("soft_moe").submodule_search_locations[0]
    path = pathlib.Path(folder) / "soft_moe.py"
    spec = importlib.util.spec_from_file_location("soft_moe_layer", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    wrapper = module.SoftMoELayerWrapper(FEATURES, experts, slots, mlp)
    return {
        "soft-moe-pytorch": SoftMoE(
            FEATURES, num_experts=experts, num_slots=slots
        ),
        "soft-moe": wrapper,
    }


def peer(layer, mode):
    """A layer with weights of its own as a function of tokens."""
    import torch

    weights = [p for p in layer.parameters() if p.requires_grad]

    def forward(tokens, *others):
        return torch.no_grad()(layer)(tokens)

    def forward_backward(tokens, *others):
        tokens = tokens.detach().requires_grad_()
        value = layer(tokens).square().sum()
        return torch.autograd.grad(value, [tokens, *weights])

    return forward if mode == "F" else forward_backward


def flushed(function):
    """The same, while the tiniest numbers count as zero."""
    import torch

    def run(*arrays):
        torch.set_flush_denormal(True)
        outcome = function(*arrays)
        torch.set_flush_denormal(False)
        return outcome

    return run
