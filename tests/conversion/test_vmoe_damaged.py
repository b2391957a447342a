"""Damaged, incomplete and foreign checkpoints: a clear error, no output."""

import msgpack
import numpy as np
import pytest

from conversion import convert
from conversion import vmoe
from conversion.__main__ import main
from conversion.errors import ConversionError
from tests.conversion import writer
from tests.conversion.test_vmoe_goldens import load

pytestmark = pytest.mark.once

PARAMETERS, _, _ = load("F1_soft_gap_qknorm_learned")
BLOCK = "Encoder/encoderblock_2/"
MU = f"{BLOCK}Moe/Router/mu"


def refused(source, out, match, **options):
    with pytest.raises(ConversionError, match=match):
        convert.convert_vmoe(
            source, out, vmoe.Options(**options), say=lambda line: None
        )
    assert not out.exists()
    assert not [p for p in out.parent.iterdir() if p.name.startswith(".")]


def write(tmp_path, arrays=PARAMETERS, **options):
    return writer.checkpoint(tmp_path / "in" / "ckpt", arrays, **options)


# === Files cut short, missing, or with bytes changed ===


@pytest.mark.parametrize("kept", [0, 1, 7, 100, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("file", ["ckpt.index", "ckpt.data-00001-of-00002"])
def test_truncated(file, kept, tmp_path):
    prefix = write(tmp_path)
    path = tmp_path / "in" / file
    content = path.read_bytes()
    kept = kept if isinstance(kept, int) else int(len(content) * kept)
    path.write_bytes(content[:kept])
    refused(prefix, tmp_path / "out", file)


@pytest.mark.parametrize("file", ["ckpt.index", "ckpt.data-00000-of-00002"])
def test_missing(file, tmp_path):
    prefix = write(tmp_path)
    (tmp_path / "in" / file).unlink()
    refused(prefix, tmp_path / "out", file)


@pytest.mark.parametrize("file", ["ckpt.index", "ckpt.data-00001-of-00002"])
def test_bytes_too_many(file, tmp_path):
    prefix = write(tmp_path)
    with open(tmp_path / "in" / file, "ab") as stream:
        stream.write(b"\x00\x01\x02")
    refused(prefix, tmp_path / "out", file)


@pytest.mark.parametrize("seed", range(12))
def test_flipped_bytes_of_the_index(seed, tmp_path):
    """Wherever an index is hit, an error."""
    prefix = write(tmp_path)
    path = tmp_path / "in" / "ckpt.index"
    content = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    content[int(rng.integers(len(content)))] ^= int(rng.integers(1, 256))
    path.write_bytes(bytes(content))
    # A flip that leaves msgpack changes a name.
    match = "ckpt.index is no whole index of a vmoe checkpoint"
    if seed in (2, 8):
        match = "missing .'Encoder/encoderblock_3/.*not used .'Encoder/"
    refused(prefix, tmp_path / "out", match)


def test_flipped_bytes_that_make_no_number(tmp_path):
    """A flip inside an array is only seen where the number is not finite."""

    def spoil(path, piece):
        if path == "head/kernel":
            piece = piece.copy()
            piece[3] = np.inf
        return piece

    prefix = write(tmp_path, edit_array=spoil)
    refused(
        prefix,
        tmp_path / "out",
        "head/kernel of .*ckpt holds numbers",
    )


def test_flipped_bytes_inside_an_array_are_seen_by_verify(tmp_path):
    prefix = write(
        tmp_path,
        edit_array=lambda path, x: -x if path == "head/bias" else x,
    )
    np.savez(tmp_path / "expected.npz", **PARAMETERS)
    with pytest.raises(ConversionError, match="predictions/bias is not equal"):
        convert.convert_vmoe(
            prefix,
            tmp_path / "out",
            verify=tmp_path / "expected.npz",
            say=lambda line: None,
        )
    assert not (tmp_path / "out").exists()


# === An index and shards that do not agree ===


def _short(path, piece):
    return piece[:-1] if path == MU else piece


def _double(path, piece):
    return piece.astype("float64") if path == MU else piece


def _drop_leaf(shard):
    shard.pop(next(key for key in shard if key.isdecimal()))


def _foreign_leaf(shard):
    shard["9999"] = [[[], msgpack.ExtType(6, writer.nd_slice([(0, 1)]))]]


def _twice(shard):
    key = next(key for key in shard if key.isdecimal())
    shard[key] = shard[key] * 2


def _moved(shard):
    for key, chunks in shard.items():
        if key.isdecimal():
            bounds = writer.nd_slice([(1, 3)])
            shard[key] = [[chunks[0][0], msgpack.ExtType(6, bounds)]]
            return


def _pickled(shard):
    key = next(key for key in shard if key.isdecimal())
    shard[key] = [[[msgpack.ExtType(77, b"code" * 100)], shard[key][0][1]]]


SHARDS = {
    "leaf missing": (_drop_leaf, "do not agree on which arrays"),
    "leaf of nowhere": (_foreign_leaf, "do not agree on which arrays"),
    "chunk twice": (_twice, "must hold the slices"),
    "chunk elsewhere": (_moved, "slice"),
    "unknown extension": (_pickled, "unknown extension type 77"),
}


@pytest.mark.parametrize("kind", SHARDS)
def test_shard_that_does_not_fit(kind, tmp_path):
    edit, match = SHARDS[kind]
    prefix = write(tmp_path, edit_shard=edit)
    refused(prefix, tmp_path / "out", match)


@pytest.mark.parametrize("edit", [_short, _double])
def test_chunk_of_another_size_or_dtype(edit, tmp_path):
    prefix = write(tmp_path, edit_array=edit)
    refused(prefix, tmp_path / "out", f"values of .* {MU}")


def _entry(shape, slices, shards):
    array = np.lib.stride_tricks.as_strided(
        np.float32(0), shape, (0,) * len(shape)
    )
    return writer.entry(array, [writer.nd_slice(s) for s in slices], shards)


HEAD = (32, 10)
INDICES = {
    "gap": ([[(0, 16), (0, 10)]], [0], "does not cover head/kernel"),
    "overlap": (
        [[(0, 20), (0, 10)], [(10, 32), (0, 10)]],
        [0, 1],
        "cuts head/kernel",
    ),
    "outside": ([[(0, 33), (0, 10)]], [0], "cuts head/kernel"),
    "backwards": ([[(32, 0), (0, 10)]], [0], "cuts head/kernel"),
    "axes": ([[(0, 32)]], [0], "cuts head/kernel"),
    "no such shard": ([[(0, 32), (0, 10)]], [7], "there are 2"),
    "a shard short": (
        [[(0, 16), (0, 10)], [(16, 32), (0, 10)]],
        [0],
        "does not cover head/kernel",
    ),
}


@pytest.mark.parametrize("kind", INDICES)
def test_index_that_cuts_wrongly(kind, tmp_path):
    slices, shards, match = INDICES[kind]

    def edit(index):
        index["index"]["head"]["kernel"] = _entry(HEAD, slices, shards)

    refused(write(tmp_path, edit_index=edit), tmp_path / "out", match)


ROOTS = {
    "no index": (lambda i: i.pop("index"), "map with the key 'index'"),
    "version": (lambda i: i.update(version="2031"), "has version '2031'"),
    "no count": (lambda i: i.pop("shard_count"), "number of its shards"),
    "count of text": (lambda i: i.update(shard_count="2"), "says '2'"),
    "more shards": (lambda i: i.update(shard_count=3), "of-00003 is missing"),
    "leaf of text": (lambda i: i["index"].update(cls="x"), "is no whole index"),
}


@pytest.mark.parametrize("kind", ROOTS)
def test_index_that_is_none(kind, tmp_path):
    edit, match = ROOTS[kind]
    refused(write(tmp_path, edit_index=edit), tmp_path / "out", match)


# === Whole checkpoints of another model, and options that do not fit ===


def _without(*names):
    return {k: v for k, v in PARAMETERS.items() if not k.startswith(names)}


def _with(**arrays):
    return {
        **PARAMETERS,
        **{k.replace("__", "/"): v for k, v in arrays.items()},
    }


F32 = np.zeros(32, "float32")
MODELS = {
    "text": ({"txt/Embed_0/embedding": F32}, "no img/…"),
    "no head": (_without("head"), "no head/kernel"),
    "no blocks": (_without("Encoder/encoderblock_"), "blocks 0, 1"),
    "a block short": (_without("Encoder/encoderblock_1/"), r"\[0, 2, 3\]"),
    "an array short": (_without(f"{BLOCK}LayerNorm_1/scale"), "missing"),
    "an array more": (_with(extra__bias=F32), "not used .'extra/bias'"),
    "another shape": (
        _with(Encoder__encoder_norm__bias=F32[:31]),
        "encoder_norm/bias must have the shape",
    ),
    "integers": (
        _with(head__bias=np.zeros(10, "int32")),
        "must hold floating-point numbers",
    ),
    "no positions": (_without("Encoder/posembed"), "give --positions"),
    "positions": (
        _with(
            Encoder__posembed_input__pos_embedding=np.zeros(
                (1, 15, 32), "float32"
            )
        ),
        "give --image-size",
    ),
}


@pytest.mark.parametrize("kind", MODELS)
def test_checkpoint_of_another_model(kind, tmp_path):
    arrays, match = MODELS[kind]
    refused(write(tmp_path, arrays), tmp_path / "out", match)


OPTIONS = [
    ({"num_heads": 4}, "--num-heads 4 does not agree"),
    ({"image_size": (15, 16)}, "--image-size 15x16 must be a multiple"),
    ({"top_k": 2}, "--top-k is of routers that choose"),
    ({"capacity_factor": 1.0}, "--capacity-factor is of routers"),
    ({"batch_priority": True}, "--batch-priority is of token choice"),
    ({"positions": "sincos2d"}, "--positions sincos2d does not agree"),
    ({"pooling": "token"}, "--pooling token does not agree"),
    ({"architecture": "soft_moe_xxl"}, "--architecture: name must be one"),
]


@pytest.mark.parametrize("options, match", OPTIONS)
def test_option_that_does_not_fit(options, match, tmp_path):
    refused(write(tmp_path), tmp_path / "out", match, **options)


def test_output_that_is_no_preset_is_kept(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(ConversionError, match="new, empty or a preset"):
        convert.convert_vmoe(write(tmp_path), out, say=lambda line: None)
    assert (out / "thesis.txt").read_text() == "mine"


def test_command_line_says_what_is_wrong_and_fails(tmp_path):
    with pytest.raises(SystemExit, match="error: .*nowhere.index"):
        main(["vmoe", str(tmp_path / "nowhere"), str(tmp_path / "out")])
