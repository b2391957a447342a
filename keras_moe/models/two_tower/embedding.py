"""Methods of a trained model of two towers: embed, search, classify."""

import numpy as np
from keras import ops

from keras_moe import checks
from keras_moe.models import task_inputs
from keras_moe.models.two_tower import encoding
from keras_moe.models.two_tower import pairs
from keras_moe.models.two_tower import zero_shot
from keras_moe.models.vision.preprocessing import (
    MoEViTImageClassifierPreprocessor,
)


class Embeds:
    """A task with `backbone`, of two towers, and `preprocessor`."""

    def encode_image(self, images, batch_size: int = 32):
        """Embeddings of images, by the image tower alone.

        Args:
            images: (images, height, width, channels), at least one.
            batch_size: images of each call of the tower.

        Returns:
            float32 array (images, projection_dim), each row of length 1.
        """
        checks.integer("batch_size", batch_size)
        images = np.asarray(images) if isinstance(images, list) else images
        shape = getattr(images, "shape", ())
        if len(shape) in (1, 4) and not shape[0]:
            raise ValueError(
                "images must be a batch of at least one image, (images, "
                f"height, width, channels); received shape {tuple(shape)}."
            )
        task_inputs.check_pixels("images", images)
        if len(shape) != 4:
            raise ValueError(
                "images must be a batch of images, (images, height, width, "
                f"channels); received shape {tuple(shape)}."
            )

        def prepare(batch):
            if self.preprocessor is None:
                return batch
            return self.preprocessor({"images": batch})["images"]

        encoder = self.backbone.image_encoder
        return encoding.encode(encoder, images, batch_size, prepare)

    def encode_text(self, captions, batch_size: int = 32):
        """Embeddings of captions, by the text tower alone.

        Args:
            captions: a string, a list, an array or a tensor of strings or,
                without a preprocessor, a dictionary of token_ids and
                padding_mask.
            batch_size: captions of each call of the tower.

        Returns:
            float32 array (captions, projection_dim), each row of length 1.
        """
        checks.integer("batch_size", batch_size)
        if self.preprocessor is None:
            texts = {"token_ids", "padding_mask"}
            if not isinstance(captions, dict) or set(captions) != texts:
                raise ValueError(
                    "captions must be a dictionary of token_ids and "
                    "padding_mask where the model has no preprocessor; "
                    f"{task_inputs.received(captions)}."
                )
            captions = {k: encoding.in_numpy(v) for k, v in captions.items()}
            shape = captions["token_ids"].shape
            other = captions["padding_mask"].shape
            if shape != other or len(shape) != 2 or not shape[0]:
                raise ValueError(
                    "captions must have token_ids and padding_mask of one "
                    "shape (captions, tokens), with at least one caption; "
                    f"received {shape} and {other}."
                )
            return encoding.encode(
                self.backbone.text_encoder, captions, batch_size, lambda x: x
            )
        return encoding.encode(
            self.backbone.text_encoder,
            np.asarray(pairs.texts_of("captions", captions)),
            batch_size,
            lambda batch: self.preprocessor({"captions": batch.tolist()}),
        )

    def search(self, images, query, k: int = 5):
        """The images that fit a text best, the best first.

        Args:
            images: a batch of images, or their embeddings (images,
                projection_dim), which `encode_image` gave.
            query: a text, or a list or an array of texts.
            k: how many images are wanted of each text.

        Returns:
            `(indices, scores)`, arrays (k,) of a text, (texts, k) of a list.
            A score is the product of both embeddings, from -1 to 1.
        """
        is_embedding = len(getattr(images, "shape", ())) == 2
        if is_embedding:
            embeddings = checks.numbers_of("images", images)
            width = self.backbone.projection_dim
            if embeddings.shape[1] != width:
                raise ValueError(
                    f"images must be embeddings of width {width}, as "
                    "encode_image gives them, or images; received shape "
                    f"{embeddings.shape}."
                )
        count = len(images)
        if checks.integer("k", k) > count:
            raise ValueError(
                f"k must be at most the number of images, {count}; received "
                f"{k}."
            )
        texts = self.encode_text(query)
        if not is_embedding:
            embeddings = self.encode_image(images)
        scores = texts @ embeddings.astype("float32").T  # (texts,images)
        if isinstance(query, str) or getattr(query, "shape", None) == ():
            scores = scores[0]
        return encoding.largest(scores, k)

    def zero_shot_classifier(self, classes, templates="{}", activation=None):
        """An image classifier of these classes, which needs no training.

        The embedding of a class is the mean over its texts, of length 1.

        Args:
            classes: list of names.
            templates: a text or a list of texts, such as `"a photo of a
                {}"`, in which a class takes the place of `{}`.
            activation: activation of the outputs; `None` gives logits.

        Returns:
            A `ZeroShotClassifier`, which has this model's image tower.
        """
        texts = zero_shot.prompts(classes, templates)
        embeddings = self.encode_text(texts)
        embeddings = embeddings.reshape(len(classes), -1, embeddings.shape[1])
        embeddings = embeddings.mean(axis=1)
        embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
        preprocessor = None
        if self.preprocessor is not None:
            preprocessor = MoEViTImageClassifierPreprocessor(
                self.preprocessor.image_converter
            )
        classifier = zero_shot.ZeroShotClassifier(
            self.backbone.image_encoder,
            class_names=classes,
            preprocessor=preprocessor,
            activation=activation,
        )
        scale, bias = (
            ops.convert_to_numpy(value)
            for value in (
                self.backbone.similarity.logit_scale,
                self.backbone.similarity.logit_bias,
            )
        )
        classifier.output_dense.kernel.assign(scale * embeddings.T)
        classifier.output_dense.bias.assign(np.full(len(classes), bias))
        return classifier
