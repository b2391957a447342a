"""Images and captions: training on pairs, search, classes by name."""

import pathlib

import keras
import keras_hub
import numpy as np
from keras import ops

from keras_moe import checks
from keras_moe.models import task_inputs
from keras_moe.models.presets import configurations
from keras_moe.models.presets import loading
from keras_moe.models.two_tower import encoding
from keras_moe.models.two_tower import pairs
from keras_moe.models.two_tower import zero_shot
from keras_moe.models.two_tower.backbone import MoETwoTowerBackbone
from keras_moe.models.two_tower.losses import KINDS
from keras_moe.models.two_tower.losses import SAME_CAPTIONS
from keras_moe.models.two_tower.losses import contrastive_loss
from keras_moe.models.two_tower.preprocessing import MoETwoTowerPreprocessor
from keras_moe.models.vision.preprocessing import (
    MoEViTImageClassifierPreprocessor,
)


@keras.saving.register_keras_serializable(package="keras_moe")
class MoETwoTower(loading.TaskPresets, keras_hub.models.Task):
    """Learns which captions belong to which images; searches and classifies.

    The loss compares each image of a batch with each caption of it.

    Args:
        backbone: a `MoETwoTowerBackbone`.
        preprocessor: a `MoETwoTowerPreprocessor`, or `None` for inputs that
            are ready: a dictionary of images, token_ids and padding_mask.
        loss: `"sigmoid"` (each pair is a yes or no; arXiv 2303.15343) or
            `"softmax"` (each image chooses its caption among all, and each
            caption its image; arXiv 2103.00020).
        same_caption: what the images of equal captions are to each other:
            `"positive"` pairs, `"ignore"` (not compared) or `"negative"`.
            Captions are equal whose ids are, up to `sequence_length`.
        loss_chunk_size: how many images are compared with the captions at a
            time, so that no (batch, batch) array is held; by default all.

    `fit` and `evaluate` take `(images, captions)`, `x=images, y=captions`, a
    dictionary of `images` and `captions`, or a data set of batches of these.
    `predict` takes the same, and gives `image_embeddings` and
    `text_embeddings`. Each batch has its own loss: it depends on `batch_size`.

    `from_preset` takes a name of `keras_moe.models.list_presets()`, a folder,
    or a repository of the Hub; with `dtype=`, both towers get that dtype.

    Raises:
        ValueError: for an argument that does not fit.

    Example:

    >>> import numpy as np
    >>> from keras_moe import models
    >>> tokenizer = models.CaptionTokenizer.from_captions(["a cat", "a dog"])
    >>> model = models.MoETwoTower(
    ...     models.MoETwoTowerBackbone(
    ...         models.MoEViTBackbone(
    ...             image_shape=(8, 8, 3), patch_size=4, num_layers=2,
    ...             num_heads=2, hidden_dim=16, mlp_dim=32, router="soft",
    ...             router_options={"num_experts": 4, "slots_per_expert": 1}),
    ...         models.TextTransformerBackbone(
    ...             tokenizer.vocabulary_size(), num_layers=1, num_heads=2,
    ...             hidden_dim=8, mlp_dim=16, max_sequence_length=4)),
    ...     models.MoETwoTowerPreprocessor(
    ...         models.image_converter((8, 8, 3)), tokenizer, 4))
    >>> images = np.zeros((2, 8, 8, 3))
    >>> history = model.fit(images, ["a cat", "a dog"], verbose=0)
    >>> model.encode_text(["a dog", "a cat"]).shape
    (2, 16)
    >>> indices, scores = model.search(images, "a cat", k=1)
    >>> classifier = model.zero_shot_classifier(["cat", "dog"], "a {}")
    >>> classifier.predict(images, verbose=0).shape
    (2, 2)
    """

    backbone_cls = MoETwoTowerBackbone
    preprocessor_cls = MoETwoTowerPreprocessor
    _configurations = (
        *loading.TaskPresets._configurations,
        *configurations.OF_PARTS,
    )

    def __init__(
        self,
        backbone,
        preprocessor=None,
        loss: str = "sigmoid",
        same_caption: str = "positive",
        loss_chunk_size: int | None = None,
        compile: bool = True,
        **kwargs,
    ):
        loading.check_task_arguments(self, kwargs)
        if not isinstance(backbone, MoETwoTowerBackbone):
            raise ValueError(
                "backbone must be a MoETwoTowerBackbone; "
                f"{checks.received(backbone)}."
            )
        _check_preprocessor(preprocessor, backbone)
        checks.choice("loss", loss, KINDS)
        checks.choice("same_caption", same_caption, SAME_CAPTIONS)
        loss_chunk_size = checks.optional_integer(
            "loss_chunk_size", loss_chunk_size
        )
        self.backbone = backbone
        self.preprocessor = preprocessor
        super().__init__(
            inputs=backbone.input,
            outputs=backbone(backbone.input),
            compile=False,
            **kwargs,
        )

        # === Config ===
        self.loss = loss
        self.same_caption = same_caption
        self.loss_chunk_size = loss_chunk_size
        if compile:
            self.compile()

    # === Training ===

    def compile(self, optimizer="auto", *, metrics=None, **kwargs):
        """Set the optimiser; the loss is that of the class.

        Args:
            optimizer: `"auto"` for AdamW with a rate of 1e-3 and a weight
                decay of 1e-4, or an optimiser of Keras.
            metrics: as in Keras.
            **kwargs: further arguments of `keras.Model.compile`.
        """
        if kwargs.pop("loss", None) is not None:
            raise ValueError(
                "loss must be given to MoETwoTower, 'sigmoid' or 'softmax', "
                "and not to compile."
            )
        if isinstance(optimizer, str) and optimizer == "auto":
            optimizer = keras.optimizers.AdamW(1e-3, weight_decay=1e-4)
        kind = self.loss
        super().compile(optimizer=optimizer, metrics=metrics, **kwargs)
        self.loss = kind  # which Keras has set to its own

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        """The contrastive loss of a batch, plus losses of routers."""
        captions = None
        if self.same_caption != "negative":
            # What stands at padding is of no meaning.
            ids = ops.cast(x["token_ids"], "int32")
            tokens = ops.cast(x["padding_mask"], "bool")
            captions = ops.where(tokens, ids, -ops.ones_like(ids))
        similarity = self.backbone.similarity
        total = contrastive_loss(
            y_pred["image_embeddings"],
            y_pred["text_embeddings"],
            similarity.logit_scale,
            similarity.logit_bias,
            kind=self.loss,
            captions=captions,
            same_caption=self.same_caption,
            chunk_size=self.loss_chunk_size,
        )
        for one in self.losses:
            total = total + ops.cast(ops.sum(one), "float32")
        return total

    def preprocess_samples(self, x, y=None, sample_weight=None):
        if sample_weight is not None:
            raise ValueError(
                "sample_weight must be None, as each pair is compared with "
                f"all others; {task_inputs.received(sample_weight)}."
            )
        if self.preprocessor is None:
            return pairs.ready(x, y)
        return self.preprocessor(pairs.both(x, y))

    def fit(self, x=None, y=None, *args, **kwargs):
        return super().fit(self._pairs(x, y), None, *args, **kwargs)

    def evaluate(self, x=None, y=None, *args, **kwargs):
        if not kwargs.get("_use_cached_eval_dataset"):  # as `fit` calls it
            x, y = self._pairs(x, y), None
        return super().evaluate(x, y, *args, **kwargs)

    def predict(self, x, *args, **kwargs):
        return super().predict(self._pairs(x), *args, **kwargs)

    def train_on_batch(self, x, y=None, *args, **kwargs):
        return super().train_on_batch(self._pairs(x, y), None, *args, **kwargs)

    def test_on_batch(self, x, y=None, *args, **kwargs):
        return super().test_on_batch(self._pairs(x, y), None, *args, **kwargs)

    def predict_on_batch(self, x, *args, **kwargs):
        return super().predict_on_batch(self._pairs(x), *args, **kwargs)

    def _pairs(self, x, y=None):
        """Arrays as a dictionary, checked; a data set as it is."""
        if pairs.is_dataset(x) and y is None:
            return x
        if self.preprocessor is None:
            return pairs.ready(x, y)
        found = pairs.both(x, y)
        task_inputs.check_pixels("images", found["images"])
        pairs.check_captions("captions", found["captions"])
        pairs.check_numbers(**found)
        return {
            name: np.asarray(value) if isinstance(value, list) else value
            for name, value in found.items()
        }

    # === Use ===

    def encode_image(self, images, batch_size: int = 32):
        """Embeddings of images, by the image tower alone.

        Args:
            images: (images, height, width, channels), a batch of any length.
            batch_size: images of each call of the tower.

        Returns:
            float32 array (images, projection_dim), each row of length 1.
        """
        task_inputs.check_pixels("images", images)
        checks.integer("batch_size", batch_size)
        images = np.asarray(images) if isinstance(images, list) else images
        if len(images.shape) != 4:
            raise ValueError(
                "images must be a batch of images, (images, height, width, "
                f"channels); received shape {tuple(images.shape)}."
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
            captions: a string, a list of strings or, without a preprocessor,
                a dictionary of token_ids and padding_mask.
            batch_size: captions of each call of the tower.

        Returns:
            float32 array (captions, projection_dim), each row of length 1.
        """
        checks.integer("batch_size", batch_size)
        if self.preprocessor is None:
            fits = isinstance(captions, dict) and set(captions) == set(
                READY[1:]
            )
            if not fits:
                raise ValueError(
                    "captions must be a dictionary of token_ids and "
                    "padding_mask where the model has no preprocessor; "
                    f"{task_inputs.received(captions)}."
                )
            return encoding.encode(
                self.backbone.text_encoder, captions, batch_size, lambda x: x
            )
        pairs.check_captions("captions", captions)
        if isinstance(captions, str):
            captions = [captions]
        return encoding.encode(
            self.backbone.text_encoder,
            np.asarray(captions),
            batch_size,
            lambda batch: self.preprocessor({"captions": batch.tolist()}),
        )

    def search(self, images, query, k: int = 5):
        """The images that fit a text best, the best first.

        Args:
            images: a batch of images, or their embeddings (images,
                projection_dim), which `encode_image` gave.
            query: a text, or a list of texts.
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
        if isinstance(query, str):
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

    # === Files ===

    @classmethod
    def _defaults(cls, folder, given):
        # KerasHub would hand a dtype to the backbone alone, not to its towers.
        task = pathlib.Path(folder) / configurations.TASK
        if "backbone" in given or not task.is_file():
            return super()._defaults(folder, given)
        return {
            "backbone": MoETwoTowerBackbone.of_folder(
                folder, given.get("dtype")
            )
        }

    def _check_read(self):
        # A tokenizer has its vocabulary only once its files are read.
        _check_preprocessor(self.preprocessor, self.backbone)

    def get_config(self):
        # KerasHub's Task adds backbone, preprocessor and name.
        return {
            **super().get_config(),
            "loss": self.loss,
            "same_caption": self.same_caption,
            "loss_chunk_size": self.loss_chunk_size,
        }


def _check_preprocessor(preprocessor, backbone) -> None:
    """Raise an error if captions could become what the text tower cannot read."""
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
