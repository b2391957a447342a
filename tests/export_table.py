"""Which layer and which model exports to which format, in one table.

The tests run every row of it, and the README's tables are written from it:
`python -m tests.export_table` prints them.
"""

from tests.contract_table import BATCH
from tests.contract_table import FEATURES
from tests.contract_table import LAYERS
from tests.contract_table import TOKENS

DROPLESS = [k for k in LAYERS if k.endswith("threshold") or "dropless" in k]
HARD = [
    k for k in LAYERS if k.startswith(("choice", "token")) and k not in DROPLESS
]
SOFT = [k for k in LAYERS if k not in HARD + DROPLESS]
# `group_size` says how many tokens a group has, whatever the length.
GROUPED = ["choice_grouped", "token_losses"]
# Exporters to these take long, so that a few rows stand for the layers.
SLOW = ("litert", "openvino")

# What is known of the input's shape when a model is exported. What runs where
# more is unknown runs where less is.
SIGNATURES = {
    "any length": (None, None, FEATURES),
    "any batch": (None, TOKENS, FEATURES),
    "fixed": (BATCH, TOKENS, FEATURES),
}
# Backend -> format -> signature -> the layers for which it is the most general
# one that works. With UNSUPPORTED below, this is the whole truth.
SUPPORTED = {
    "tensorflow": {
        "tf_saved_model": {"any length": list(LAYERS)},
        "onnx": {"any length": list(LAYERS)},
        "litert": {
            "any length": ["mixture", "dropless"],
            "any batch": ["soft", "choice", "token"],
            "fixed": ["token_losses"],
        },
        "openvino": {
            "any length": ["soft", "choice", "token", "mixture", "dropless"],
            "fixed": ["token_losses"],
        },
    },
    "jax": {
        "tf_saved_model": {
            "any length": [*SOFT, *DROPLESS, *GROUPED],
            "any batch": [k for k in HARD if k not in GROUPED],
        },
        "onnx": {
            "any length": [k for k in SOFT if not k.startswith("mixture")],
            "any batch": ["mixture_sequence"],
            "fixed": [
                *("mixture", "mixture_learned", "mixture_argmax"),
                *HARD,
            ],
        },
    },
    "torch": {
        "onnx": {"any length": SOFT},
        "openvino": {
            "any length": ["soft", "token", "mixture"],
            "any batch": ["choice"],
        },
        "torch": {"fixed": [k for k in LAYERS if k != "choice_capped"]},
    },
}
# (backend, format, signature) -> layers, error text, and the reason.
UNSUPPORTED = {
    ("tensorflow", "torch", "fixed"): (
        ["soft", "token"],
        "requires PyTorch backend",
        "not offered by Keras",
    ),
    ("jax", "tf_saved_model", "any length"): (
        [k for k in HARD if k not in GROUPED],
        "num_tokens must be known .* input_signature",
        "the capacity is the size of an array, which jax must know",
    ),
    ("jax", "torch", "fixed"): (
        ["soft", "token"],
        "requires PyTorch backend",
        "not offered by Keras",
    ),
    ("jax", "onnx", "fixed"): (
        DROPLESS,
        "No plugins registered for primitive 'grouped_product'",
        'ONNX has no product by groups; `implementation="reference"` exports',
    ),
    ("torch", "tf_saved_model", "fixed"): (
        ["soft", "token"],
        "torch_xla",
        "Keras needs torch_xla for it, which ended with torch 2.9",
    ),
    ("torch", "onnx", "fixed"): (
        [*HARD, *DROPLESS],
        "ONNX",
        "PyTorch's exporter has no stable sort",
    ),
    ("torch", "torch", "fixed"): (
        ["choice_capped"],
        "would write down",
        "the rounds of capped choice would be written down one by one",
    ),
    ("torch", "openvino", "fixed"): (
        ["dropless"],
        "aten::ravel",
        "OpenVINO has no ravel, which is in Keras' take",
    ),
    ("jax", "litert", "fixed"): (
        ["soft"],
        "requires TensorFlow or PyTorch",
        "not offered by Keras",
    ),
    ("jax", "openvino", "fixed"): (
        ["soft", "token"],
        "XlaCallModule",
        "OpenVINO does not read what JAX writes for it",
    ),
}

# Models: (backend, format) -> router or mode -> what may be open in the
# signature, or the error and the reason why there is none.
ANY, FIXED = "any batch", "nothing open"
NO_XLA = ("torch_xla", "Keras needs torch_xla for it")
NO_PROGRAM = ("requires PyTorch backend", "not offered by Keras")
NOT_OFFERED = ("requires TensorFlow or PyTorch", "not offered by Keras")
UNREAD = ("XlaCallModule", "OpenVINO does not read what JAX writes for it")
ROUTERS = ("soft", "expert_choice", "token_choice")
MODES = ("group", "self", "argmax")
CLASSIFIERS = {
    ("tensorflow", "tf_saved_model"): dict.fromkeys(ROUTERS, ANY),
    ("tensorflow", "onnx"): dict.fromkeys(ROUTERS, ANY),
    ("tensorflow", "litert"): {"soft": ANY, "token_choice": ANY},
    ("tensorflow", "openvino"): {"soft": ANY, "token_choice": ANY},
    ("tensorflow", "torch"): {"soft": NO_PROGRAM},
    ("jax", "tf_saved_model"): {"soft": ANY, "token_choice": ANY},
    ("jax", "onnx"): {"soft": ANY, "expert_choice": FIXED},
    ("jax", "torch"): {"soft": NO_PROGRAM},
    ("jax", "litert"): {"soft": NOT_OFFERED},
    ("jax", "openvino"): {"soft": UNREAD},
    # PyTorch's exporter has no stable sort, so not for the other routers.
    ("torch", "tf_saved_model"): {"soft": NO_XLA},
    ("torch", "onnx"): {"soft": FIXED},
    ("torch", "torch"): {"soft": FIXED, "token_choice": FIXED},
    ("torch", "openvino"): {"soft": ANY},
}
LANGUAGE = {
    ("tensorflow", "tf_saved_model"): dict.fromkeys(MODES, ANY),
    ("tensorflow", "onnx"): dict.fromkeys(MODES, ANY),
    ("tensorflow", "litert"): {"group": ANY, "argmax": ANY},
    ("tensorflow", "openvino"): {"group": ANY},
    ("tensorflow", "torch"): {"group": NO_PROGRAM},
    ("jax", "torch"): {"group": NO_PROGRAM},
    ("jax", "litert"): {"group": NOT_OFFERED},
    ("jax", "tf_saved_model"): dict.fromkeys(MODES, ANY),
    ("jax", "onnx"): dict.fromkeys(MODES, FIXED),
    ("torch", "onnx"): dict.fromkeys(MODES, FIXED),
    ("torch", "torch"): dict.fromkeys(MODES, FIXED),
    ("torch", "openvino"): {"group": ANY},
}
FORMATS = ("tf_saved_model", "onnx", "litert", "openvino", "torch")
BACKENDS = {"jax": "JAX", "tensorflow": "TensorFlow", "torch": "PyTorch"}
OPEN = {
    "any length": "any batch and length",
    "any batch": "any batch",
    "fixed": "nothing open",
}
CLASSES = {
    "soft": "Soft MoE",
    "choice": "Expert Choice",
    "token": "token choice",
    "dropless": "token choice without drops",
    "mixture": "Mixture of Tokens",
}
# What sets a row apart from the plain row of its class.
VARIANTS = {
    "choice_grouped": "Expert Choice with `group_size`",
    "choice_capped": "Expert Choice with `max_experts_per_token`",
    "choice_threshold": "Expert Choice by thresholds",
    "choice_then_threshold": "Expert Choice trained by top-k, then thresholds",
    "token_losses": "token choice with `group_size` and `balance_loss`",
    "mixture_sequence": "Mixture of Tokens along the sequence",
}
ROUTED = {
    "soft": "Soft MoE",
    "expert_choice": "Expert Choice",
    "token_choice": "token choice",
}
MIXING = {"group": "`group`", "self": "`self`", "argmax": "`argmax`"}


def layer_outcomes(backend, export):
    """Label -> what may be open, or why there is no such file."""
    outcomes = {}
    for known, labels in SUPPORTED[backend].get(export, {}).items():
        outcomes.update(dict.fromkeys(labels, OPEN[known]))
    for key, (labels, _, reason) in UNSUPPORTED.items():
        if key[:2] == (backend, export):
            for label in labels:
                outcomes.setdefault(label, f"no file: {reason}")
    return outcomes


def _layers_cell(backend, export):
    outcomes = layer_outcomes(backend, export)
    names = {}
    for label, outcome in outcomes.items():
        plain = label.partition("_")[0]
        if label == plain:
            names[CLASSES[plain]] = outcome
        elif outcome != outcomes.get(plain):
            names[VARIANTS[label]] = outcome
    return _cell(names)


def _models_cell(table, titles):
    def cell(backend, export):
        row = table.get((backend, export), {})
        return _cell(
            {
                titles[k]: v if isinstance(v, str) else f"no file: {v[1]}"
                for k, v in row.items()
            }
        )

    return cell


def _cell(names):
    """`{name: outcome}` in words, names with the same outcome together."""
    together = {}
    for name, outcome in names.items():
        together.setdefault(outcome, []).append(name)
    parts = [f"{', '.join(some)}: {how}" for how, some in together.items()]
    return ". ".join(part[0].upper() + part[1:] for part in parts) or "not run"


def _table(cell):
    rows = [
        f"| format | {' | '.join(BACKENDS.values())} |",
        "|---" * (len(BACKENDS) + 1) + "|",
    ]
    for export in FORMATS:
        cells = " | ".join(cell(backend, export) for backend in BACKENDS)
        rows.append(f"| `{export}` | {cells} |")
    return "\n".join(rows)


def markdown():
    """The README's tables."""
    parts = [
        "Layers:",
        _table(_layers_cell),
        "Image classifiers, by the router of their backbone:",
        _table(_models_cell(CLASSIFIERS, ROUTED)),
        "Language models, by their `inference_mixing`, at one length:",
        _table(_models_cell(LANGUAGE, MIXING)),
    ]
    return "\n\n".join(parts)


if __name__ == "__main__":
    print(markdown())
