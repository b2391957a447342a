"""KerasHub's own mixtures of experts, computed sparsely."""

from keras_moe import extras

try:
    import keras_hub as _  # noqa: F401  (its models are what changes)
except ImportError as error:
    raise extras.missing(
        "KerasHub", "models", "keras_moe.use_sparse_experts"
    ) from error

from keras_moe.kerashub.sparse import SparseBlock
from keras_moe.kerashub.sparse import use_dense_experts
from keras_moe.kerashub.sparse import use_sparse_experts

__all__ = ["SparseBlock", "use_dense_experts", "use_sparse_experts"]
