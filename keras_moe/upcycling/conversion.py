"""Dense models made mixtures of experts, and one router made another."""

import pathlib

import keras
import keras_hub
import numpy as np

from keras_moe import checks
from keras_moe import files
from keras_moe import models
from keras_moe.models.presets import finding
from keras_moe.upcycling import arguments
from keras_moe.upcycling import dense_models
from keras_moe.upcycling import weights as router_conversion


def upcycle(
    model,
    router: str = "soft",
    num_experts: int | None = None,
    *,
    layers=None,
    router_options: dict | None = None,
    expert_noise: float = 0.0,
    rescale: bool = True,
    calibration=None,
    seed: int = 0,
):
    """Gives each expert a copy of a dense model's MLP, or experts a new router.

    A dense model becomes a mixture of experts: in `layers`, E copies of the
    MLP and a new router; attention, norms, embeddings, positions and head are
    copied. A mixture of experts keeps its experts, and its router is turned
    into another one.

    With f the MLP, w the weights that the router gives to a token's experts
    (they sum to a total W if it prefers nobody) and `rescale`:

        new layer (x) = Σ_e w_e · f(x) / W

    Args:
        model: dense: `ViTImageClassifier`, `ViTBackbone`, `GPT2CausalLM` or
            `GPT2Backbone` of KerasHub, or a model of `keras_moe.models` with
            `router=None`; a model of `keras_moe.models` with experts; or a
            preset of any of these, by name, folder or handle (KerasHub's own
            names give a backbone).
        router: for a dense vision model `"soft"`, `"expert_choice"` or
            `"token_choice"`, for a dense language model
            `"mixture_of_tokens"` or the last two, for one with experts the
            last two.
        num_experts: E. Left out where the model has experts.
        layers: blocks that get experts: `"second_half"` (the default),
            `"all"` or indices from 0. Left out where the model has experts.
        router_options: more arguments of the router's layer. The defaults:
            slots for as many as there are tokens, `top_k=2`,
            `capacity_factor=2` of Expert Choice, `group_size` = E.
        expert_noise: standard deviation of the noise on the experts' kernels,
            as a part of the kernels' own. Without it experts start alike and
            part only as the router sends them different tokens.
        rescale: whether the experts' last projection is multiplied so that W
            stays what it was; W is 1 for an MLP and Soft MoE, k/E for token
            choice (1 with `normalize_gates` or `"softmax_top_k"`, k/2 with
            `"sigmoid"`, times `routed_scaling`), capacity_factor/E for Expert
            Choice, E/group_size for Mixture of Tokens (1 with
            `emit_over_experts`).
        calibration: with `"soft"`, images as the backbone reads them. Each
            layer's slot embeddings become centres of clusters of their
            tokens, and its `scale` what comes nearest to the MLP.
        seed: seed of the noise, the router and the clusters.

    Returns:
        A task for a task, a backbone for a backbone: `MoEViTImageClassifier`
        with its preprocessor, `MoEViTBackbone`, `MoTCausalLM` and so on.

    How the new model begins, without `expert_noise`:

    - Token choice with `top_k` = E, Expert Choice with `capacity_factor` = E:
      **the dense model's outputs**, whatever the router.
    - Token choice with fewer: the dense outputs if its router prefers nobody
      (`router_initializer="zeros"`) and drops no token
      (`capacity_factor=None`). The router drawn here has logits of standard
      deviation 0.1.
    - Mixture of Tokens: the dense outputs with `inference_mixing="self"`, and
      with `"argmax"` if `group_size` = E; not with `"group"`, as in training,
      where an expert reads a mixture.
    - Expert Choice with less, Soft MoE: near it. On average a token has the
      total weight it had, but one token more than another. A slot of Soft
      MoE reads a mixture, so that its layer is at a distance from the MLP,
      |layer - MLP| / |MLP|. In four layers that were trained on digits (D =
      64, 16 tokens, 16 slots) it is 0.38 to 0.56 as drawn here, with `scale`
      4·√D, 0.35 to 0.39 with `calibration`, and 0.48 to 0.95 with the scale 1
      of a new layer; with 64 slots 0.30 to 0.40, 0.22 to 0.28, 0.48 to 0.95.
      From D = 101 on that scale is beyond 40, so that one exponential does not
      serve both softmaxes; `router_options={"max_scale": 40}` keeps it there,
      further from the MLP.

    What a converted router keeps:

    - Mixture of Tokens → token choice ("transition tuning"): the kernel over
      the temperature. Equal to `inference_mixing="self"` if
      `emit_over_experts` and `top_k` = E.
    - Soft MoE → Expert Choice or token choice: each expert's kernel is the
      mean of its slots' embeddings, of length one, times `scale` over the
      length that tokens have behind the LayerNorm. With one slot an expert
      and tokens of that length, gates are the weights of Soft MoE's combine.
    - Expert Choice ↔ token choice: the kernel. Equal if both dispatch all
      tokens to all experts.

    Biases that a KerasHub ViT lacks (`use_mha_bias`, `use_mlp_bias`,
    `use_patch_bias`) start at zero. Expert Choice in a causal language model
    lets what an expert takes depend on later tokens.

    Raises:
        ValueError: for an argument that does not fit, or a model that cannot
            be carried over whole.

    Reference: [Sparse Upcycling](https://arxiv.org/abs/2212.05055);
        transition tuning, [Mixture of Tokens](
        https://arxiv.org/abs/2310.15961).

    Example:

    >>> import keras, keras_moe
    >>> import numpy as np
    >>> from keras_moe import models
    >>> dense = models.MoEViTBackbone(
    ...     image_shape=(8, 8, 1), patch_size=4, num_layers=2, num_heads=2,
    ...     hidden_dim=8, mlp_dim=16)
    >>> sparse = keras_moe.upcycle(
    ...     dense, "token_choice", num_experts=4, router_options={"top_k": 4})
    >>> images = np.ones((1, 8, 8, 1), "float32")
    >>> difference = keras.ops.max(abs(dense(images) - sparse(images)))
    >>> float(difference) < 1e-5
    True
    """
    if isinstance(model, (str, pathlib.Path)):
        model = _from_preset(model)
    backbone = getattr(model, "backbone", model)
    source = dense_models.read(backbone)
    checks.flag("rescale", rescale)
    expert_noise = checks.real("expert_noise", expert_noise)
    seed = checks.integer("seed", seed, minimum=0)
    old_router = source.arguments["router"]
    if old_router is None:
        layers = arguments.layers_of(layers, source.arguments["num_layers"])
        num_experts = checks.integer("num_experts", num_experts)
    else:
        arguments.check_conversion(
            source, router, num_experts, layers, expert_noise, calibration
        )
        layers = source.arguments["moe_layers"]
    options = arguments.router_options(
        source, router, num_experts, router_options
    )
    if calibration is not None:
        arguments.check_calibration(
            router, options, calibration, source, layers
        )

    new = source.cls(
        **{
            **source.arguments,
            "router": router,
            "moe_layers": layers,
            "router_options": options,
        }
    )
    factor = 1.0
    if rescale:
        old = source.arguments.get("router_options", {})
        factor = router_conversion.total_weight(old_router, old)
        factor /= router_conversion.total_weight(router, options)
    weights = dict(source.weights)
    for index in layers:
        rng = np.random.default_rng([seed, index])
        _convert(weights, source, new, index, expert_noise, factor, rng)
    dense_models.fill(new, weights)
    if calibration is not None:
        _calibrate(backbone, source, new, calibration, seed)
    return new if backbone is model else dense_models.task(model, new)


def _from_preset(preset):
    """The task of a preset, or the backbone of one without a task."""
    hub = keras_hub.models
    pairs = (
        (hub.ViTBackbone, hub.ViTImageClassifier),
        (hub.GPT2Backbone, hub.GPT2CausalLM),
        (models.MoEViTBackbone, models.MoEViTImageClassifier),
        (models.MoTBackbone, models.MoTCausalLM),
    )
    for backbone, _ in pairs[:2]:
        if str(preset) in backbone.presets:
            return backbone.from_preset(str(preset))
    folder = pathlib.Path(finding.find(preset))
    config = files.read_json(folder / "config.json", finite=False)
    name = config.get("class_name")
    for backbone, task in pairs:
        if name == backbone.__name__:
            whole = (folder / "task.json").is_file()
            return (task if whole else backbone).from_preset(str(folder))
    raise ValueError(
        "model must be a preset of "
        f"{', '.join(b.__name__ for b, _ in pairs)}; received one of {name}."
    )


def _convert(weights, source, new, index, noise, factor, rng):
    """Replace one block's MLP, or its router, in `weights`."""
    old = source.arguments["router"]
    layer = new.blocks[index].mlp
    place = f"block_{index}/"
    if old is None:
        arrays = router_conversion.experts_of_mlp(
            _taken(weights, f"{place}mlp/"), layer.num_experts, noise, rng
        )
        shapes = {
            w.path.removeprefix(f"{place}moe/"): tuple(w.shape)
            for w in layer.weights
        }
        arrays |= router_conversion.new_router(shapes, new.router_options, rng)
    else:
        theirs = _taken(weights, f"{place}moe/")
        arrays = {p: v for p, v in theirs.items() if p.startswith("experts/")}
        arrays |= router_conversion.converted_router(
            theirs,
            old,
            source.arguments["router_options"],
            weights[f"{place}mlp_norm/gamma"],
            weights[f"{place}mlp_norm/beta"],
        )
    for path in arrays:
        if path.startswith("experts/down/"):
            arrays[path] = factor * router_conversion.as_numpy(arrays[path])
    # What is not made here, such as temperatures, is as the layer began.
    for weight in layer.weights:
        path = weight.path.removeprefix(f"{place}moe/")
        if path.startswith("shared_expert/down/"):
            # A new shared expert adds nothing until it is trained.
            arrays.setdefault(path, np.zeros(weight.shape, weight.dtype))
        elif not path.startswith("experts/"):
            arrays.setdefault(path, weight)
    weights.update({f"{place}moe/{path}": v for path, v in arrays.items()})


def _taken(weights, place):
    """The weights of one place, by the rest of their paths, taken out."""
    paths = [path for path in weights if path.startswith(place)]
    return {path.removeprefix(place): weights.pop(path) for path in paths}


def _calibrate(backbone, source, new, images, seed):
    """Set the slots of each Soft MoE by what the dense model reads there."""
    if not isinstance(backbone, source.cls):
        backbone = source.cls(**source.arguments)
        dense_models.fill(backbone, source.weights)
    images = keras.ops.convert_to_tensor(images)
    for index in new.moe_layers:
        block = backbone.blocks[index]
        tokens = keras.Model(backbone.input, block.input)(images)
        tokens = tokens + block.attention(block.attention_norm(tokens))
        router_conversion.calibrate(
            new.blocks[index].mlp, block.mlp, block.mlp_norm(tokens), seed
        )
