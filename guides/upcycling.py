"""Turn a dense vision transformer into mixtures of experts, and train on.

    KERAS_BACKEND=jax python guides/upcycling.py

A small dense transformer learns scikit-learn's digits (1,797 images that ship
inside the package). Its MLPs then become experts, with each router, and the
models train on beside the same models from scratch: a step costs them the same
time. The upcycled Soft MoE's router is turned into Expert Choice, too. Losses
are of held-out images.

One run (PyTorch, `--steps 200 --routers soft token_choice`, seed 0), at the
start and after each quarter of the steps:

    dense                        2.705  1.255  0.757  0.581  0.459    85.1%
    soft, upcycled               0.472  0.609  0.478  0.431  0.392    89.6%
    soft, from scratch           2.619  1.203  0.786  0.571  0.495    85.3%
    soft, not calibrated         0.466  0.560  0.379  0.360  0.322    90.2%
    soft to expert_choice, tuned 0.392  0.337  0.327  0.291  0.298    90.0%
    token_choice, upcycled       0.503  0.480  0.370  0.312  0.300    90.2%

The dense model's steps come before those of the upcycled ones. Calibrated
layers are nearer to the MLPs (0.36 and 0.39, against 0.51 and 0.40), but the
loss began no lower for it, and ended higher.
"""

import argparse
import os
import time

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import keras  # noqa: E402  (the backend is chosen above)
import numpy as np  # noqa: E402
from sklearn.datasets import load_digits  # noqa: E402
from sklearn.model_selection import train_test_split  # noqa: E402
from tqdm import tqdm  # noqa: E402

import keras_moe  # noqa: E402
from keras_moe import models  # noqa: E402
from keras_moe.upcycling import weights  # noqa: E402

BATCH, PARTS, EXPERTS = 64, 4, 8
DENSE = {
    "image_shape": (8, 8, 1),
    "patch_size": 2,
    "num_layers": 4,
    "num_heads": 4,
    "hidden_dim": 64,
    "mlp_dim": 128,
}
# As many seats or slots as there are tokens, as the dense MLP has.
ROUTERS = {
    "soft": {"slots_per_expert": 2},
    "expert_choice": {"capacity_factor": 1.0},
    "token_choice": {"top_k": 1, "capacity_factor": 1.0},
}


def load_data():
    """Training images and labels, held-out images and labels."""
    digits = load_digits()
    images = digits.images[..., None].astype("float32") / 8 - 1
    train_x, test_x, train_y, test_y = train_test_split(
        images,
        digits.target,
        test_size=450,
        random_state=0,
        stratify=digits.target,
    )
    return train_x, train_y, test_x, test_y


def train(model, data, steps, title, peak=2e-3, seed=0):
    """Losses of held-out images, before and after each part of the steps."""
    train_x, train_y, test_x, test_y = data
    model.compile(
        keras.optimizers.AdamW(
            keras.optimizers.schedules.CosineDecay(
                0.0, steps, warmup_target=peak, warmup_steps=steps // 10
            ),
            weight_decay=0.05,
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )

    def held_out():
        model.reset_metrics()  # they go on from batch to batch otherwise
        return model.test_on_batch(test_x, test_y)

    curve = [held_out()]
    start = time.process_time()
    rng = np.random.default_rng(seed)
    for step in tqdm(range(1, steps + 1), desc=title, unit="step"):
        chosen = rng.choice(len(train_x), BATCH, replace=False)
        model.train_on_batch(train_x[chosen], train_y[chosen])
        if step % (steps // PARTS) == 0:
            curve.append(held_out())
    seconds = time.process_time() - start
    losses = " ".join(f"{loss:6.3f}" for loss, _ in curve)
    print(f"{title:<28}{losses}   {curve[-1][1]:6.1%} {seconds:6.0f} s")
    return [float(loss) for loss, _ in curve]


def distances(dense, sparse, images):
    """How far each new layer is from the MLP, relative to what that says."""
    found = []
    for index in sparse.backbone.moe_layers:
        block = dense.backbone.blocks[index]
        tokens = keras.Model(dense.backbone.input, block.input)(images)
        tokens = tokens + block.attention(block.attention_norm(tokens))
        tokens = block.mlp_norm(tokens)
        new = sparse.backbone.blocks[index].mlp
        found.append(weights.distance(new(tokens), block.mlp(tokens)))
    return ", ".join(f"{distance:.2f}" for distance in found)


def scratch(router):
    """A new model like the upcycled one."""
    backbone = models.MoEViTBackbone(
        **DENSE,
        router=router,
        router_options={"num_experts": EXPERTS, **ROUTERS[router]},
    )
    return models.MoEViTImageClassifier(backbone, 10)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument(
        "--routers", nargs="+", choices=ROUTERS, default=list(ROUTERS)
    )
    arguments = parser.parse_args(arguments)
    steps, data = arguments.steps, load_data()
    test = keras.ops.convert_to_tensor(data[2])
    keras.utils.set_random_seed(0)
    found = {}
    print(
        f"Held-out loss at the start and after each quarter of {steps} steps; "
        "accuracy; seconds of one core, compilation too"
    )
    dense = models.MoEViTImageClassifier(models.MoEViTBackbone(**DENSE), 10)
    found["dense"] = train(dense, data, steps, "dense")
    for router in arguments.routers:
        options = ROUTERS[router]
        more = {"calibration": data[0][:256]} if router == "soft" else {}
        model = keras_moe.upcycle(
            dense, router, EXPERTS, router_options=options, **more
        )
        if router == "soft":
            far = distances(dense, model, test)
            print(f"distance from the MLPs, calibrated: {far}")
        found[router] = train(
            model, data, steps, f"{router}, upcycled", 1e-3, seed=1
        )
        found[f"{router} scratch"] = train(
            scratch(router), data, steps, f"{router}, from scratch", seed=1
        )
        if router != "soft":
            continue
        drawn = keras_moe.upcycle(
            dense, router, EXPERTS, router_options=options
        )
        print(f"distance from the MLPs, drawn: {distances(dense, drawn, test)}")
        found["soft drawn"] = train(
            drawn, data, steps, "soft, not calibrated", 1e-3, seed=1
        )
        hard = keras_moe.upcycle(
            model, "expert_choice", router_options=ROUTERS["expert_choice"]
        )
        found["soft to expert_choice"] = train(
            hard, data, steps // 2, "soft to expert_choice, tuned", 5e-4, 2
        )
    return found


if __name__ == "__main__":
    main()
