"""vmoe's sharded checkpoints: PREFIX.index and PREFIX.data-00000-of-0000N.

The index is a tree whose leaves say the shape, the dtype and, for each slice
of the array, the shard that holds it. Leaves are numbered (`vmoe_leaves`). A
shard maps a leaf's number to its chunks. Only one leaf is held in memory at a
time.
"""

import math
import operator
import pathlib

import ml_dtypes
import msgpack
import numpy as np

from conversion.errors import ConversionError
from conversion.formats import vmoe_leaves
from keras_moe import files

NDARRAY, SHAPED, SLICE, ND_SLICE, ENTRY = 1, 4, 5, 6, 8
CHUNK_MARKER = "__msgpack_array_chunk_a87ca2__"
VERSION = "20220622"
MAX_BUFFER = 2**32 - 1
LONGEST_KEY = 1000
WHOLE = "whole index of a vmoe checkpoint"


class Checkpoint:
    """Arrays by path, `"/"` between the keys.

    Args:
        prefix: path of the checkpoint without `.index`.
    """

    def __init__(self, prefix):
        prefix = str(prefix).removesuffix(".index")
        self.prefix = pathlib.Path(prefix)
        self.index_file = pathlib.Path(f"{prefix}.index")
        index = _unpack_file(self.index_file)
        if not isinstance(index, dict) or "index" not in index:
            raise ConversionError(
                f"{self.index_file} must be the index of a vmoe checkpoint, "
                "a map with the key 'index'."
            )
        version = index.get("version")
        if version not in (None, VERSION):
            raise ConversionError(
                f"{self.index_file} has version {version!r}; this reads "
                f"{VERSION!r} and indices without a version."
            )
        count = index.get("shard_count")
        if type(count) is not int or not 0 < count < 100_000:
            raise ConversionError(
                f"{self.index_file} must name the number of its shards; it "
                f"says {count!r}."
            )
        self.files = [
            pathlib.Path(f"{prefix}.data-{i:05d}-of-{count:05d}")
            for i in range(count)
        ]
        for file in self.files:
            if not file.is_file():
                raise ConversionError(f"shard {file} is missing.")
        tree = index["index"]
        old_state = version is None and vmoe_leaves.is_training_state(tree)
        with files.decoding(self.index_file, WHOLE, ConversionError):
            self.leaves = vmoe_leaves.number_leaves(tree, old_state)
        with files.about(self.index_file, ConversionError):
            for path, leaf in self.leaves.items():
                vmoe_leaves.check_tiles(path, leaf, count)
        self._places = [_places(file) for file in self.files]
        if old_state:
            self._check_order()
        else:
            self._check_places()

    def shapes(self):
        """{path: shape} of all arrays."""
        return {path: leaf.shape for path, leaf in self.leaves.items()}

    def dtype(self, path):
        return self.leaves[path].dtype

    def where(self, path):
        """Name of an array's place in errors."""
        return self.prefix

    def read(self, path):
        """One array, put together from its chunks."""
        leaf = self.leaves[path]
        array = np.empty(leaf.shape, leaf.dtype)
        for nd_slice, piece in self._pieces(path):
            array[tuple(slice(*pair) for pair in nd_slice)] = piece
        return array

    def _pieces(self, path):
        """Yield (slice, its part) of one leaf, which the index must agree to.

        That everything was there is only known behind the last one.
        """
        leaf = self.leaves[path]
        for shard in sorted(set(leaf.shards)):
            slices, found = sorted(leaf.of_shard(shard)), []
            for nd_slice, chunk in self._chunks(shard, leaf.number, path):
                shape = tuple(stop - start for start, stop in nd_slice)
                fits = chunk.shape in (shape, (math.prod(shape),))
                if chunk.dtype != leaf.dtype or not fits:
                    raise ConversionError(
                        f"{self.files[shard]} holds {chunk.size} values of "
                        f"{chunk.dtype} for a slice {shape} of {path}, "
                        f"{leaf.dtype}."
                    )
                found.append(nd_slice)
                if nd_slice in slices:
                    yield nd_slice, chunk.reshape(shape)
            if sorted(found) != slices:
                raise ConversionError(
                    f"{self.files[shard]} must hold the slices {slices} of "
                    f"{path}; it holds {sorted(found)}."
                )

    def _check_order(self):
        """Hold all arrays of an old training state against the index.

        Its numbers follow from Python classes that the file does not name, so
        they are only believed if every array then is what the index says.
        """
        try:
            self._check_places()
            for path in self.leaves:
                for _ in self._pieces(path):
                    pass
        except ConversionError as error:
            raise ConversionError(
                f"{self.index_file} has no version, and so the order of the "
                "arrays in its training state is ambiguous. Nothing is read, "
                f"as the order {', '.join(vmoe_leaves.STATE)} does not fit: "
                f"{error}"
            ) from error

    def _check_places(self):
        for shard, places in enumerate(self._places):
            expected = {
                leaf.number
                for leaf in self.leaves.values()
                if shard in leaf.shards
            }
            if set(places) != expected:
                wrong = sorted(set(places) ^ expected)[:5]
                raise ConversionError(
                    f"{self.files[shard]} and {self.index_file} do not agree "
                    f"on which arrays the shard holds (numbers {wrong})."
                )
            self._check_sizes(shard, places)

    def _check_sizes(self, shard, places):
        """A shard must hold as much as the index says, before it is made."""
        for path, leaf in self.leaves.items():
            expected = leaf.dtype.itemsize * sum(
                math.prod(stop - start for start, stop in nd_slice)
                for nd_slice in leaf.of_shard(shard)
            )
            start, end = places.get(leaf.number, (0, 0))
            if expected > end - start:
                raise ConversionError(
                    f"{self.files[shard]} must hold {expected} bytes of "
                    f"{path}; it holds {end - start}."
                )

    def _chunks(self, shard, number, path):
        """Yield (slice, flat array) of one leaf in one shard."""
        start, end = self._places[shard][number]
        file = self.files[shard]
        with open(file, "rb") as stream:
            stream.seek(start)
            with files.decoding(
                file, f"shard with a whole {path}", ConversionError
            ):
                for parts, nd_slice in _unpack(stream.read(end - start)):
                    chunk = parts[0] if len(parts) == 1 else None
                    if chunk is None:
                        chunk = np.concatenate(parts)
                    yield nd_slice, np.asarray(chunk)


def _places(file):
    """{leaf number: (first byte, end)} of a shard, read in one pass."""
    places = {}
    with files.decoding(
        file, "whole shard of a vmoe checkpoint", ConversionError
    ):
        with open(file, "rb") as stream:
            # No key is a list, which would be allocated here.
            unpacker = msgpack.Unpacker(
                stream,
                max_buffer_size=MAX_BUFFER,
                max_array_len=0,
                max_map_len=0,
                max_str_len=LONGEST_KEY,
            )
            for _ in range(unpacker.read_map_header()):
                key = unpacker.unpack()
                start = unpacker.tell()
                unpacker.skip()
                if key == CHUNK_MARKER:
                    continue
                number = int(key)
                if number in places or str(number) != key:
                    raise ValueError(f"array {key!r} occurs twice or is none")
                places[number] = start, unpacker.tell()
            end = unpacker.tell()
        if end != file.stat().st_size:
            raise ValueError(f"{file.stat().st_size - end} bytes too many")
    return places


def _unpack_file(file):
    with files.decoding(file, WHOLE, ConversionError):
        return _unpack(pathlib.Path(file).read_bytes())


def _unpack(content):
    return msgpack.unpackb(
        content,
        ext_hook=_extension,
        object_pairs_hook=_map,
        strict_map_key=False,
        raw=False,
    )


def _map(pairs):
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice in a map")
    return found


def _plain(content):
    """The payload of an extension, itself msgpack."""
    return msgpack.unpackb(content, raw=True)


def _extension(code, payload):
    if code in (NDARRAY, 3):
        shape, dtype, content = _plain(payload)
        dtype = _dtype(dtype)
        return np.frombuffer(content, dtype).reshape(shape)
    if code == SLICE:
        return _slice(payload)
    if code == ND_SLICE:
        return tuple(_slice(part) for part in _plain(payload))
    if code == ENTRY:
        shaped, slices, shards = _plain(payload)
        shape, dtype = _plain(shaped)[:2]
        return vmoe_leaves.Entry(
            tuple(operator.index(n) for n in shape),
            _dtype(dtype),
            tuple(_extension(ND_SLICE, s) for s in slices),
            tuple(operator.index(n) for n in shards),
        )
    raise ValueError(f"unknown extension type {code}")


def _slice(payload):
    start, stop, step = _plain(payload)
    if step not in (None, 1):
        raise ValueError(f"a slice with step {step}")
    return operator.index(start), operator.index(stop)


def _dtype(name):
    name = name.decode() if isinstance(name, bytes) else name
    if not isinstance(name, str):  # NumPy takes None for float64
        raise ValueError(f"an array of dtype {name!r}")
    if name == "bfloat16":
        return np.dtype(ml_dtypes.bfloat16)
    dtype = np.dtype(name)
    if dtype.kind not in "fiub":
        raise ValueError(f"an array of dtype {name}")
    return dtype
