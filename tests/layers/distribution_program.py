"""Train one step on 8 virtual devices of a CPU, and print what happened.

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
CROWDED = 5  # the expert that all tokens choose where one is to
rng = np.random.default_rng(0)
X = rng.normal(size=(BATCH, TOKENS, FEATURES)).astype("float32")
X[..., 0] = 1.0
Y = np.arange(BATCH) % 3
OPTIONS = {"intermediate_dim": 16, "kernel_initializer": "he_normal"}


class Crowd(keras.initializers.Initializer):
    """The router's kernel with which all tokens choose one expert first."""

    def __call__(self, shape, dtype=None):
        kernel = np.random.default_rng(1).normal(size=shape)
        kernel[0, CROWDED] = 20.0
        return keras.ops.convert_to_tensor(kernel, dtype)


def soft():
    return keras_moe.layers.SoftMoE(EXPERTS, 1, **OPTIONS)


def expert_choice():
    return keras_moe.layers.ExpertChoiceMoE(EXPERTS, 2, **OPTIONS)


def token_choice(**options):
    return keras_moe.layers.TokenChoiceMoE(EXPERTS, 2, **options, **OPTIONS)


def mixture():
    return keras_moe.layers.MixtureOfTokens(EXPERTS, 2, **OPTIONS)


LAYERS = {
    "soft": soft,
    "expert_choice": expert_choice,
    "mixture": mixture,
    "capacity": token_choice,
    "crowded": lambda: token_choice(
        capacity_factor=4, router_initializer=Crowd()
    ),
    "dropless": lambda: token_choice(capacity_factor=None, gated=True),
    "dropless_crowded": lambda: token_choice(
        capacity_factor=None, router_initializer=Crowd()
    ),
}
# Layers whose calls in training move a variable by the whole batch.
MOVING = {
    "thresholds": lambda: keras_moe.layers.ExpertChoiceMoE(
        EXPERTS, 2, selection="threshold", threshold_momentum=0.5, **OPTIONS
    ),
    "balance": lambda: token_choice(balance_bias_rate=0.1),
}


def backbone(recompute=False):
    return keras_moe.models.MoEViTBackbone(
        image_shape=(2 * TOKENS, 2, FEATURES),
        patch_size=2,
        router="soft",
        router_options={"num_experts": EXPERTS, "slots_per_expert": 1},
        moe_layers=[0],
        num_layers=1,
        num_heads=1,
        hidden_dim=FEATURES,
        mlp_dim=16,
        recompute=recompute,
    )


# Layers and models computed again for gradients, and what they compare with.
AGAIN = {
    "dropless": lambda: keras_moe.layers.Recompute(LAYERS["dropless"]()),
    "backbone": lambda: backbone(recompute=True),
}


def build(make):
    keras.utils.set_random_seed(0)
    made = make()
    if isinstance(made, keras.Model):
        inputs = keras.Input(made.image_shape)
        outputs = made(inputs)
    else:
        inputs = keras.Input((TOKENS, FEATURES))
        outputs = keras.layers.Add()([inputs, made(inputs)])
    outputs = keras.layers.Dense(3)(keras.layers.Flatten()(outputs))
    model = keras.Model(inputs, outputs)
    model.compile(
        keras.optimizers.Adam(0.01, epsilon=1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.optimizer.build(model.trainable_variables)
    return model


def run(make, spread=None):
    """`measured` of a model with this layer."""
    model = build(make)
    x = np.resize(X, (BATCH, *model.input_shape[1:]))
    return measured(model, (x, Y), spread)


def measured(model, batch, spread=None):
    """Logits, and loss and weights after a training step."""
    state = [
        [v.value for v in variables]
        for variables in (
            model.trainable_variables,
            model.non_trainable_variables,
            model.optimizer.variables,
            model.metrics_variables,
        )
    ]
    if spread is not None:
        batch = jax.tree.map(
            lambda a: jax.device_put(
                a, spread.get_data_layout(a.shape).backend_layout
            ),
            batch,
        )

    def infer(trainable, others, x):
        return model.stateless_call(trainable, others, x)[0]

    arguments = (*state[:2], batch[0])
    forward = jax.jit(infer).lower(*arguments).compile()
    facts = {"logits": np.asarray(forward(*arguments)).tolist()}
    step = jax.jit(model.train_step).lower(tuple(state), batch).compile()
    logs, changed = step(tuple(state), batch)
    facts["loss"] = float(logs["loss"])
    facts["weights"] = [np.asarray(w).tolist() for w in changed[0]]
    facts["moved"] = [np.asarray(w).tolist() for w in changed[1]]
    if spread is None:
        return facts
    facts["forward"] = exchanges.found(forward.as_text())
    facts["step"] = exchanges.found(step.as_text())
    facts["bytes"] = {
        v.path: [v.value.nbytes, v.value.addressable_shards[0].data.nbytes]
        for v in (*model.weights, *model.optimizer.variables)
    }
    return facts


def trained(spread):
    """The loss of one step of `fit`, and logits of `predict` before it."""
    model = build(soft)
    logits = model.predict(X, batch_size=BATCH, verbose=0)
    history = model.fit(X, Y, batch_size=BATCH, verbose=0)
    return {"logits": logits.tolist(), "loss": history.history["loss"][0]}


def main():
    facts = {"devices": len(jax.devices())}
    layers = LAYERS | MOVING | {"backbone": backbone}
    facts["alone"] = {name: run(make) for name, make in layers.items()}
    for expert_devices in (8, 4):
        spread = expert_parallel(expert_devices)
        mesh = str(expert_devices)
        facts[mesh] = {
            "mesh": spread.device_mesh.shape,
            "replicas": spread.num_model_replicas,
        }
        with spread.scope():
            for name, make in LAYERS.items():
                facts[mesh][name] = run(make, spread)
            facts[mesh]["fit"] = trained(spread)
            if expert_devices == 8:
                for name, make in MOVING.items():
                    facts[mesh][name] = run(make, spread)
                facts["again"] = {
                    name: run(make, spread) for name, make in AGAIN.items()
                }
    with keras.distribution.DataParallel().scope():
        spread = keras.distribution.distribution()
        facts["data"] = {
            name: run(LAYERS[name], spread) for name in ("capacity", "dropless")
        }
    try:
        expert_parallel(3)
    except ValueError as error:
        facts["refused"] = str(error)
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
