"""Train on two virtual CPU devices of which the last batch leaves one empty.

Run by `test_replicas.py` with TensorFlow in a process of its own: the devices
must be there before TensorFlow starts. Prints one line of JSON.
"""

import json

import keras
import numpy as np
import tensorflow as tf

import keras_moe


def main():
    cpu = tf.config.list_physical_devices("CPU")[0]
    two = 2 * [tf.config.LogicalDeviceConfiguration()]
    tf.config.set_logical_device_configuration(cpu, two)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        tokens = keras.Input((6, 5))
        moe = keras_moe.layers.TokenChoiceMoE(
            4,
            2,
            noise_std=1.0,
            importance_loss=0.01,
            load_loss=0.01,
            balance_loss=0.01,
            z_loss=0.01,
            intermediate_dim=8,
        )
        model = keras.Model(tokens, tokens + moe(tokens))
        model.compile("sgd", "mse", jit_compile=False)
    x = np.random.default_rng(0).normal(size=(5, 6, 5)).astype("float32")
    # Batches of 4 and 1: the last one leaves a replica without an example.
    history = model.fit(x, x, batch_size=4, epochs=2, verbose=0)
    finite = [bool(np.isfinite(w).all()) for w in model.get_weights()]
    print(
        json.dumps(
            {
                "replicas": strategy.num_replicas_in_sync,
                "losses": history.history["loss"],
                "finite": finite,
            }
        )
    )


if __name__ == "__main__":
    main()
