"""The state of a run after its last epoch, whole whenever the run ends."""

import math
import pathlib

import keras

from keras_moe import files
from zoo.errors import DataError


class States(keras.callbacks.Callback):
    """Keeps the state of a run: weights, optimizer and random generators.

    The run's history counts its epochs. The state after n of them is
    `n.weights.h5`: it is written before the history counts the epoch, and
    older ones are deleted later. So there is a state that fits the history,
    wherever the process ends.

    Args:
        folder: of the states.
        history: of the run, which is written after this callback.
    """

    def __init__(self, folder, history):
        super().__init__()
        self.folder, self.history = pathlib.Path(folder), history

    def restore(self, model) -> None:
        """Bring a compiled model to where the history ends.

        Raises:
            DataError: if the state is missing, damaged or of another model.
        """
        # Keras skips the variables of an optimizer that has none yet.
        model.optimizer.build(model.trainable_variables)
        if not self.history:
            return
        path = self._path(len(self.history))
        if not path.is_file():
            raise DataError(
                f"{path} is missing, the state of the run after "
                f"{len(self.history)} epochs; to train anew, move "
                f"{self.folder.parent} away."
            )
        with files.decoding(path, "state of this recipe's run", DataError):
            model.load_weights(path)

    def on_epoch_begin(self, epoch, logs=None):
        self._delete_others()

    def on_epoch_end(self, epoch, logs=None):
        self.folder.mkdir(parents=True, exist_ok=True)
        files.check_space(self.folder, _numbers(self.model))
        path = self._path(epoch + 1)
        part = path.with_name(f".part.{path.name}")
        with files.whole(part, path):
            self.model.save_weights(part, overwrite=True)

    def on_train_end(self, logs=None):
        self._delete_others()

    def _delete_others(self):
        newest = self._path(len(self.history))
        for path in self.folder.glob("*.weights.h5"):
            if path != newest:
                path.unlink()

    def _path(self, epochs):
        return self.folder / f"{epochs}.weights.h5"


def _numbers(model):
    """Count the numbers in the state of a compiled model."""
    variables = [*model.variables, *model.optimizer.variables]
    return sum(math.prod(one.shape) for one in variables)
