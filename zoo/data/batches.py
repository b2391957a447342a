"""Batches that follow from a seed and their place in the run."""

import keras
import numpy as np


class SeededBatches(keras.utils.PyDataset):
    """The batches of all epochs of a run, or of those that are left of it.

    A batch follows from the seed, its epoch and its step alone, so a run that
    was broken off goes on exactly as it would have. All epochs are in one:
    Keras fetches batches before the callbacks that could tell the epoch.

    Args:
        recipe: what is trained.
        seed: of the run.
        epochs: of the whole run.
        steps: of an epoch.
        first_epoch: where the run goes on.
    """

    def __init__(self, recipe, seed, epochs, steps, first_epoch=0):
        super().__init__()
        self.recipe = recipe
        self.seed = seed
        self.epochs = epochs
        self.steps = steps
        self.first_epoch = first_epoch

    def __len__(self):
        return self.steps * (self.epochs - self.first_epoch)

    def __getitem__(self, index):
        epoch, step = divmod(index, self.steps)
        epoch += self.first_epoch
        rng = np.random.default_rng((self.seed, epoch, step))
        return self.make(epoch, step, rng)

    def make(self, epoch, step, rng):
        """The batch of a step, as Keras takes it: (inputs, targets)."""
        raise NotImplementedError
