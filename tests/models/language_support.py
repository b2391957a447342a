"""The small language models that tests are made of."""

import keras
import numpy as np

from keras_moe import models

LENGTH = 10
TEXTS = ["to be, or not", "", "é\n"]


def make_backbone(mode="group", **options):
    """Two blocks, the first of which mixes tokens; ids 0…257."""
    keras.utils.set_random_seed(0)
    router = {"num_experts": 2, "group_size": 2, "inference_mixing": mode}
    return models.MoTBackbone(
        **{
            "vocabulary_size": 258,
            "num_layers": 2,
            "num_heads": 2,
            "hidden_dim": 8,
            "mlp_dim": 8,
            "max_sequence_length": LENGTH,
            "moe_layers": [0],
            "router_options": router,
            **options,
        }
    )


def make_preprocessor(**options):
    return models.MoTCausalLMPreprocessor(
        models.MoTTokenizer.byte_level(),
        **{"sequence_length": LENGTH, **options},
    )


def make_causal(mode="group", preprocessor=None, **options):
    """Its weights are large, so that texts differ."""
    model = models.MoTCausalLM(
        make_backbone(mode, **options), preprocessor or make_preprocessor()
    )
    model.compile("adam", sampler="greedy")
    return enlarge(model)


def enlarge(model):
    for weight in model.weights:
        if weight.name in ("kernel", "embeddings", "router_kernel"):
            weight.assign(5 * weight)
    return model


def logits_of(model, ids, mask=None):
    """Logits by `predict`, which compiles, as one batch."""
    preprocessor, model.preprocessor = model.preprocessor, None
    mask = np.ones_like(ids) if mask is None else mask
    outputs = model.predict(
        {"token_ids": ids, "padding_mask": mask},
        batch_size=len(ids),
        verbose=0,
    )
    model.preprocessor = preprocessor
    return outputs
