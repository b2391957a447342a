"""Embeddings of many images or texts, in batches of one size."""

import functools

import keras
import numpy as np

from keras_moe import distribution

# Batches that are made ready together. `predict` on a data set that makes one
# ready at a time takes half as long again on TensorFlow.
TOGETHER = 4


def in_numpy(array):
    """A tensor of any of the backends, or what NumPy reads, as its array."""
    if keras.ops.is_tensor(array):
        return keras.ops.convert_to_numpy(array)
    return np.asarray(array)


def encode(encoder, examples, batch_size, prepare):
    """Embeddings (examples, width), float32, as a NumPy array.

    Of more examples than one batch, the last batch is filled up with copies
    of the last example, so that a compiled model sees one shape. A batch is
    filled up too where `keras.distribution` cuts it for more devices.

    Args:
        encoder: a model.
        examples: an array, or a structure of arrays.
        batch_size: examples of each call.
        prepare: from some examples to the encoder's inputs.
    """
    count = len(keras.tree.flatten(examples)[0])
    devices = distribution.batch_shards()
    size = min(batch_size, count)
    size += -size % devices
    if count <= size and devices == 1:
        # One query of a search. `predict` makes a data set of it, which takes
        # many times as long on TensorFlow.
        inputs = prepare(keras.tree.map_structure(in_numpy, examples))
        return np.asarray(encoder.predict_on_batch(inputs))

    def part_of(start, array):
        # Not all arrays take a list of places, as NumPy's do.
        array = in_numpy(array[start : start + TOGETHER * size])
        last = np.repeat(array[-1:], -len(array) % size, axis=0)
        return np.concatenate([array, last]) if len(last) else array

    found = []
    for start in range(0, count, TOGETHER * size):
        part = functools.partial(part_of, start)
        inputs = prepare(keras.tree.map_structure(part, examples))
        found.append(encoder.predict(inputs, size, verbose=0))
    return np.concatenate(found)[:count]


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
