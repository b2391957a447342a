"""A training step of whole models: routers in half of the blocks, or none.

A ViT S/16 of 224 pixels (196 tokens, 12 blocks, the last six with 16 experts
and about as many slots as tokens) and a language model (128 bytes, 4
blocks, every other a Mixture of Tokens of 32 experts). AdamW included.
"""

import keras
import numpy as np
from tqdm import tqdm

from tests.benchmarks import timing

IMAGES, TEXTS, BYTES, CLASSES = 2, 32, 128, 10
ROUTERS = {
    "dense": {"router": None},
    "SoftMoE": {
        "router": "soft",
        "router_options": {"num_experts": 16, "slots_per_expert": 12},
    },
    "ExpertChoiceMoE": {
        "router": "expert_choice",
        "router_options": {"num_experts": 16, "capacity_factor": 1.0},
    },
}


def rows():
    yield from table("ViT S/16, training step", IMAGES, vision_steps())
    yield from table("language model, training step", TEXTS, language_steps())


def table(op, batch, steps):
    counts = {name: count for name, (_, count) in steps.items()}
    functions = {name: step for name, (step, _) in steps.items()}
    seconds = timing.paired(functions, (), turns=5)
    for columns in timing.against(seconds, "dense"):
        yield {
            "op": op,
            "batch": batch,
            "parameters": counts[columns["of"]],
            **columns,
        }


def vision_steps():
    from keras_moe import models

    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(IMAGES, 224, 224, 3)).astype("float32")
    made = {}
    for name, options in tqdm(ROUTERS.items(), desc=timing.BACKEND):
        backbone = models.MoEViTBackbone(
            image_shape=(224, 224, 3),
            patch_size=16,
            num_layers=12,
            num_heads=6,
            hidden_dim=384,
            mlp_dim=1536,
            **options,
            moe_layers=() if name == "dense" else range(6, 12),
        )
        classifier = models.MoEViTImageClassifier(backbone, CLASSES)
        model = keras.Model(classifier.input, classifier.output)
        labels = rng.integers(0, CLASSES, IMAGES)
        made[name] = step_of(model, pixels, labels), model.count_params()
    return made


def language_steps():
    from keras_moe import models

    tokens = np.random.default_rng(0).integers(0, 256, (TEXTS, BYTES + 1))
    inputs = {
        "token_ids": tokens[:, :-1],
        "padding_mask": np.ones((TEXTS, BYTES), bool),
    }
    mixture = {
        "router": "mixture_of_tokens",
        "moe_layers": (1, 3),
        "router_options": {"num_experts": 32, "group_size": 32},
    }
    made = {}
    dense = {"router": None}
    for name, options in (("dense", dense), ("MixtureOfTokens", mixture)):
        backbone = models.MoTBackbone(
            vocabulary_size=256,
            num_layers=4,
            num_heads=4,
            hidden_dim=128,
            mlp_dim=512,
            max_sequence_length=BYTES,
            **options,
        )
        language_model = models.MoTCausalLM(backbone)
        model = keras.Model(language_model.input, language_model.output)
        step = step_of(model, inputs, tokens[:, 1:])
        made[name] = step, model.count_params()
    return made


def step_of(model, inputs, labels):
    """One step of AdamW on a cross-entropy of logits."""
    model.compile(
        optimizer="adamw",
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return lambda: model.train_on_batch(inputs, labels)
