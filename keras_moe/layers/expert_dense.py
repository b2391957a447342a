"""A projection of all experts: Keras' layer, and its product of sorted rows."""

import keras
import numpy as np
from keras import ops

from keras_moe import checks
from keras_moe import distribution
from keras_moe.initializers import PerExpert
from keras_moe.ops.grouped import made

# Quantised kernels that are made of their expert's own values.
BY_EXPERT = ("int8", "int4")


class ExpertDense(keras.layers.EinsumDense):
    """Keras' layer for slots (G,E,S,D), whose arrays `experts_mlp` takes.

    Where it is called itself, rows are (1,E,N,D): of three axes, Keras'
    `ops.add` takes a bias (E,1,1) for one of the second axis, N.
    """

    in_processes = False  # whether this process has some of the experts alone

    def save_own_variables(self, store):
        here = distribution.experts_here(self._kernel)
        if self.in_processes or here < self.num_experts:
            raise ValueError(
                "experts that are spread over processes must be saved within "
                f"keras_moe.distribution.whole_experts; received {self.path!r} "
                f"with {here} of {self.num_experts} experts."
            )
        super().save_own_variables(store)

    def add_weight(self, shape=None, initializer=None, **options):
        name = options.get("name")
        if name == "lora_kernel_b":  # Keras would have one for all experts
            shape = (self.num_experts, *shape)
        if name in ("lora_kernel_a", "lora_kernel_b"):
            initializer = PerExpert(initializer)
        return super().add_weight(shape, initializer, **options)

    def enable_lora(self, rank, **options):
        if self.quantization_mode not in (None, "int8"):
            raise ValueError(
                "adapters (LoRA) are offered for experts that are not "
                "quantised or are of int8; received experts of "
                f"{self.quantization_mode}."
            )
        super().enable_lora(checks.integer("rank", rank), **options)

    @property
    def num_experts(self):
        return self.partial_output_shape[0]

    def quantize(self, mode=None, type_check=True, config=None):
        # Keras quantises no subclass that does not ask for it.
        super().quantize(mode, type_check=False, config=config)

    # === Rows sorted by expert ===

    @property
    def multiplies_rows(self) -> bool:
        """Whether `multiply` serves the kernels as they are stored."""
        mode = self.quantization_mode
        if mode == "int4":
            experts, features, outputs = self.original_kernel_shape
            # Each byte holds two values, of one expert then.
            return experts * outputs % 2 == features * outputs % 2 == 0
        return mode is None or mode in BY_EXPERT

    def multiply(self, product, rows):
        """Each row by its expert's kernel and adapter, (P,D) -> (P,F).

        As Keras computes them for slots, but for the order of roundings: no
        kernel is made of values nor of an adapter for experts without rows.

        Args:
            product: `(rows, kernels) -> rows`, of a dispatcher.
            rows: (P,D).
        """
        if self.quantization_mode is None:
            outputs = product(rows, ops.convert_to_tensor(self._kernel))
        else:
            outputs = self._multiply_quantised(product, rows)
        if self.lora_enabled:
            inner = product(rows, ops.convert_to_tensor(self.lora_kernel_a))
            own = product(inner, ops.convert_to_tensor(self.lora_kernel_b))
            own = own * (self.lora_alpha / self.lora_rank)
            outputs = outputs + ops.cast(own, outputs.dtype)
        return outputs

    def _multiply_quantised(self, product, rows):
        in_blocks = getattr(self, "_int4_block_size", None) is not None
        if self.inputs_quantizer is None or in_blocks:
            return product(rows, self._made_kernels())
        values, scale = self.inputs_quantizer(rows, axis=-1)
        scale = ops.cast(ops.stop_gradient(scale), rows.dtype)
        # The gradient is that of rows which are not rounded, as in Keras.
        scaled = rows * scale
        error = ops.cast(values, rows.dtype) - scaled
        rounded = scaled + ops.stop_gradient(error)
        return product(rounded, self._made_kernels()) / scale

    def _made_kernels(self) -> made.MadeKernels:
        values = ops.convert_to_tensor(self._kernel)
        scale = ops.convert_to_tensor(self.kernel_scale)
        if self.quantization_mode == "int8":
            scale = 1.0 / self._adjust_scale_for_dequant(scale)  # (E,1,F)
            return made.int8_kernels(values, scale, self.compute_dtype)
        experts, features, outputs = self.original_kernel_shape
        tables = [1.0 / scale if self._int4_block_size is None else scale]
        if self._int4_block_size is not None:
            tables.append(ops.convert_to_tensor(self.kernel_zero))
        index = _rows_of_scales(experts, features, self._int4_block_size)
        return made.MadeKernels(
            (ops.reshape(values, (experts, -1)), ops.convert_to_tensor(index)),
            tuple(ops.reshape(table, (-1, outputs)) for table in tables),
            _of_tables,
            (experts, features, outputs),
            self.compute_dtype,
        )


def _rows_of_scales(experts, features, block):
    """int32 (E,D): where the scales of row d of an expert are.

    Keras flattens kernels (E,D,F) to (D,E·F) as they lie in memory. Row d of
    expert e is there the part m = (e·D + d) mod E of row (e·D + d) // E. Scales
    (groups,E·F), of `block` rows each, are read as (groups·E,F).
    """
    number = np.arange(experts * features, dtype="int32")
    group = 0 if block is None else number // experts // block
    return (group * experts + number % experts).reshape(experts, features)


def _of_tables(arrays, shared, shape, dtype):
    """(values - zero) · scale of packed values, by rows of tables."""
    packed, index = arrays
    values = made.unpacked(packed, dtype)
    values = ops.reshape(values, (*ops.shape(packed)[:-1], *shape))
    scales, *zeros = shared
    if zeros:
        values = values - ops.cast(ops.take(zeros[0], index, axis=0), dtype)
    return values * ops.cast(ops.take(scales, index, axis=0), dtype)
