"""Writes checkpoints in vmoe's format, whole ones and damaged ones."""

import pathlib

import ml_dtypes
import msgpack
import numpy as np


def pack(value):
    return msgpack.packb(value, use_bin_type=True)


def ndarray(array):
    content = [list(array.shape), array.dtype.name, array.tobytes()]
    return msgpack.ExtType(1, pack(content))


def nd_slice(bounds):
    return pack([pack([start, stop, None]) for start, stop in bounds])


def entry(array, slices, shards):
    shaped = pack([list(array.shape), array.dtype.name, False, {}])
    return msgpack.ExtType(8, pack([shaped, slices, shards]))


def nested(paths):
    """{"a/b": x} → {"a": {"b": x}}."""
    tree = {}
    for path, value in paths.items():
        *parents, last = path.split("/")
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = value
    return tree


def cuts(array, parts):
    """Slices along the first axis, as experts are cut over devices."""
    if array.ndim < 3 or array.shape[0] % parts:
        return [tuple((0, size) for size in array.shape)]
    step = array.shape[0] // parts
    rest = tuple((0, size) for size in array.shape[1:])
    return [((i, i + step), *rest) for i in range(0, array.shape[0], step)]


def checkpoint(
    prefix,
    arrays,
    *,
    shards=2,
    parts=2,
    version="20220622",
    order=None,
    edit_index=None,
    edit_shard=None,
    edit_array=None,
):
    """Write PREFIX.index and its shards.

    Args:
        prefix: of the files.
        arrays: {path: array}.
        shards: number of data files.
        parts: slices of arrays whose first axis this divides.
        version: of the index, `None` for an old one without it.
        order: all paths in the order of their numbers, by default that of
            strings.
        edit_index: changes the dictionary of the index before it is written.
        edit_shard: changes shard 0's dictionary.
        edit_array: changes a path's bytes: (path, array) → array to write.
    """
    if order is None:
        order = sorted(arrays, key=lambda path: path.split("/"))
    contents = [{"__msgpack_array_chunk_a87ca2__": True} for _ in range(shards)]
    entries, turn = {}, 0
    for number, path in enumerate(order):
        array = np.asarray(arrays[path])
        slices, places = cuts(array, parts), []
        for bounds in slices:
            where = tuple(slice(*pair) for pair in bounds)
            piece = np.ascontiguousarray(array[where]).reshape(-1)
            if edit_array is not None:
                piece = edit_array(path, piece)
            shard, turn = turn % shards, turn + 1
            place = contents[shard].setdefault(str(number), [])
            # Two flat parts, as arrays above a size are written.
            halves = np.split(piece, [piece.size // 2])
            halves = [h for h in halves if h.size] or [piece]
            bounds_ext = msgpack.ExtType(6, nd_slice(bounds))
            place.append([[ndarray(h) for h in halves], bounds_ext])
            places.append(shard)
        entries[path] = entry(array, [nd_slice(b) for b in slices], places)
    index = {"shard_count": shards, "index": nested(entries)}
    if version is not None:
        index["version"] = version
    if edit_index is not None:
        edit_index(index)
    if edit_shard is not None:
        edit_shard(contents[0])
    prefix = pathlib.Path(prefix)
    prefix.parent.mkdir(parents=True, exist_ok=True)
    pathlib.Path(f"{prefix}.index").write_bytes(pack(index))
    for i, content in enumerate(contents):
        name = f"{prefix}.data-{i:05d}-of-{shards:05d}"
        pathlib.Path(name).write_bytes(pack(content))
    return str(prefix)


def bfloat16(arrays):
    return {k: v.astype(ml_dtypes.bfloat16) for k, v in arrays.items()}
