"""Texts made ready for `MoTMaskedLM`: some of their tokens hidden."""

import keras
import keras_hub

from keras_moe import checks
from keras_moe.models import task_inputs
from keras_moe.models.language import building
from keras_moe.models.language import task
from keras_moe.models.language.backbone import MoTBackbone
from keras_moe.models.language.tokenizer import MoTTokenizer
from keras_moe.models.language.tokenizer import beginning
from keras_moe.models.presets import loading


@keras.saving.register_keras_serializable(package="keras_moe")
class MoTMaskedLMPreprocessor(
    loading.PartPresets, keras_hub.models.MaskedLMPreprocessor
):
    """Turns each text into ids, hides some, and keeps what they were.

    A text is tokenized, put between `<|endoftext|>` and `<|endoftext|>`, cut
    to `sequence_length` tokens or padded on the right. Of its tokens, drawn
    anew at every call, `mask_selection_rate` are to be told; most of them are
    replaced by the mask token. Special tokens and padding are never drawn.

    Args:
        tokenizer: a `MoTTokenizer` with a `mask_token`.
        sequence_length: tokens of each text in the output. A task refuses
            more than its backbone's positions; `from_preset` takes those where
            the preset has no preprocessor.
        mask_selection_rate: share of the tokens that are to be told.
        mask_selection_length: at most so many of them in a text.
        mask_token_rate: share of those that the mask token replaces.
        random_token_rate: share of those that any token replaces; the rest
            stays as it is.
        **kwargs: further arguments of `keras_hub.models.MaskedLMPreprocessor`.

    Inputs: a string or a list of strings. Output: `(x, y, sample_weight)`: `x`
    a dictionary of `token_ids` (texts, sequence_length), int32, `padding_mask`,
    Boolean of the same shape, and `mask_positions` (texts,
    mask_selection_length), int32; `y` the ids that were at these places;
    `sample_weight` 0 at places that only fill up.

    Raises:
        ValueError: for an argument that does not fit, or a tokenizer without
            a mask token.

    Example:

    >>> import keras
    >>> from keras_moe.models import MoTMaskedLMPreprocessor, MoTTokenizer
    >>> preprocessor = MoTMaskedLMPreprocessor(
    ...     MoTTokenizer.byte_level("[MASK]"), sequence_length=6,
    ...     mask_selection_rate=1.0, mask_selection_length=4,
    ...     mask_token_rate=1.0, random_token_rate=0.0)
    >>> x, y, weight = preprocessor(["abc"])
    >>> for array in (x["token_ids"], x["mask_positions"], y):
    ...     print(keras.ops.convert_to_numpy(array))
    [[256 257 257 257 256 256]]
    [[1 2 3 0]]
    [[97 98 99  0]]
    """

    backbone_cls = MoTBackbone
    tokenizer_cls = MoTTokenizer

    def __init__(
        self,
        tokenizer,
        sequence_length: int = 512,
        mask_selection_rate: float = 0.15,
        mask_selection_length: int = 96,
        mask_token_rate: float = 0.8,
        random_token_rate: float = 0.1,
        **kwargs,
    ):
        arguments = task.check_preprocessing(
            tokenizer,
            MoTTokenizer,
            sequence_length,
            rates={
                "mask_selection_rate": mask_selection_rate,
                "mask_token_rate": mask_token_rate,
                "random_token_rate": random_token_rate,
            },
        )
        arguments["mask_selection_length"] = checks.integer(
            "mask_selection_length", mask_selection_length
        )
        if mask_token_rate + random_token_rate > 1:
            raise ValueError(
                "mask_token_rate and random_token_rate must not exceed 1 "
                f"together; received {mask_token_rate} and "
                f"{random_token_rate}."
            )
        if tokenizer.mask_token is None:
            raise ValueError(
                "tokenizer must have a mask token, such as "
                "MoTTokenizer(…, mask_token='[MASK]'); received one without."
            )
        super().__init__(
            tokenizer,
            **arguments,
            **kwargs,
        )

    @building.once
    def build(self, input_shape):
        super().build(input_shape)
        # KerasHub's packer says what is padding by its id, which here is the
        # id of the start and the end too.
        self.packer = keras_hub.layers.StartEndPacker(
            sequence_length=self.sequence_length,
            start_value=self.tokenizer.start_token_id,
            end_value=self.tokenizer.end_token_id,
            pad_value=self.tokenizer.pad_token_id,
            return_padding_mask=True,
        )

    def call(self, x, y=None, sample_weight=None):
        """`(x, y, sample_weight)` of texts; labels given are replaced."""
        task_inputs.check_texts("x", x, one=True)
        x = beginning(self.tokenizer, x, self.sequence_length)
        token_ids, padding_mask = self.packer(self.tokenizer(x))
        masked = self.masker(token_ids)
        inputs = {
            "token_ids": masked["token_ids"],
            "padding_mask": padding_mask,
            "mask_positions": masked["mask_positions"],
        }
        return keras.utils.pack_x_y_sample_weight(
            inputs, masked["mask_ids"], masked["mask_weights"]
        )

    @classmethod
    def _add_missing_kwargs(cls, loader, kwargs):
        # KerasHub's hook for presets without a file of the preprocessor.
        return super()._add_missing_kwargs(
            loader, {**task.whole_length(loader), **kwargs}
        )
