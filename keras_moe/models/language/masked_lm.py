"""Masked language modelling with `MoTBackbone`."""

import keras
import keras_hub

from keras_moe import checks
from keras_moe import policies
from keras_moe.models.language import task as language_task
from keras_moe.models.language.backbone import MoTBackbone
from keras_moe.models.language.heads import MaskedLMHead
from keras_moe.models.language.masked_lm_preprocessor import (
    MoTMaskedLMPreprocessor,
)
from keras_moe.models.presets import loading


@keras.saving.register_keras_serializable(package="keras_moe")
class MoTMaskedLM(language_task.LanguageTask, keras_hub.models.MaskedLM):
    """Tells which tokens were hidden, from all others of the same text.

    tokens at `mask_positions` → dense layer → norm → scores of the vocabulary
    by the transposed embedding → plus a bias.

    **A text's output depends on its batch-mates** where the backbone mixes
    over the batch at inference; see `inference_mixing`, which can be set.

    Args:
        backbone: a `MoTBackbone` with `causal=False`.
        preprocessor: a `MoTMaskedLMPreprocessor`, or `None` for inputs that
            are ready.
        head_dtype: dtype or policy of the head; the backbone's by default.
        **kwargs: `name` and `compile` of `keras_hub.models.Task`.

    Inputs: texts or, without a preprocessor, a dictionary of `token_ids` and
    `padding_mask` (batch, tokens) and `mask_positions` (batch, places), all
    integers. Output: (batch, places, vocabulary_size), logits in the compute
    dtype.

    Raises:
        ValueError: for a causal backbone, or a preprocessor of longer
            sequences or a larger vocabulary.

    Example:

    >>> from keras_moe import models
    >>> backbone = models.MoTBackbone(
    ...     vocabulary_size=258, num_layers=1, num_heads=2, hidden_dim=16,
    ...     mlp_dim=32, max_sequence_length=12, causal=False,
    ...     router_options={"num_experts": 4, "group_size": 2})
    >>> preprocessor = models.MoTMaskedLMPreprocessor(
    ...     models.MoTTokenizer.byte_level("[MASK]"), sequence_length=12,
    ...     mask_selection_length=3)
    >>> model = models.MoTMaskedLM(backbone, preprocessor)
    >>> model.predict(["two texts", "of any length"], verbose=0).shape
    (2, 3, 258)
    """

    backbone_cls = MoTBackbone
    preprocessor_cls = MoTMaskedLMPreprocessor
    _new_head = ""  # no argument asks for one

    def __init__(self, backbone, preprocessor=None, head_dtype=None, **kwargs):
        loading.check_task_arguments(self, kwargs)
        language_task.check_backbone(backbone, MoTBackbone)
        if backbone.causal:
            raise ValueError(
                "backbone must have causal=False, to read what stands before "
                "and behind a hidden token; received one with causal=True."
            )
        language_task.check_preprocessor(preprocessor, backbone)

        own_dtype = checks.resolve(
            "head_dtype",
            keras.dtype_policies.get,
            backbone.dtype_policy if head_dtype is None else head_dtype,
            "a Keras dtype or policy",
        )

        # === Layers ===
        self.backbone = backbone
        self.preprocessor = preprocessor
        self.masked_lm_head = MaskedLMHead(
            vocabulary_size=backbone.vocabulary_size,
            token_embedding=backbone.token_embedding,
            intermediate_activation=backbone.activation,
            layer_norm_epsilon=backbone.layer_norm_epsilon,
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.02),
            dtype=own_dtype,
            name="masked_lm_head",
        )

        # === The path from ids to logits ===
        places = keras.Input((None,), dtype="int32", name="mask_positions")
        super().__init__(
            inputs={**backbone.input, "mask_positions": places},
            outputs=self.masked_lm_head(backbone(backbone.input), places),
            **kwargs,
        )

        # === Config ===
        self.head_dtype = head_dtype

    def get_config(self):
        # KerasHub's Task adds backbone, preprocessor and name.
        return {
            **super().get_config(),
            "head_dtype": policies.of_head(
                self, self.head_dtype, self.masked_lm_head.dtype_policy
            ),
        }

    @classmethod
    def _has_head(cls, task):
        return task["class_name"] == cls.__name__
