"""Files that claim more than they hold: refused, and nothing of it is made."""

import json
import pathlib
import pickle
import zipfile

import msgpack
import pytest
import torch

from conversion.errors import ConversionError
from conversion.formats import orbax
from conversion.formats import torch_file
from conversion.formats import torch_storages
from tests.conversion import tiny
from tests.conversion import writer
from tests.conversion.test_fuzz import bounded_memory as bounded_memory

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("bounded_memory")]

HUGE = 2**62
KERNEL = "head/kernel"


def entry(shape, slices, shards, dtype="float32"):
    """An entry of an index, of whatever is given."""
    shaped = writer.pack([shape, dtype, False, {}])
    content = writer.pack([shaped, slices, shards])
    return msgpack.ExtType(8, content)


def cut(*bounds):
    return writer.nd_slice(bounds)


ENTRIES = {
    "a huge array": entry([HUGE, 3], [cut((0, HUGE), (0, 3))], [0]),
    "a huge and empty one": entry([HUGE, 0], [], []),
    "many axes": entry([1] * 70, [cut(*[(0, 1)] * 70)], [0]),
    "no axes": entry([], [cut()], [0]),
    "a negative axis": entry([-4, 3], [cut((0, -4), (0, 3))], [0]),
    "axes of text": entry(["4", 3], [cut((0, 4), (0, 3))], [0]),
    "no shape": entry(None, [cut((0, 4), (0, 3))], [0]),
    "a huge offset": entry([4, 3], [cut((HUGE, HUGE + 4), (0, 3))], [0]),
    "a negative offset": entry([4, 3], [cut((-4, 4), (0, 3))], [0]),
    "an offset of nothing": entry([4, 3], [cut((None, 4), (0, 3))], [0]),
    "a huge shard": entry([4, 3], [cut((0, 4), (0, 3))], [HUGE]),
    "a negative shard": entry([4, 3], [cut((0, 4), (0, 3))], [-1]),
    "no dtype": entry([4, 3], [cut((0, 4), (0, 3))], [0], None),
    "a dtype of fields": entry([4, 3], [cut((0, 4), (0, 3))], [0], "f4,f4"),
    "a dtype of many": entry([4, 3], [cut((0, 4), (0, 3))], [0], "(99999,)f4"),
    "no entry": [1, 2, 3, 4],
    "a number": 5,
    "deep": None,
}


@pytest.mark.parametrize("kind", ENTRIES)
def test_entries_of_an_index(kind, tmp_path):
    def edit(index):
        index["index"]["head"]["kernel"] = ENTRIES[kind]

    prefix = writer.checkpoint(
        tmp_path / "ckpt", tiny.of_vmoe(), edit_index=edit
    )
    if kind == "deep":
        deep = b"\x91" * 100_000 + b"\xc0"
        pathlib.Path(f"{prefix}.index").write_bytes(deep)
    with pytest.raises(ConversionError, match=prefix):
        tiny.read_vmoe(prefix)


LISTS = {
    "a list": b"\xdd\xff\xff\xff\xff",
    "a map": b"\xdf\xff\xff\xff\xff",
    "bytes": b"\xc6\xff\xff\xff\xff",
    "a text": b"\xdb\xff\xff\xff\xff",
    "an extension": b"\xc9\xff\xff\xff\xff\x01",
}


@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize("file", ["index", "data-00000-of-00002"])
def test_counts_of_a_shard_and_an_index(file, kind, tmp_path):
    """As a key, which would be made, and in place of everything."""
    prefix = writer.checkpoint(tmp_path / "ckpt", tiny.of_vmoe())
    path = pathlib.Path(f"{prefix}.{file}")
    for front in (b"", b"\x81"):
        path.write_bytes(front + LISTS[kind])
        with pytest.raises(ConversionError, match=str(path)):
            tiny.read_vmoe(prefix)


@pytest.mark.parametrize("where", ["both", "_METADATA", ".zarray", "chunks"])
def test_shapes_of_orbax(where, tmp_path):
    folder = tiny.write_orbax(tmp_path / "in")
    name = KERNEL.replace("/", ".")
    if where in ("both", "_METADATA"):
        metadata = json.loads((folder / "_METADATA").read_text())
        value = metadata["tree_metadata"]["('head', 'kernel')"]
        value["value_metadata"]["write_shape"] = [10**6, 10**6]
        (folder / "_METADATA").write_text(json.dumps(metadata))
    if where != "_METADATA":
        path = folder / name / ".zarray"
        value = json.loads(path.read_text())
        key = "chunks" if where == "chunks" else "shape"
        value[key] = [10**6, 10**6]
        path.write_text(json.dumps(value))
    with pytest.raises(ConversionError, match=str(folder)):
        orbax.Checkpoint(folder).read(KERNEL)


@pytest.mark.parametrize("file", ["_METADATA", ".zarray"])
def test_deep_json_of_orbax(file, tmp_path):
    """It would end the process, not raise an error."""
    folder = tiny.write_orbax(tmp_path / "in")
    (path,) = (
        folder.rglob(f"head.kernel/{file}")
        if file != "_METADATA"
        else [folder / file]
    )
    path.write_text("[" * 10**6 + "]" * 10**6)
    with pytest.raises(ConversionError, match=f"{folder}.*100 levels"):
        orbax.Checkpoint(folder).read(KERNEL)


def test_a_pickle_that_names_many_objects(tmp_path):
    """The number of a name is no reason to make room for as many."""
    file = tiny.write_llm_random(tmp_path / "2.pt")
    with zipfile.ZipFile(file) as archive:
        members = {i.filename: archive.read(i) for i in archive.infolist()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            if name.endswith("data.pkl"):
                number = (2**28).to_bytes(4, "little")
                content = content[:-1] + pickle.LONG_BINPUT + number + b"."
            archive.writestr(name, content)
    torch_storages.check_sizes(file)
    assert torch_file.Checkpoint(file).shapes()["head.weight"] == (5, 4)


def test_storages_of_an_old_file(tmp_path):
    """What is said of a tensor's size is not made before it is read."""
    file = tmp_path / "2.pt"
    torch.save(
        {"model": {"a": torch.ones(77_777)}},
        file,
        _use_new_zipfile_serialization=False,
    )
    content = file.read_bytes()
    count = (77_777).to_bytes(4, "little")
    assert content.count(count) > 1
    file.write_bytes(content.replace(count, (2**30).to_bytes(4, "little")))
    with pytest.raises(ConversionError, match=str(file)):
        torch_file.Checkpoint(file)
    file.write_bytes(content + b"more")
    with pytest.raises(ConversionError, match=f"{file} .*4 bytes too many"):
        torch_file.Checkpoint(file)


def test_safetensors_header(tmp_path):
    folder = tiny.write_mot(tmp_path / "in")
    file = folder / "model.safetensors"
    content = file.read_bytes()
    for size in (2**63, 2**40, 99_999_999):
        file.write_bytes(size.to_bytes(8, "little") + content[8:])
        with pytest.raises(ConversionError, match=str(file)):
            tiny.read_mot(folder)
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["transformer.wte.weight"]["shape"] = [HUGE, 4]
    header = json.dumps(header).encode()
    file.write_bytes(
        len(header).to_bytes(8, "little") + header + content[8 + length :]
    )
    with pytest.raises(ConversionError, match=str(file)):
        tiny.read_mot(folder)
