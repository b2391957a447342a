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
        rows = index * size + np.arange(size)
        if rows[-1] < self.count:
            rows = slice(index * size, (index + 1) * size)
        else:
            rows = np.minimum(rows, self.count - 1)
        batch = keras.tree.map_structure(lambda x: x[rows], self.examples)
        return (self.prepare(batch),)


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

    Of equal ones, the first comes first.
    """
    indices = np.argsort(-scores, axis=-1, kind="stable")[..., :k]
    return indices, np.take_along_axis(scores, indices, axis=-1)
