"""Dense models made mixtures of experts, and one router made another."""

from keras_moe import extras

try:
    import keras_hub as _keras_hub  # noqa: F401
    import scipy as _scipy  # noqa: F401  (clusters tokens)
except ImportError as error:
    raise extras.missing(
        "KerasHub and SciPy", "models", "keras_moe.upcycling"
    ) from error

from keras_moe.upcycling.conversion import upcycle

__all__ = ["upcycle"]
