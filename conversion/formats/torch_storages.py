"""Whether the tensors in a file of `torch.save` are all in it.

PyTorch takes the size of a tensor's bytes from the pickle and does not hold it
to the member of the zip file that they lie in: of a short one it reads what
follows. Of a compressed one it reads the compressed bytes.
"""

import pickle
import zipfile

# Bytes of an element of a storage, by the name of its class.
ITEMSIZES = {
    "UntypedStorage": 1,
    "BoolStorage": 1,
    "ByteStorage": 1,
    "CharStorage": 1,
    "ShortStorage": 2,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "IntStorage": 4,
    "FloatStorage": 4,
    "LongStorage": 8,
    "DoubleStorage": 8,
    "ComplexFloatStorage": 8,
    "ComplexDoubleStorage": 16,
}


class _Inert:
    """Stands for every object of a pickle; does nothing."""

    def __init__(self, *args, **kwargs):
        pass

    def __setitem__(self, key, value):
        pass

    def __setstate__(self, state):
        pass

    def append(self, value):
        pass

    def extend(self, values):
        pass


# The one in C allocates as many objects as the pickle says it will name.
class _Sizes(pickle._Unpickler):
    """Notes {key of a storage: its bytes}; imports and runs nothing."""

    def __init__(self, file):
        super().__init__(file)
        self.sizes = {}

    def find_class(self, module, name):
        # A class of its own for each, so that a storage tells its kind.
        return type(name, (_Inert,), {})

    def persistent_load(self, pid):
        _, kind, key, _, count = pid
        self.sizes[key] = count * ITEMSIZES[kind.__name__]
        return _Inert()


def check_members(file) -> None:
    """Raise an error unless a zip file holds bytes as they are, each once.

    Raises:
        zipfile.BadZipFile: saying what is wrong.
    """
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        for member in members:
            if member.compress_type != zipfile.ZIP_STORED:
                raise zipfile.BadZipFile(
                    f"{member.filename} is compressed, which PyTorch does not "
                    "read"
                )
        _check_apart(members)
        # PyTorch does not look at the check sums.
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"{damaged} has another check sum")


def check_sizes(file) -> None:
    """Raise an error unless each tensor has the bytes that it should.

    Args:
        file: path of a file that PyTorch's restricted unpickler has read.

    Raises:
        ValueError: saying what is wrong.
    """
    with zipfile.ZipFile(file) as archive:
        sizes = {one.filename: one.file_size for one in archive.infolist()}
        pickled = next(n for n in sizes if n.endswith("/data.pkl"))
        with archive.open(pickled) as stream:
            reader = _Sizes(stream)
            reader.load()
    front = pickled.removesuffix("data.pkl")
    for key, size in reader.sizes.items():
        name = f"{front}data/{key}"
        if sizes.get(name) != size:
            raise ValueError(
                f"{name} must have {size} bytes; it has "
                f"{sizes.get(name, 'none')}"
            )


def _check_apart(members):
    """No two members may have one name, or bytes in common."""
    end, seen = 0, set()
    for member in sorted(members, key=lambda m: m.header_offset):
        if member.filename in seen:
            raise zipfile.BadZipFile(f"{member.filename} occurs twice")
        if member.header_offset < end:
            raise zipfile.BadZipFile(f"{member.filename} overlaps another")
        seen.add(member.filename)
        end = member.header_offset + member.compress_size
