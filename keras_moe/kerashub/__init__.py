"""KerasHub's own mixtures of experts, computed sparsely."""

from keras_moe import extras

try:
    import keras_hub as _  # noqa: F401  (its models are what changes)
except ImportError as error:
    raise extras.missing(
        "KerasHub", "models", "keras_moe.use_sparse_experts"
    ) from error

from keras_moe.kerashub.lora import enable_expert_lora
from keras_moe.kerashub.lora import load_expert_lora
from keras_moe.kerashub.lora import merge_expert_lora
from keras_moe.kerashub.lora import save_expert_lora
from keras_moe.kerashub.quantized import quantize_experts
from keras_moe.kerashub.quantized import quantize_while_loading
from keras_moe.kerashub.sparse import SparseBlock
from keras_moe.kerashub.sparse import use_dense_experts
from keras_moe.kerashub.sparse import use_sparse_experts

__all__ = [
    "SparseBlock",
    "enable_expert_lora",
    "load_expert_lora",
    "merge_expert_lora",
    "quantize_experts",
    "quantize_while_loading",
    "save_expert_lora",
    "use_dense_experts",
    "use_sparse_experts",
]
