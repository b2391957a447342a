"""Images and captions made ready for `MoETwoTower`."""

import keras
import keras_hub
import numpy as np

from keras_moe import checks
from keras_moe.models import task_inputs
from keras_moe.models.language import building
from keras_moe.models.presets import loading
from keras_moe.models.two_tower import pairs
from keras_moe.models.two_tower.backbone import MoETwoTowerBackbone
from keras_moe.models.two_tower.tokenizer import CaptionTokenizer
from keras_moe.models.vision.preprocessing import MoEViTImageConverter


@keras.saving.register_keras_serializable(package="keras_moe")
class MoETwoTowerPreprocessor(
    loading.PartPresets, keras_hub.models.Preprocessor
):
    """Makes pairs of images and captions ready, or either of them alone.

    A caption is tokenized, ended by the tokenizer's end token, cut to
    `sequence_length` tokens or padded on the right.

    Args:
        image_converter: a `keras_hub.layers.ImageConverter`, or `None` for
            images that are ready.
        tokenizer: a `CaptionTokenizer`, or another tokenizer of KerasHub.
        sequence_length: tokens of each caption in the output. A task refuses
            more than its text tower's positions.
        add_start_token: whether a caption begins with the tokenizer's start
            token.
        add_end_token: whether a caption ends with its end token, also one
            that is cut.

    Inputs: `(images, captions)` or a dictionary of `images` and `captions`;
        images (batch, height, width, channels) or captions (a list of
        strings) alone. Output: a dictionary of `images`, float, and of
        `token_ids` (captions, sequence_length), int32, and `padding_mask`,
        Boolean of the same shape; those of what was given.

    Raises:
        ValueError: for an argument that does not fit, for an empty caption,
            and where images and captions are not as many.

    Example:

    >>> import keras
    >>> from keras_moe import models
    >>> preprocessor = models.MoETwoTowerPreprocessor(
    ...     models.image_converter((8, 8, 3)),
    ...     models.CaptionTokenizer.from_captions(["a red cat"]),
    ...     sequence_length=5)
    >>> x = preprocessor(["A cat", "red"])
    >>> print(keras.ops.convert_to_numpy(x["token_ids"]))
    [[3 4 2 0 0]
     [5 2 0 0 0]]
    """

    backbone_cls = MoETwoTowerBackbone
    tokenizer_cls = CaptionTokenizer
    image_converter_cls = MoEViTImageConverter

    def __init__(
        self,
        image_converter,
        tokenizer,
        sequence_length: int = 16,
        add_start_token: bool = False,
        add_end_token: bool = True,
        **kwargs,
    ):
        if image_converter is not None and not isinstance(
            image_converter, keras_hub.layers.ImageConverter
        ):
            raise ValueError(
                "image_converter must be a keras_hub.layers.ImageConverter "
                f"or None; {checks.received(image_converter)}."
            )
        if not isinstance(tokenizer, keras_hub.tokenizers.Tokenizer):
            raise ValueError(
                "tokenizer must be a keras_hub.tokenizers.Tokenizer; "
                f"{checks.received(tokenizer)}."
            )
        sequence_length = checks.integer("sequence_length", sequence_length)
        flags = {
            "add_start_token": add_start_token,
            "add_end_token": add_end_token,
        }
        flags = {name: checks.flag(name, flags[name]) for name in flags}
        for name, wanted in flags.items():
            token = name.removeprefix("add_")
            if wanted and getattr(tokenizer, token, None) is None:
                raise ValueError(
                    f"{name} must be False where the tokenizer has no "
                    f"{token}; received True for a "
                    f"{type(tokenizer).__name__}."
                )
        super().__init__(**kwargs)
        self.image_converter = image_converter
        self.tokenizer = tokenizer
        self.sequence_length = sequence_length
        self.add_start_token = flags["add_start_token"]
        self.add_end_token = flags["add_end_token"]

    @building.once
    def build(self, input_shape):
        # The ids are known once a preset's vocabulary is read.
        ids = {
            name: getattr(self.tokenizer, f"{name}_token_id", None)
            for name in ("start", "end", "pad")
        }
        self.packer = keras_hub.layers.StartEndPacker(
            sequence_length=self.sequence_length,
            start_value=ids["start"] if self.add_start_token else None,
            end_value=ids["end"] if self.add_end_token else None,
            pad_value=ids["pad"],
            return_padding_mask=True,
        )

    def call(self, x, y=None, sample_weight=None):
        """A dictionary of arrays for the backbone.

        Args:
            x: `(images, captions)`, a dictionary, images or captions.
            y: captions of images `x`.
            sample_weight: `None`; pairs have no weights.
        """
        pairs.no_weights(sample_weight)
        images, captions = pairs.split(x, y)
        ready = {}
        if images is not None:
            task_inputs.check_pixels("images", images)
            if isinstance(images, list):
                images = np.asarray(images)
            if self.image_converter is not None:
                images = self.image_converter(images)
            ready["images"] = images
        if captions is not None:
            pairs.check_captions("captions", captions)
            if images is not None:
                pairs.check_numbers(images, captions)
            if isinstance(captions, np.ndarray):
                captions = captions.tolist()
            ready["token_ids"], ready["padding_mask"] = self.packer(
                self.tokenizer(captions)
            )
        return ready

    def get_config(self):
        config = super().get_config()
        # KerasHub leaves out what is `None`.
        config.setdefault("image_converter", None)
        config.update(
            sequence_length=self.sequence_length,
            add_start_token=self.add_start_token,
            add_end_token=self.add_end_token,
        )
        return config


def check_fits(preprocessor, backbone) -> None:
    """Raise an error if captions could become what no text tower reads.

    Args:
        preprocessor: of a task, or `None`.
        backbone: a `MoETwoTowerBackbone`.
    """
    if preprocessor is None:
        return
    if not isinstance(preprocessor, MoETwoTowerPreprocessor):
        raise ValueError(
            "preprocessor must be a MoETwoTowerPreprocessor or None; "
            f"{checks.received(preprocessor)}."
        )
    tower = backbone.text_tower.get_config()
    limit = tower.get("max_sequence_length")
    if limit is not None and preprocessor.sequence_length > limit:
        raise ValueError(
            "sequence_length of the preprocessor must be at most "
            f"max_sequence_length of the text tower, {limit}; received "
            f"{preprocessor.sequence_length}."
        )
    tokenizer, size = preprocessor.tokenizer, tower.get("vocabulary_size")
    with_list = isinstance(
        tokenizer,
        (
            keras_hub.tokenizers.BytePairTokenizer,
            keras_hub.tokenizers.WordPieceTokenizer,
        ),
    )
    if with_list and tokenizer.vocabulary and size is not None:
        count = tokenizer.vocabulary_size()
        if count > size:
            raise ValueError(
                "tokenizer must have at most vocabulary_size of the text "
                f"tower, {size}, tokens; received one with {count}."
            )
