"""Layers that are built at their first call, from whichever thread."""

import functools
import threading

_BUILDING = threading.RLock()


def once(build):
    """Decorate `build`: one thread builds a layer, others find it built.

    Keras locks a layer's state when it is built, so that a second thread in
    `build` would raise an error.
    """

    @functools.wraps(build)
    def build_once(self, input_shape):
        with _BUILDING:
            if not self.built:
                build(self, input_shape)
                self.built = True  # before Keras says so, outside the lock

    return build_once
