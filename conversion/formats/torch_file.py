"""Files of `torch.save`: tensors and plain values, and nothing that runs.

PyTorch's restricted unpickler reads them. Of classes beyond its own it is
allowed `types.SimpleNamespace`, in which llm-random keeps running means. A file
with any other is refused; the unpickler stops before it makes the object.
"""

import pathlib
import pickle
import types
import zipfile

from conversion.errors import ConversionError
from conversion.formats import torch_storages
from keras_moe import files

# What wrappers put in front of every name: torch.compile, and DDP.
WRAPPERS = ("_orig_mod.", "module.")
# Numbers of fewer bits come with scales, which are in no place that all share.
DTYPES = (
    "float64",
    "float32",
    "float16",
    "bfloat16",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint8",
    "bool",
)


class Checkpoint:
    """Tensors by name, of the state dictionary `model` in a file.

    Args:
        file: path of a `.pt` file. Its tensors are mapped into memory, not
            read, where it is of PyTorch's zip format.

    Attributes:
        prefix: what was taken off the front of all names.
    """

    def __init__(self, file):
        self.file = pathlib.Path(file)
        content = _load(self.file)
        model = content.get("model") if isinstance(content, dict) else None
        if not isinstance(model, dict) or not model:
            raise ConversionError(
                f"{file} must hold a dictionary with the state dictionary "
                "'model', as llm-random saves it; it holds "
                f"{_described(content)}."
            )
        import torch

        for name, value in model.items():
            if not isinstance(name, str) or not isinstance(value, torch.Tensor):
                raise ConversionError(
                    f"'model' of {file} must hold tensors by name; {name!r} "
                    f"is {type(value).__name__}."
                )
            _check(f"{name} of {file}", value)
        self.prefix = ""
        while wrapper := next((w for w in WRAPPERS if _all(model, w)), None):
            self.prefix += wrapper
            model = {k.removeprefix(wrapper): v for k, v in model.items()}
        self._model = model

    def shapes(self):
        """{name: shape} of all tensors."""
        return {name: tuple(t.shape) for name, t in self._model.items()}

    def where(self, name):
        """Name of a tensor's place in errors."""
        return self.file

    def read(self, name):
        """One tensor as an array; bfloat16 as float32, which holds it."""
        import torch

        tensor = self._model[name].detach()
        if tensor.dtype == torch.bfloat16:
            tensor = tensor.float()
        return tensor.numpy()


def _check(name, tensor):
    """Raise an error unless a tensor is one of numbers, each of its own."""
    import torch

    if tensor.layout is not torch.strided or tensor.is_quantized:
        raise ConversionError(f"{name} must be a dense tensor.")
    if tensor.is_meta:
        raise ConversionError(
            f"{name} has a shape and no numbers; it was saved from the device "
            "'meta'."
        )
    if str(tensor.dtype).removeprefix("torch.") not in DTYPES:
        raise ConversionError(
            f"{name} must be of one of the dtypes {', '.join(DTYPES)}; it is "
            f"{tensor.dtype}."
        )
    reach = 0  # the furthest number of the axes of smaller strides
    for stride, size in sorted(zip(tensor.stride(), tensor.shape)):
        if size > 1 and stride <= reach:
            raise ConversionError(
                f"{name} must have numbers of its own at each place; strides "
                f"{tensor.stride()} use some several times in the shape "
                f"{tuple(tensor.shape)}."
            )
        reach += (size - 1) * stride


def _all(model, prefix):
    return all(name.startswith(prefix) for name in model)


def _load(file):
    try:
        import torch
    except ImportError as error:
        raise ConversionError(
            f"reading {file} needs PyTorch; install it with "
            "`pip install torch`, whichever backend Keras uses."
        ) from error
    if not file.is_file():
        raise ConversionError(f"{file} is no file.")
    zipped = zipfile.is_zipfile(file)
    with files.decoding(file, "whole file of torch.save", ConversionError):
        if not zipped:
            with open(file, "rb") as stream:
                content = _unpickle(torch, file, stream)
                rest = file.stat().st_size - stream.tell()
            if rest:
                raise ValueError(f"{rest} bytes too many")
            return content
        torch_storages.check_members(file)
        content = _unpickle(torch, file, file, mmap=True)
        torch_storages.check_sizes(file)
        return content


def _unpickle(torch, file, source, **options):
    try:
        with torch.serialization.safe_globals([types.SimpleNamespace]):
            return torch.load(
                source, map_location="cpu", weights_only=True, **options
            )
    except pickle.UnpicklingError as error:
        # PyTorch's text goes on to explain how to run such a file.
        reason = str(error).split("WeightsUnpickler error:")[-1].strip()
        raise ConversionError(
            f"{file} is not only tensors and plain values: "
            f"{reason.splitlines()[0]} Nothing of it was executed."
        ) from error


def _described(content):
    if not isinstance(content, dict):
        return f"a {type(content).__name__}"
    return f"the keys {sorted(map(str, content))[:5]}"
