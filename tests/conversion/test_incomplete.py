"""Files whose missing, short or compressed parts must not read as numbers."""

import json
import re
import shutil
import zipfile

import numpy as np
import pytest
import tensorstore
import torch
from safetensors.torch import save_file

from conversion import mot
from conversion.errors import ConversionError
from conversion.formats import orbax
from conversion.formats import torch_file
from tests.conversion import texts
from tests.conversion.test_vmoe_checkpoints import CKPT

pytestmark = pytest.mark.once

STORES = {
    "zarr": {"shape": [4, 3], "chunks": [2, 3], "dtype": "<f4"},
    "zarr3": {
        "shape": [4, 3],
        "data_type": "float32",
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": [2, 3]},
        },
    },
}


def write_orbax(folder, driver, shape=(4, 3)):
    """Write an Orbax checkpoint of one array, a chunk a file."""
    folder.mkdir()
    entry = {
        "key_metadata": [{"key": "a"}, {"key": "b"}],
        "value_metadata": {"value_type": "jax.Array", "write_shape": shape},
    }
    metadata = {
        "tree_metadata": {"('a', 'b')": entry},
        "use_zarr3": driver == "zarr3",
        "use_ocdbt": False,
    }
    (folder / "_METADATA").write_text(json.dumps(metadata))
    tensorstore.open(
        {
            "driver": driver,
            "kvstore": {"driver": "file", "path": f"{folder}/a.b/"},
            "metadata": STORES[driver],
            "create": True,
        }
    ).result().write(np.ones((4, 3), "float32")).result()
    return [
        path
        for path in folder.rglob("*")
        if path.is_file() and re.fullmatch(r"\d[.\d]*", path.name)
    ]


@pytest.mark.parametrize("driver", STORES)
def test_orbax_chunks(driver, tmp_path):
    folder = tmp_path / "in"
    chunk, _ = write_orbax(folder, driver)
    found = orbax.Checkpoint(folder).read("a/b")
    np.testing.assert_array_equal(found, np.ones((4, 3)))
    content = chunk.read_bytes()
    chunk.write_bytes(content[:-3])
    with pytest.raises(ConversionError, match=f"{folder} is no .* whole a/b"):
        orbax.Checkpoint(folder).read("a/b")
    chunk.unlink()
    with pytest.raises(ConversionError, match=f"{folder} is .*missing"):
        orbax.Checkpoint(folder).read("a/b")
    shutil.rmtree(folder)
    write_orbax(folder, driver, (4, 4))
    with pytest.raises(ConversionError, match=r"has the shape \(4, 3\)"):
        orbax.Checkpoint(folder).read("a/b")


@pytest.mark.parametrize("part", ["manifest.ocdbt", "d"])
def test_orbax_database(part, tmp_path):
    state = tmp_path / "state"
    shutil.copytree(CKPT / "G_vmoe_soft_orbax" / "ckpt" / "2" / "state", state)
    if part == "d":
        shutil.rmtree(state / part)
        shutil.rmtree(state / "ocdbt.process_0")
    else:
        (state / part).unlink()
    checkpoint = orbax.Checkpoint(state)
    with pytest.raises(ConversionError, match=str(state)):
        for path in checkpoint.shapes():
            checkpoint.read(path)


def _rewritten(file, compression=zipfile.ZIP_STORED, edit=lambda n, b: b):
    """Write the members of a .pt file anew, changed."""
    with zipfile.ZipFile(file) as archive:
        members = {i.filename: archive.read(i) for i in archive.infolist()}
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, edit(name, content))


TORCH = {
    "compressed": (
        {"compression": zipfile.ZIP_DEFLATED},
        "is compressed, which PyTorch does not read",
    ),
    "short": (
        {"edit": lambda n, b: b[:-4] if n.endswith("data/0") else b},
        "data/0 must have 48 bytes; it has 44",
    ),
    "long": (
        {"edit": lambda n, b: b + b"0" if n.endswith("data/1") else b},
        "data/1 must have 20 bytes; it has 21",
    ),
}


@pytest.mark.parametrize("kind", TORCH)
def test_members_of_a_torch_file(kind, tmp_path):
    changes, match = TORCH[kind]
    file = tmp_path / "2.pt"
    tensors = {"a": torch.ones(4, 3), "b": torch.ones(5).float()}
    torch.save({"model": tensors, "step": 1}, file)
    _rewritten(file)
    np.testing.assert_array_equal(
        torch_file.Checkpoint(file).read("a"), np.ones((4, 3))
    )
    _rewritten(file, **changes)
    with pytest.raises(ConversionError, match=f"{file} is no .*{match}"):
        torch_file.Checkpoint(file)


TENSORS = {
    "float8": (torch.ones(3).to(torch.float8_e4m3fn), "one of the dtypes"),
    "complex": (torch.ones(3) * 1j, "one of the dtypes"),
    "meta": (torch.ones(3, device="meta"), "has a shape and no numbers"),
    "stride 0": (torch.ones(1).expand(9), "numbers of its own"),
    "overlapping": (
        torch.ones(9).as_strided((3, 3), (2, 1)),
        "numbers of its own",
    ),
}


@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_of_a_torch_file(kind, tmp_path):
    tensor, match = TENSORS[kind]
    file = tmp_path / "2.pt"
    torch.save({"model": {"a": tensor}}, file)
    with pytest.raises(ConversionError, match=f"a of {file} .*{match}"):
        torch_file.Checkpoint(file)


def test_safetensors_of_float8(tmp_path):
    texts.write_mot(tmp_path / "in")
    tensors = {k: torch.tensor(v) for k, v in texts.arrays().items()}
    name = "transformer.ln_f.bias"
    tensors[name] = tensors[name].to(torch.float8_e4m3fn)
    file = tmp_path / "in" / "model.safetensors"
    save_file(tensors, file)
    with pytest.raises(ConversionError, match=f"{name} of {file} .*F8_E4M3"):
        mot.convert_mot(tmp_path / "in", tmp_path / "out", say=str)


def test_no_new_folder_is_left_behind(tmp_path):
    texts.write_mot(tmp_path / "in")
    np.savez(tmp_path / "wrong.npz", token_ids=[[1]])
    with pytest.raises(ConversionError, match="must hold token_ids and logits"):
        mot.convert_mot(
            tmp_path / "in",
            tmp_path / "new" / "folder" / "out",
            verify=tmp_path / "wrong.npz",
            say=str,
        )
    assert not (tmp_path / "new").exists()
