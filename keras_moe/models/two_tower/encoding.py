"""Embeddings of many images or texts, in batches of one size."""

import keras
import numpy as np


class _Batches(keras.utils.PyDataset):
    """Batches of examples, which `prepare` makes ready one by one.

    Of more examples than one batch, the last batch is filled up with copies
    of the last example, so that a compiled model sees one shape.
    """

    def __init__(self, examples, batch_size, prepare):
        super().__init__()
        self.examples = examples
        self.batch_size = batch_size
        self.prepare = prepare
        self.count = len(keras.tree.flatten(examples)[0])

    def __len__(self):
        return -(-self.count // self.batch_size)

    def __getitem__(self, index):
        size = min(self.batch_size, self.count)
        rows = slice(index * size, (index + 1) * size)
        missing = max(0, rows.stop - self.count)

        def batch_of(array):
            # Not all arrays take a list of places, as NumPy's do.
            array = in_numpy(array[rows])
            last = np.repeat(array[-1:], missing, axis=0)
            return np.concatenate([array, last]) if missing else array

        batch = keras.tree.map_structure(batch_of, self.examples)
        return (self.prepare(batch),)


def in_numpy(array):
    """A tensor of any of the backends, or what NumPy reads, as its array."""
    if keras.ops.is_tensor(array):
        return keras.ops.convert_to_numpy(array)
    return np.asarray(array)


def encode(encoder, examples, batch_size, prepare):
    """Embeddings (examples, width), float32, as a NumPy array.

    Args:
        encoder: a model.
        examples: an array, or a structure of arrays.
        batch_size: examples of each call.
        prepare: from a batch of examples to the encoder's inputs.
    """
    batches = _Batches(examples, batch_size, prepare)
    return encoder.predict(batches, verbose=0)[: batches.count]


def largest(scores, k):
    """(indices, scores) of the k largest of each row, the best first.

    Of equal ones, the first comes first; what is no number comes last.
    """
    rows = scores.reshape(-1, scores.shape[-1])
    indices = np.stack([_largest(row, k) for row in rows])
    indices = indices.reshape(*scores.shape[:-1], k)
    return indices, np.take_along_axis(scores, indices, axis=-1)


def _largest(row, k):
    """Places (k,) of the largest numbers of a row (n,), k <= n."""
    row = np.where(np.isnan(row), -np.inf, row)
    least = np.partition(row, len(row) - k)[len(row) - k]
    chosen = np.flatnonzero(row >= least)  # k, or more if some are equal
    return chosen[np.argsort(-row[chosen], kind="stable")[:k]]
