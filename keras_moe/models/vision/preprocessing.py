"""Images made ready for `MoEViTImageClassifier`."""

import keras
import keras_hub

from keras_moe.models import task_inputs
from keras_moe.models.presets import loading
from keras_moe.models.vision.backbone import MoEViTBackbone


@keras.saving.register_keras_serializable(package="keras_moe")
class MoEViTImageConverter(
    loading.PartPresets, keras_hub.layers.ImageConverter
):
    """Resizes images and scales their pixels, KerasHub's `ImageConverter`.

    The presets map pixels 0…255 to [-1, 1]: `scale=1/127.5, offset=-1`.
    """

    backbone_cls = MoEViTBackbone

    def get_config(self):
        # KerasHub leaves it out, and would read the setting of another day.
        return {**super().get_config(), "data_format": self.data_format}


@keras.saving.register_keras_serializable(package="keras_moe")
class MoEViTImageClassifierPreprocessor(
    loading.PartPresets, keras_hub.models.ImageClassifierPreprocessor
):
    """Makes images ready for `MoEViTImageClassifier`; labels pass through.

    Args:
        image_converter: a `MoEViTImageConverter`.
    """

    backbone_cls = MoEViTBackbone
    image_converter_cls = MoEViTImageConverter

    def call(self, x, y=None, sample_weight=None):
        """`x` made ready, with `y` and `sample_weight` where they are given.

        Args:
            x: an image (H,W,C) or a batch (B,H,W,C) of pixels 0…255.
            y: labels, which pass.
            sample_weight: their weights, which pass.
        """
        task_inputs.check_pixels("x", x)
        return super().call(x, y, sample_weight)


def image_converter(image_shape, data_format="channels_last", **kwargs):
    """A `MoEViTImageConverter` from pixels 0…255 to the model's [-1, 1]."""
    scale, offset = 1 / 127.5, -1.0
    if data_format == "channels_first":  # KerasHub wants one for each channel
        scale, offset = [scale] * image_shape[0], [offset] * image_shape[0]
    return MoEViTImageConverter(
        image_size=sides(image_shape, data_format),
        scale=scale,
        offset=offset,
        data_format=data_format,
        **kwargs,
    )


def sides(image_shape, data_format):
    """(height, width) of an image's shape."""
    if data_format == "channels_last":
        return tuple(image_shape[:2])
    return tuple(image_shape[1:])
