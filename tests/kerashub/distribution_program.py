"""Train KerasHub's models one step on 8 virtual devices of a CPU.

Run by `test_spread_experts.py` in a process of its own. Prints a line of JSON.
"""

import json

import jax
import keras
import numpy as np

import keras_moe
from tests.kerashub import models
from tests.layers import distribution_program

BATCH, LENGTH = 8, 4
FAMILIES = ("Mixtral", "gpt-oss")


def build(family):
    keras.utils.set_random_seed(0)
    backbone = models.backbone(family)
    keras_moe.use_sparse_experts(backbone, "grouped")
    if family == "gpt-oss":
        keras_moe.quantize_experts(backbone, "int8")
        keras_moe.enable_expert_lora(backbone, 2)
    # Gradients of A are zero as long as B is.
    for weight in backbone.weights:
        if weight.name.startswith("lora_"):
            weight.assign(models.normal(*weight.shape))
    outputs = keras.layers.Dense(3)(backbone.output[:, -1])
    model = keras.Model(backbone.input, outputs)
    model.compile(
        keras.optimizers.Adam(0.01, epsilon=1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.optimizer.build(model.trainable_variables)
    return model


def main():
    facts = {"devices": len(jax.devices()), "alone": {}, "spread": {}}
    spread = keras_moe.distribution.expert_parallel()
    for family in FAMILIES:
        inputs = models.inputs(family, BATCH, LENGTH)
        batch = inputs, np.arange(BATCH) % 3
        measured = distribution_program.measured
        facts["alone"][family] = measured(build(family), batch)
        with spread.scope():
            facts["spread"][family] = measured(build(family), batch, spread)
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
