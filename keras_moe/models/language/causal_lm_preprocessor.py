"""Texts made ready for `MoTCausalLM`, and its ids made texts."""

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
class MoTCausalLMPreprocessor(
    loading.PartPresets, keras_hub.models.CausalLMPreprocessor
):
    """Turns each text into ids, and into labels: at each place the next id.

    A text is tokenized, put between `<|endoftext|>` and `<|endoftext|>`, cut
    to `sequence_length` tokens or padded on the right. It is the same whatever
    texts stand beside it.

    Args:
        tokenizer: a `MoTTokenizer`, or another tokenizer of KerasHub.
        sequence_length: tokens of each text in the output. A task refuses
            more than its backbone's positions; `from_preset` takes those where
            the preset has no preprocessor.
        add_start_token: whether a text starts with `<|endoftext|>`. Without
            it, an empty prompt has no token that could be continued.
        add_end_token: whether a text that is not cut ends with it, in
            training. Prompts never do.
        **kwargs: further arguments of `keras_hub.models.CausalLMPreprocessor`.

    Inputs: a string or a list of strings. Output: `(x, y, sample_weight)`: `x`
    a dictionary of `token_ids` (texts, sequence_length), int32, and
    `padding_mask`, Boolean of the same shape; `y` the ids one place further;
    `sample_weight` `False` where `y` is padding. `generate_preprocess` gives
    `x` alone, `generate_postprocess` makes texts of such an `x`.

    Raises:
        ValueError: for an argument that does not fit.

    Example:

    >>> import keras
    >>> from keras_moe.models import MoTCausalLMPreprocessor, MoTTokenizer
    >>> preprocessor = MoTCausalLMPreprocessor(
    ...     MoTTokenizer.byte_level(), sequence_length=6)
    >>> x, y, weight = preprocessor(["abc"])
    >>> for array in (x["token_ids"], y, weight):
    ...     print(keras.ops.convert_to_numpy(array))
    [[256  97  98  99 256 256]]
    [[ 97  98  99 256 256 256]]
    [[ True  True  True  True False False]]
    """

    backbone_cls = MoTBackbone
    tokenizer_cls = MoTTokenizer

    def __init__(
        self,
        tokenizer,
        sequence_length: int = 1024,
        add_start_token: bool = True,
        add_end_token: bool = True,
        **kwargs,
    ):
        arguments = task.check_preprocessing(
            tokenizer,
            keras_hub.tokenizers.Tokenizer,
            sequence_length,
            flags={
                "add_start_token": add_start_token,
                "add_end_token": add_end_token,
            },
        )
        super().__init__(
            tokenizer,
            **arguments,
            **kwargs,
        )

    def call(self, x, y=None, sample_weight=None, sequence_length=None):
        """`(x, y, sample_weight)` of texts; labels given are replaced."""
        task_inputs.check_texts("x", x, one=True)
        checks.optional_integer("sequence_length", sequence_length)
        x = beginning(
            self.tokenizer, x, sequence_length or self.sequence_length
        )
        return super().call(x, y, sample_weight, sequence_length)

    @building.once
    def build(self, input_shape):
        super().build(input_shape)

    def generate_preprocess(self, x, sequence_length: int | None = None):
        """`token_ids` and `padding_mask` of prompts, without an end.

        Args:
            x: a string or a list of strings.
            sequence_length: instead of the preprocessor's.
        """
        task_inputs.check_texts("x", x, one=True)
        checks.optional_integer("sequence_length", sequence_length)
        if not self.built:
            self.build(None)
        x = beginning(
            self.tokenizer, x, sequence_length or self.sequence_length
        )
        # KerasHub would add the start token even if it is not wanted.
        token_ids, padding_mask = self.packer(
            self.tokenizer(x),
            sequence_length=sequence_length,
            add_start_value=self.add_start_token,
            add_end_value=False,
        )
        return {"token_ids": token_ids, "padding_mask": padding_mask}

    def generate_postprocess(self, x):
        """Texts of `token_ids` and `padding_mask`, without special tokens."""
        names = {"token_ids", "padding_mask"}
        if not isinstance(x, dict) or not names <= set(x):
            raise ValueError(
                "x must be a dictionary of token_ids and padding_mask; "
                f"{task_inputs.received(x)}."
            )
        return super().generate_postprocess(x)

    @classmethod
    def _add_missing_kwargs(cls, loader, kwargs):
        # KerasHub's hook for presets without a file of the preprocessor.
        return super()._add_missing_kwargs(
            loader, {**task.whole_length(loader), **kwargs}
        )
