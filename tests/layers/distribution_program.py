"""Train one step on 8 virtual devices of a CPU, and tell what happened.

Run by `test_distribution.py` in a process of its own: the devices must be there
before JAX starts. Prints one line of JSON.
"""

import json

import jax
import keras
import numpy as np

import keras_moe
from keras_moe.distribution import expert_parallel
from tests import exchanges

EXPERTS, TOKENS, FEATURES, BATCH = 8, 4, 8, 16
rng = np.random.default_rng(0)
X = rng.normal(size=(BATCH, TOKENS, FEATURES)).astype("float32")
Y = np.arange(BATCH) % 3


def build():
    keras.utils.set_random_seed(0)
    tokens = keras.Input((TOKENS, FEATURES))
    branch = keras_moe.layers.SoftMoE(
        EXPERTS, 1, intermediate_dim=16, kernel_initializer="he_normal"
    )(tokens)
    pooled = keras.layers.Flatten()(keras.layers.Add()([tokens, branch]))
    model = keras.Model(tokens, keras.layers.Dense(3)(pooled))
    model.compile(
        keras.optimizers.Adam(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def programs(model, spread):
    """The compiled forward pass and training step."""
    step = jax.jit(model.train_step)
    state = [
        [v.value for v in variables]
        for variables in (
            model.trainable_variables,
            model.non_trainable_variables,
            model.optimizer.variables,
            model.metrics_variables,
        )
    ]
    x, y = (
        jax.device_put(a, spread.get_data_layout(a.shape).backend_layout)
        for a in (X, Y)
    )
    forward = jax.jit(lambda t, n, x: model.stateless_call(t, n, x)[0])
    return (
        forward.lower(*state[:2], x).compile(),
        step.lower(tuple(state), (x, y)).compile(),
    )


def run(spread=None):
    """Logits, and loss and weights after a step of `fit`."""
    model = build()
    facts = {"logits": model.predict(X, batch_size=BATCH, verbose=0).tolist()}
    history = model.fit(X, Y, batch_size=BATCH, verbose=0)
    facts["loss"] = history.history["loss"][0]
    facts["weights"] = {
        w.path: np.asarray(w.value).tolist() for w in model.weights
    }
    if spread is None:
        return facts
    forward, step = programs(model, spread)
    facts["forward"] = exchanges.found(forward.as_text())
    facts["step"] = exchanges.found(step.as_text())
    facts["bytes"] = {
        v.path: [v.value.nbytes, v.value.addressable_shards[0].data.nbytes]
        for v in (*model.weights, *model.optimizer.variables)
    }
    return facts


def main():
    facts = {"devices": len(jax.devices()), "alone": run()}
    for expert_devices in (8, 4):
        spread = expert_parallel(expert_devices)
        facts[str(expert_devices)] = {
            "mesh": spread.device_mesh.shape,
            "replicas": spread.num_model_replicas,
        }
        with spread.scope():
            facts[str(expert_devices)] |= run(spread)
    try:
        expert_parallel(3)
    except ValueError as error:
        facts["refused"] = str(error)
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
