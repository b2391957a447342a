"""The small models that the tests of `keras_moe.models` are made of."""

import keras
import numpy as np

from keras_moe import models
from tests.support import BACKEND

# Four patches in a row, three rows.
TINY = {
    "image_shape": (12, 16, 3),
    "patch_size": 4,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 8,
    "mlp_dim": 12,
}
ROUTERS = {
    "soft": {
        "router": "soft",
        "router_options": {"num_experts": 2, "slots_per_expert": 2},
    },
    "expert_choice": {
        "router": "expert_choice",
        "router_options": {"num_experts": 2, "capacity_factor": 1.0},
    },
    "token_choice": {
        "router": "token_choice",
        "router_options": {"num_experts": 3, "top_k": 2, "balance_loss": 0.01},
    },
    "dense": {},
}


def make_backbone(router="soft", **arguments):
    return models.MoEViTBackbone(**{**TINY, **ROUTERS[router], **arguments})


def make_classifier(router="soft", pixels=False, backbone=None, **arguments):
    """A classifier of three classes; with `pixels`, one that preprocesses."""
    if backbone is None:
        backbone = make_backbone(router)
    if pixels:
        arguments["preprocessor"] = make_preprocessor(backbone.image_shape)
    return models.MoEViTImageClassifier(
        backbone, **{"num_classes": 3, **arguments}
    )


def make_preprocessor(image_shape=TINY["image_shape"]):
    return models.MoEViTImageClassifierPreprocessor(
        models.image_converter(image_shape)
    )


def images_of(batch=2, shape=TINY["image_shape"], seed=0):
    """Images in [-1, 1]."""
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, (batch, *shape)).astype("float32")


def pixels_of(batch=2, shape=TINY["image_shape"], seed=0):
    """Images in 0…255."""
    return 127.5 * (images_of(batch, shape, seed) + 1)


def randomize(model, seed=0):
    """Give every weight random values, those that start at zero too."""
    rng = np.random.default_rng(seed)
    # By path: backends list the weights in different orders.
    for weight in sorted(model.weights, key=lambda w: w.path):
        change = 0.2 * rng.normal(size=weight.shape)
        weight.assign(keras.ops.convert_to_numpy(weight) + change)
    return model


def evaluate(model, images, training=False):
    """The output as float32 numpy; on jax compiled, to save time."""
    if BACKEND != "jax":
        outputs = model(images, training=training)
    else:
        import jax

        states = [v.value for v in model.non_trainable_variables]
        weights = [v.value for v in model.trainable_variables]
        outputs, _ = jax.jit(
            lambda *arrays: model.stateless_call(*arrays, training=training)
        )(weights, states, images)
    return keras.ops.convert_to_numpy(keras.ops.cast(outputs, "float32"))


def close(actual, expected, tolerance=1e-5):
    np.testing.assert_allclose(actual, expected, tolerance, tolerance)
