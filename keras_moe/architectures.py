"""The configurations of the papers, by name.

Soft MoE: arXiv 2308.00951, table 8, and vmoe/projects/soft_moe/configs.
V-MoE: arXiv 2106.05974, and vmoe/configs. The V-MoE configurations were
trained with groups of several images; here each image is a group, so that any
batch runs. Give `router_options` a `group_size` for the papers' way.
"""

from keras_moe import checks

#     layers, heads, hidden_dim, mlp_dim
SIZES = {
    "s": (12, 6, 384, 1536),
    "s_vmoe": (8, 8, 512, 2048),
    "b": (12, 12, 768, 3072),
    "l": (24, 16, 1024, 4096),
    "h": (32, 16, 1280, 5120),
}


def _dense(size, patch):
    layers, heads, features, hidden = SIZES[size]
    return {
        "image_shape": (224, 224, 3),
        "patch_size": patch,
        "num_layers": layers,
        "num_heads": heads,
        "hidden_dim": features,
        "mlp_dim": hidden,
    }


def _soft(size, patch, experts):
    dense = _dense(size, patch)
    half = dense["num_layers"] // 2
    return {
        **dense,
        "qk_norm": True,
        "router": "soft",
        "moe_layers": tuple(range(half, 2 * half)),
        "router_options": {"num_experts": experts, "slots_per_expert": 1},
    }


def _expert_choice(size, patch, experts):
    return {
        **_soft(size, patch, experts),
        "router": "expert_choice",
        "router_options": {
            "num_experts": experts,
            "capacity_factor": 1.0,
            "noise_std": 1.0,
        },
    }


def _vmoe(size, patch, experts, moe_layers):
    return {
        **_dense(size, patch),
        "class_token": True,
        "router": "token_choice",
        "moe_layers": moe_layers,
        "router_options": {
            "num_experts": experts,
            "top_k": 2,
            "capacity_factor": 1.05,
            "capacity_multiple_of": 4,
            "noise_std": 1.0,
            "importance_loss": 0.005,
            "load_loss": 0.005,
        },
    }


ARCHITECTURES = {
    "soft_moe_s16": _soft("s", 16, 128),
    "soft_moe_s14": _soft("s", 14, 256),
    "soft_moe_b16": _soft("b", 16, 128),
    "soft_moe_l16": _soft("l", 16, 128),
    "soft_moe_h14": _soft("h", 14, 256),
    "expert_choice_b16": _expert_choice("b", 16, 128),
    "vit_b16": {**_dense("b", 16), "qk_norm": True},
    "vit_l16": {**_dense("l", 16), "qk_norm": True},
    "vmoe_s32_last2": _vmoe("s_vmoe", 32, 8, (5, 7)),
    "vmoe_s32_every2": _vmoe("s_vmoe", 32, 32, (1, 3, 5, 7)),
    "vmoe_b16_every2": _vmoe("b", 16, 8, (1, 3, 5, 7, 9, 11)),
    "vmoe_b16_last2": _vmoe("b", 16, 32, (9, 11)),
}


def get(name):
    """Arguments of `MoEViTBackbone` for a named configuration.

    Presets' names say what kind of model it is: `soft_moe_vit_h14` is
    `soft_moe_h14`.
    """
    plain = name.replace("_vit_", "_") if isinstance(name, str) else name
    if plain not in ARCHITECTURES:
        checks.choice("name", name, ARCHITECTURES)
    return dict(ARCHITECTURES[plain])


def names() -> tuple:
    """Return the names that `get` takes."""
    return tuple(ARCHITECTURES)
