"""Images and captions: training on pairs, search, classes by name."""

import pathlib

import keras
import keras_hub
import numpy as np
from keras import ops

from keras_moe import checks
from keras_moe.contrastive import KINDS
from keras_moe.contrastive import SAME_CAPTIONS
from keras_moe.contrastive import contrastive_loss
from keras_moe.models import task_inputs
from keras_moe.models.presets import configurations
from keras_moe.models.presets import loading
from keras_moe.models.two_tower import embedding
from keras_moe.models.two_tower import pairs
from keras_moe.models.two_tower.backbone import MoETwoTowerBackbone
from keras_moe.models.two_tower.preprocessing import MoETwoTowerPreprocessor
from keras_moe.models.two_tower.preprocessing import check_fits


@keras.saving.register_keras_serializable(package="keras_moe")
class MoETwoTower(embedding.Embeds, loading.TaskPresets, keras_hub.models.Task):
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
            Captions are equal whose ids are, up to `sequence_length`: the
            text tower reads the same. All words that the tokenizer does not
            know have one id, so two captions of such words alone are equal.
        loss_chunk_size: how many images are compared with the captions at a
            time, so that no (batch, batch) array is held; by default all.

    `fit` and `evaluate` take `(images, captions)`, `x=images, y=captions`, a
    dictionary of `images` and `captions`, or a data set of `tf.data` or grain
    whose batches have one of these forms. `validation_data` takes the same.
    `predict` takes the same, and gives `image_embeddings` and
    `text_embeddings`. Each batch has its own loss: it depends on `batch_size`.
    With a preprocessor, `fit` keeps the order of arrays: shuffle a
    `tf.data.Dataset`, so that batches differ between epochs.

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
        check_fits(preprocessor, backbone)
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
            # The scale and the bias of logits are not pulled to zero.
            optimizer.exclude_from_weight_decay(var_names=["log_scale", "bias"])
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
        pairs.no_weights(sample_weight)
        if self.preprocessor is None:
            return pairs.ready(x, y)
        return self.preprocessor(pairs.both(x, y))

    def fit(
        self,
        x=None,
        y=None,
        batch_size=None,
        sample_weight=None,
        validation_data=None,
        **kwargs,
    ):
        x = self._pairs(x, y, sample_weight)
        if validation_data is not None:
            given = validation_data
            if not pairs.is_dataset("validation_data", given):
                given = self._pairs(
                    *keras.utils.unpack_x_y_sample_weight(given)
                )
            validation_data = given
        return super().fit(
            x, None, batch_size, validation_data=validation_data, **kwargs
        )

    def evaluate(
        self, x=None, y=None, batch_size=None, sample_weight=None, **kwargs
    ):
        if not kwargs.get("_use_cached_eval_dataset"):  # as `fit` calls it
            x, y = self._pairs(x, y, sample_weight), None
        return super().evaluate(x, y, batch_size, **kwargs)

    def predict(self, x, *args, **kwargs):
        return super().predict(self._pairs(x), *args, **kwargs)

    def train_on_batch(self, x, y=None, sample_weight=None, **kwargs):
        x = self._pairs(x, y, sample_weight)
        return super().train_on_batch(x, **kwargs)

    def test_on_batch(self, x, y=None, sample_weight=None, **kwargs):
        x = self._pairs(x, y, sample_weight)
        return super().test_on_batch(x, **kwargs)

    def predict_on_batch(self, x, *args, **kwargs):
        return super().predict_on_batch(self._pairs(x), *args, **kwargs)

    def _pairs(self, x, y=None, sample_weight=None):
        """Arrays as a dictionary, checked; a data set as it is."""
        pairs.no_weights(sample_weight)
        if pairs.is_dataset("x", x) and y is None:
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

    # === Files ===

    @classmethod
    def _defaults(cls, folder, given):
        # KerasHub would hand a dtype to the backbone alone, not to its towers.
        task = pathlib.Path(folder) / configurations.TASK
        if "backbone" in given or not task.is_file():
            return super()._defaults(folder, given)
        if "image_shape" in given:
            raise ValueError(
                "image_shape must be left out; a backbone of images of "
                "another size is given as backbone; received "
                f"{given['image_shape']!r}."
            )
        return {
            "backbone": MoETwoTowerBackbone._of_folder(
                folder, given.get("dtype")
            )
        }

    def _check_read(self):
        # A tokenizer has its vocabulary only once its files are read.
        check_fits(self.preprocessor, self.backbone)

    def get_config(self):
        # KerasHub's Task adds backbone, preprocessor and name.
        return {
            **super().get_config(),
            "loss": self.loss,
            "same_caption": self.same_caption,
            "loss_chunk_size": self.loss_chunk_size,
        }
