"""The `mot` format of the Hugging Face Hub: GPT-2 with Mixture of Tokens.

A folder of it holds `config.json` with `"model_type": "mot"`, safetensors, and
perhaps GPT-2's tokenizer files (`mot_tokenizer_files`). Its linear weights are
input-major, attention packs queries, keys and values side by side, and every
block has experts without biases. All names of weights but the head's begin with
`transformer.`, or none does, where the model was saved without its head.
"""

import functools
import pathlib

import numpy as np

from keras_moe import checks
from keras_moe import files
from keras_moe.models.checkpoints import foreign_weights
from keras_moe.models.checkpoints.foreign_weights import Source
from keras_moe.models.checkpoints.safetensors_files import Checkpoint

DEFAULTS = {
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "group_size": 32,
    "temperature": 1.0,
    "emit_softmax_over_experts": False,
    "use_discrete_routing": False,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "tie_word_embeddings": True,
}
ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
HEAD = "lm_head.weight"
FRONT = "transformer."
# Causal masks, which files of GPT-2's time hold beside the weights.
BUFFERS = (".attn.bias", ".attn.masked_bias")


def read_config(folder) -> dict:
    """`config.json` of a folder.

    Raises:
        ValueError: if it is no JSON object, or of another kind of model.
    """
    file = pathlib.Path(folder) / "config.json"
    config = files.read_json(file)
    if config.get("model_type") != "mot":
        raise ValueError(
            f"model_type of {file} must be 'mot'; it is "
            f"{config.get('model_type')!r}."
        )
    return config


def recognises(folder) -> bool:
    """Whether a folder is of another library, so that `Folder` should read it.

    KerasHub's own presets say `registered_name`, where others say
    `model_type`. A folder that is neither, or no folder, is left to KerasHub.
    """
    file = pathlib.Path(folder) / "config.json"
    try:
        config = files.read_json(file)
    except files.UnreadableFile:
        return False  # KerasHub says what is wrong with it
    return "model_type" in config


class MoTCheckpoint:
    """A model in the `mot` format: its arguments, and where its weights lie.

    Args:
        folder: with `config.json` and safetensors.

    Attributes:
        backbone: arguments of `MoTBackbone`.
        sources: {path of our variable: `Source`}.
        left_out: names of tensors that are no weights of their own.

    Raises:
        ValueError: for a folder that is not whole or of another model.
    """

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        with files.about(folder):
            self._read(folder)

    def _read(self, folder):
        config = {**DEFAULTS, **read_config(folder)}
        self.files = Checkpoint(folder)
        shapes = self.files.shapes()
        self.left_out = sorted(n for n in shapes if n.endswith(BUFFERS))
        self.tied = checks.flag(
            "tie_word_embeddings of config.json", config["tie_word_embeddings"]
        )
        front = FRONT if any(n.startswith(FRONT) for n in shapes) else ""
        self.embedding = f"{front}wte.weight"
        if self.tied and HEAD in shapes:
            # The two are one array, of which a file may keep either name, or
            # both; then they must be equal.
            if self.embedding in shapes:
                self.left_out.append(HEAD)
            else:
                self.embedding = HEAD
        self.backbone = _backbone_arguments(
            config, shapes, front, self.embedding
        )
        self.sources = _sources(
            self.backbone["num_layers"],
            self.backbone["num_heads"],
            self.tied,
            front,
            self.embedding,
        )

    def shapes(self):
        """{name: shape} of the tensors that are weights."""
        shapes = self.files.shapes()
        return {n: s for n, s in shapes.items() if n not in self.left_out}

    def where(self, name):
        """The file that a tensor lies in."""
        return self.files.where(name)

    def read(self, name):
        """One tensor; the embedding is held against a head tied to it."""
        array = self.files.read(name)
        if name == self.embedding and HEAD in self.left_out:
            head = self.files.read(HEAD)
            if not np.array_equal(head, array):
                raise ValueError(
                    f"{HEAD} must be equal to {name}, to which "
                    "tie_word_embeddings of config.json ties it; in "
                    f"{self.folder} it is not."
                )
        return array

    def fill(self, backbone) -> None:
        """Give a `MoTBackbone` its weights."""
        with files.about(self.folder):
            foreign_weights.fill(backbone, self.sources, self)


def _backbone_arguments(config, shapes, front, embedding):
    """Arguments of `MoTBackbone` for a configuration and weight shapes."""
    places, lin1 = f"{front}wpe.weight", f"{front}h.0.mlp.lin1"
    expected = {embedding: 2, places: 2, lin1: 3}
    for name, rank in expected.items():
        if len(shapes.get(name, ())) != rank:
            raise ValueError(
                f"the checkpoint must have {name} with {rank} axes; it has "
                f"{shapes.get(name, 'no such tensor')}."
            )
    experts, _, size = shapes[lin1]
    vocabulary, features = shapes[embedding]
    block = f"{front}h."
    blocks = {
        n.removeprefix(block).split(".")[0]
        for n in shapes
        if n.startswith(block)
    }

    def integer(name, default=None):
        """A number of the configuration, which shapes may tell too."""
        value = config.get(name)
        if value is None:
            if default is None:
                raise ValueError(f"config.json must have {name}.")
            return default
        value = checks.integer(f"{name} of config.json", value)
        if default not in (None, value):
            raise ValueError(
                f"{name} of config.json, {value}, does not agree with the "
                f"weights, which have {default}."
            )
        return value

    integer("vocab_size", vocabulary)
    integer("n_embd", features)
    # Either tells the other; what is not given need not be true.
    if config.get("expert_size") is not None:
        integer("expert_size", size)
    else:
        integer("n_expert", experts)
    heads = integer("n_head")
    if features % heads:
        raise ValueError(
            f"n_head of config.json must divide n_embd, {features}; it is "
            f"{heads}."
        )
    if config["scale_attn_weights"] is not True:
        raise ValueError(
            "scale_attn_weights of config.json must be true; attention "
            "without 1/sqrt(head_dim) is not offered."
        )
    flags = {
        name: checks.flag(f"{name} of config.json", config[name])
        for name in (
            "emit_softmax_over_experts",
            "use_discrete_routing",
            "scale_attn_by_inverse_layer_idx",
        )
    }
    return {
        "vocabulary_size": vocabulary,
        "num_layers": integer("n_layer", len(blocks)),
        "num_heads": heads,
        "hidden_dim": features,
        "mlp_dim": size,
        "max_sequence_length": integer("n_positions", shapes[places][0]),
        "router": "mixture_of_tokens",
        "router_options": {
            "num_experts": experts,
            "group_size": integer("group_size"),
            "temperature": checks.real(
                "temperature of config.json",
                config["temperature"],
                exclusive=True,
            ),
            "emit_over_experts": flags["emit_softmax_over_experts"],
            "inference_mixing": (
                "discrete" if flags["use_discrete_routing"] else "group"
            ),
            "padding": "zeros",  # as the published code completes a batch
            "use_bias": False,
        },
        "tie_embeddings": config["tie_word_embeddings"],
        "scale_attention_by_layer": flags["scale_attn_by_inverse_layer_idx"],
        "activation": ACTIVATIONS[
            checks.choice(
                "activation_function of config.json",
                config["activation_function"],
                ACTIVATIONS,
            )
        ],
        "layer_norm_epsilon": checks.real(
            "layer_norm_epsilon of config.json",
            config["layer_norm_epsilon"],
            exclusive=True,
        ),
    }


def _sources(num_layers, num_heads, tied, front, embedding):
    sources = {
        "token_embedding/embeddings": Source(embedding),
        "position_embedding/embeddings": Source(f"{front}wpe.weight"),
        "norm/gamma": Source(f"{front}ln_f.weight"),
        "norm/beta": Source(f"{front}ln_f.bias"),
    }
    if not tied:
        sources["token_embedding/reverse_embeddings"] = Source(
            HEAD, np.transpose
        )
    for index in range(num_layers):
        theirs, ours = f"{front}h.{index}.", f"block_{index}/"
        for place, name in enumerate(("query", "key", "value")):
            take = functools.partial(_heads, place=place, count=num_heads)
            for end, kind in (("weight", "kernel"), ("bias", "bias")):
                sources[f"{ours}attention/{name}/{kind}"] = Source(
                    f"{theirs}attn.c_attn.{end}", take
                )
        out = functools.partial(_from_heads, count=num_heads)
        sources[f"{ours}attention/out/kernel"] = Source(
            f"{theirs}attn.c_proj.weight", out
        )
        for path, name in (
            ("attention/out/bias", "attn.c_proj.bias"),
            ("attention_norm/gamma", "ln_1.weight"),
            ("attention_norm/beta", "ln_1.bias"),
            ("mlp_norm/gamma", "ln_2.weight"),
            ("mlp_norm/beta", "ln_2.bias"),
            ("moe/router_kernel", "mlp.controller"),
            ("moe/experts/up/kernel", "mlp.lin1"),
            ("moe/experts/down/kernel", "mlp.lin2"),
        ):
            sources[ours + path] = Source(theirs + name)
    return sources


def _heads(packed, place, count):
    """Queries, keys or values of (…,3D), as (…,N,H)."""
    *front, width = packed.shape
    return packed.reshape(*front, 3, count, width // (3 * count))[
        ..., place, :, :
    ]


def _from_heads(kernel, count):
    """(D,D) as (N,H,D)."""
    return kernel.reshape(count, kernel.shape[0] // count, kernel.shape[1])
