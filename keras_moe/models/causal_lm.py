"""Text generation with `MoTBackbone`."""

import keras
import keras_hub
from keras import ops

from keras_moe.models import presets
from keras_moe.models.language_model import MoTBackbone


@keras.saving.register_keras_serializable(package="keras_moe")
class MoTCausalLM(presets.TaskPresets, keras_hub.models.CausalLM):
    """Tells the next token of a text, and so continues it.

    **A text's continuation depends on its batch-mates** where the backbone
    mixes over the batch at inference; see `inference_mixing`.

    Args:
        backbone: a `MoTBackbone`.
        preprocessor: a `keras_hub.models.CausalLMPreprocessor`, or `None`
            for token ids.

    Example:

    >>> import numpy as np
    >>> from keras_moe.models import MoTBackbone, MoTCausalLM
    >>> backbone = MoTBackbone(
    ...     vocabulary_size=50, num_layers=2, num_heads=2, hidden_dim=16,
    ...     mlp_dim=32, max_sequence_length=12,
    ...     router_options={"num_experts": 4, "group_size": 2})
    >>> model = MoTCausalLM(backbone)
    >>> prompt = np.array([[3, 4, 5, 0, 0, 0], [7, 8, 9, 0, 0, 0]])
    >>> texts = model.generate(
    ...     {"token_ids": prompt, "padding_mask": prompt > 0},
    ...     stop_token_ids=None)
    >>> tuple(texts["token_ids"].shape)
    (2, 6)
    """

    backbone_cls = MoTBackbone

    def __init__(self, backbone, preprocessor=None, **kwargs):
        self.backbone = backbone
        self.preprocessor = preprocessor
        hidden = backbone(backbone.input)
        super().__init__(
            inputs=backbone.input,
            outputs=backbone.token_embedding(hidden, reverse=True),
            **kwargs,
        )

    def call_with_cache(self, token_ids, cache, cache_update_index):
        """Logits and features of ids at one place, and the cache with them.

        Args:
            token_ids: (B,Q) integers.
            cache: (B,L,2,T,N,H), keys and values.
            cache_update_index: the place of the first id.
        """
        hidden, cache = self.backbone.call_with_cache(
            token_ids, cache, cache_update_index
        )
        logits = self.backbone.token_embedding(hidden, reverse=True)
        return logits, hidden, cache

    def generate_step(self, inputs, stop_token_ids=None):
        """Continue a batch of prompts; compiled by `generate`."""
        token_ids, padding_mask = inputs["token_ids"], inputs["padding_mask"]
        batch, length = ops.shape(token_ids)[0], ops.shape(token_ids)[1]
        cache = self.backbone.empty_cache(batch, length)
        _, hidden, cache = self.call_with_cache(token_ids, cache, 0)
        lengths = ops.sum(ops.cast(padding_mask, "int32"), axis=-1)

        def next(prompt, cache, index):
            last = ops.slice(prompt, [0, index - 1], [batch, 1])
            logits, hidden, cache = self.call_with_cache(last, cache, index - 1)
            return logits[:, 0], hidden[:, 0], cache

        token_ids = self.sampler(
            next=next,
            prompt=token_ids,
            cache=cache,
            index=ops.min(lengths),
            mask=padding_mask,
            stop_token_ids=stop_token_ids,
            hidden_states=hidden,
            model=self,
        )
        whole = ops.ones_like(token_ids, dtype="bool")
        if stop_token_ids is not None:
            whole = _up_to_the_first(token_ids, stop_token_ids, padding_mask)
        return {"token_ids": token_ids, "padding_mask": whole}


def _up_to_the_first(token_ids, stop_token_ids, prompt):
    """Which tokens are there up to the first stop token after the prompt."""
    stops = ops.zeros_like(token_ids, dtype="bool")
    for stop in stop_token_ids:
        stops = ops.logical_or(stops, token_ids == stop)
    stops = ops.logical_and(stops, ops.logical_not(ops.cast(prompt, "bool")))
    stops = ops.cast(stops, "int32")
    return (ops.cumsum(stops, axis=-1) - stops) == 0
