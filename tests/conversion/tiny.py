"""The smallest checkpoints of each format, and what conversions read of them.

Nothing of a preset is written: arrays are collected where they would be.
"""

import contextlib
import json
import pathlib
import shutil
from unittest import mock

import numpy as np
import tensorstore
import torch

from conversion import convert
from conversion import llm_random
from conversion import mot
from conversion import streaming
from conversion import vmoe
from conversion import vmoe_model
from conversion.vmoe_names import source_name
from keras_moe.models import MoEViTBackbone
from keras_moe.models import MoEViTImageClassifier
from keras_moe.models import MoEViTImageClassifierPreprocessor
from keras_moe.models import MoTBackbone
from keras_moe.models import MoTCausalLM
from keras_moe.models import MoTCausalLMPreprocessor
from keras_moe.models import MoTTokenizer
from keras_moe.models import image_converter
from keras_moe.models.vision import architectures
from tests.conversion import texts
from tests.conversion import writer

VMOE = vmoe.Plan(
    {
        "image_shape": (4, 4, 1),
        "patch_size": (2, 2),
        "num_layers": 1,
        "num_heads": 1,
        "hidden_dim": 4,
        "mlp_dim": 6,
        "qk_norm": False,
        "class_token": False,
        "positions": "learned",
        "activation": "gelu_tanh",
        "router": "soft",
        "moe_layers": (0,),
        "router_options": {"num_experts": 2, "slots_per_expert": 1},
    },
    {"num_classes": 3, "pooling": "gap", "head_kernel_initializer": "zeros"},
    [],
)
OPTIONS = {
    "model_type": "gpt",
    "num_heads": 1,
    "group_size": 2,
    "sparsity_dim": 0,
    "temperature": 1.0,
    "emit_softmax_over": "tokens",
}


_SHAPES, _weight_shapes = {}, architectures.weight_shapes


def _kept_shapes(make_model):
    """`weight_shapes`, once for each model that a function would make."""
    key = repr([cell.cell_contents for cell in make_model.__closure__])
    if key not in _SHAPES:
        _SHAPES[key] = _weight_shapes(make_model)
    return _SHAPES[key]


@contextlib.contextmanager
def collected():
    """Yield a dictionary that conversions put what they read into."""
    found = {}

    def write_preset(out, twin, edits, variables, read, *args):
        for path in variables:
            found[path] = np.array(read(path))

    with (
        mock.patch.object(streaming, "write_preset", write_preset),
        mock.patch.object(architectures, "weight_shapes", _kept_shapes),
    ):
        yield found


def read_vmoe(source):
    """{variable: array} of a checkpoint of vmoe, in either format."""
    with collected() as found:
        convert.convert_vmoe(source, pathlib.Path(source).parent / "out", say=_)
    return found


def read_mot(source):
    """{variable: array} of a folder in the `mot` format."""
    with collected() as found:
        mot.convert_mot(source, pathlib.Path(source).parent / "out", say=_)
    return found


def read_llm_random(source):
    """{variable: array} of a `.pt` file."""
    options = llm_random.Options(**OPTIONS)
    with collected() as found:
        llm_random.convert_llm_random(
            source, pathlib.Path(source).parent / "out", options, say=_
        )
    return found


def _(line):
    """Hear a line of text, and say nothing."""


def of_vmoe():
    """{path: array} of a vision transformer of vmoe."""
    shapes = architectures.weight_shapes(lambda: vmoe_model.build(VMOE))
    rng, arrays = np.random.default_rng(0), {}
    for ours, shape in shapes.items():
        name = source_name(ours)
        if name.endswith("/bias") and "/Moe/" in name:
            shape = (shape[0], *shape[2:])
        arrays[name] = rng.standard_normal(shape, "float32")
    return arrays


def write_vmoe(folder):
    writer.checkpoint(folder / "ckpt", of_vmoe())
    return folder / "ckpt"


def write_orbax(folder, database=False):
    """Write an Orbax checkpoint, with bytes as they are or as a database."""
    folder.mkdir(parents=True)
    tree, plain = {}, folder / "plain" if database else folder
    for path, array in of_vmoe().items():
        keys = path.split("/")
        tree[str(tuple(keys))] = {
            "key_metadata": [{"key": key} for key in keys],
            "value_metadata": {
                "value_type": "jax.Array",
                "write_shape": array.shape,
            },
        }
        name = ".".join(keys)
        tensorstore.open(
            {
                "driver": "zarr",
                "kvstore": {"driver": "file", "path": f"{plain}/{name}/"},
                "metadata": {
                    "shape": array.shape,
                    "chunks": array.shape,
                    "dtype": "<f4",
                    "compressor": None,
                },
                "create": True,
            }
        ).result().write(array).result()
    if database:
        store = {"driver": "ocdbt", "base": f"file://{folder}/"}
        with tensorstore.Transaction() as transaction:
            kept = tensorstore.KvStore.open(store).result()
            for path in sorted(plain.rglob("*")):
                if path.is_file():
                    name = path.relative_to(plain).as_posix()
                    there = kept.with_transaction(transaction)
                    there[name] = path.read_bytes()
        shutil.rmtree(plain)
    metadata = {
        "tree_metadata": tree,
        "use_zarr3": False,
        "use_ocdbt": database,
    }
    (folder / "_METADATA").write_text(json.dumps(metadata))
    return folder


def write_mot(folder):
    texts.write_mot(folder)
    texts.write_tokenizer(folder)
    return folder


def preset(kind):
    """A model of one block, with all files that a preset may have."""
    if kind == "image":
        backbone = MoEViTBackbone(
            (4, 4, 1),
            (2, 2),
            num_layers=1,
            num_heads=1,
            hidden_dim=4,
            mlp_dim=6,
            router="soft",
            moe_layers=(0,),
            router_options={"num_experts": 2, "slots_per_expert": 1},
        )
        converter = image_converter((4, 4, 1))
        return MoEViTImageClassifier(
            backbone,
            num_classes=3,
            preprocessor=MoEViTImageClassifierPreprocessor(converter),
        )
    vocabulary = {token: number for number, token in enumerate(texts.TOKENS)}
    preprocessor = MoTCausalLMPreprocessor(
        MoTTokenizer(vocabulary, texts.MERGES), sequence_length=4
    )
    backbone = MoTBackbone(
        vocabulary_size=11,
        num_layers=1,
        num_heads=1,
        hidden_dim=4,
        mlp_dim=6,
        max_sequence_length=6,
        router="mixture_of_tokens",
        moe_layers=(0,),
        router_options={"num_experts": 2, "group_size": 2},
    )
    return MoTCausalLM(backbone, preprocessor)


def write_llm_random(file, zipped=True):
    """Write a file of `torch.save`, of PyTorch's format or of its old one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = "encoder.blocks.block_0.block.residual_{}.layer.".format
    attention, mlp = part("attention"), part("feedforward")
    shapes = {
        "embedding_layer.layers.0.weight": (5, 4),
        "embedding_layer.layers.1.layer.weight": (6, 4),
        "head.weight": (5, 4),
        f"{attention}attention.input_projection.weight": (12, 4),
        f"{attention}attention.output_projection.weight": (4, 4),
        f"{mlp}feedforward.controller": (4, 2),
        f"{mlp}feedforward.lin1": (2, 4, 3),
        f"{mlp}feedforward.lin2": (2, 3, 4),
    }
    for front in (attention, mlp):
        shapes[f"{front}pre_norm.weight"] = (4,)
        shapes[f"{front}pre_norm.bias"] = (4,)
    torch.manual_seed(0)
    tensors = {name: torch.randn(shape) for name, shape in shapes.items()}
    torch.save(
        {"model": tensors, "step": 2},
        file,
        _use_new_zipfile_serialization=zipped,
    )
    return file
