"""Turn a dense vision transformer into mixtures of experts and train on.

    KERAS_BACKEND=jax python guides/upcycling.py

A small dense transformer learns scikit-learn's digits, 1,797 images that come
with that package. Its MLPs then become the experts of each router, and the
models train for as many steps again. The baselines have as many steps in total:
the dense model trained on, and mixtures of experts from scratch. Losses are of
held-out images. With `--record` the script writes `guides/upcycling.json`,
which the site's page on upcycling shows.
"""

import argparse
import json
import os
import pathlib
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

RECORD = pathlib.Path(__file__).with_suffix(".json")
BATCH, PARTS, EXPERTS = 64, 4, 8
DENSE = {
    "image_shape": (8, 8, 1),
    "patch_size": 2,
    "num_layers": 4,
    "num_heads": 4,
    "hidden_dim": 64,
    "mlp_dim": 128,
}
# As many slots as tokens: the experts cost what the dense MLP costs.
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
    print(f"{title:<34}{losses}   {curve[-1][1]:6.1%} {seconds:6.0f} s")
    return [float(loss) for loss, _ in curve]


def distances(dense, sparse, images):
    """Relative distance of the outputs of each new layer and its MLP."""
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
    """A model with the upcycled one's architecture and random weights."""
    backbone = models.MoEViTBackbone(
        **DENSE,
        router=router,
        router_options={"num_experts": EXPERTS, **ROUTERS[router]},
    )
    return models.MoEViTImageClassifier(backbone, 10)


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--steps",
        type=int,
        default=400,
        metavar="N",
        help="Train for this many steps before upcycling, and again after it "
        "(default: %(default)s).",
    )
    parser.add_argument(
        "--routers",
        nargs="+",
        choices=ROUTERS,
        default=list(ROUTERS),
        help="Upcycle to these routers: "
        + ", ".join(ROUTERS)
        + " (default: all).",
    )
    parser.add_argument(
        "--record",
        action="store_true",
        help=f"Write the held-out losses to {RECORD.name} beside this script.",
    )
    return parser.parse_args(arguments)


def main(arguments=None):
    arguments = parse(arguments)
    steps, data = arguments.steps, load_data()
    test = keras.ops.convert_to_tensor(data[2])
    keras.utils.set_random_seed(0)
    curves = {}
    print(
        f"Held-out loss at the start and after each quarter of {steps} steps "
        f"({2 * steps} from scratch); accuracy; CPU seconds with compilation"
    )
    dense = models.MoEViTImageClassifier(models.MoEViTBackbone(**DENSE), 10)
    curves["dense"] = train(dense, data, steps, "dense")
    sparse = {}
    for router in arguments.routers:
        more = {"calibration": data[0][:256]} if router == "soft" else {}
        sparse[router] = keras_moe.upcycle(
            dense, router, EXPERTS, router_options=ROUTERS[router], **more
        )
    if "soft" in sparse:
        sparse["soft, not calibrated"] = keras_moe.upcycle(
            dense, "soft", EXPERTS, router_options=ROUTERS["soft"]
        )
        for name in ("soft", "soft, not calibrated"):
            print(f"{name}: distances {distances(dense, sparse[name], test)}")
    sparse["dense"] = dense
    for name, model in sparse.items():
        title = "dense, trained on" if name == "dense" else f"{name}, upcycled"
        curves[title] = train(model, data, steps, title, 1e-3, seed=1)
    for router in arguments.routers:
        title = f"{router}, from scratch"
        curves[title] = train(scratch(router), data, 2 * steps, title, seed=1)
    if "soft" in sparse:
        hard = keras_moe.upcycle(
            sparse["soft"],
            "expert_choice",
            router_options=ROUTERS["expert_choice"],
        )
        title = "soft, upcycled, to expert_choice"
        curves[title] = train(hard, data, steps // 2, title, 5e-4, 2)
    if arguments.record:
        write_record(steps, curves)
    return curves


def total_steps(name, steps):
    """Steps of a model with those of the models that it was made from."""
    if name == "dense":
        return steps
    return 2 * steps + (steps // 2 if name.endswith("to expert_choice") else 0)


def write_record(steps, curves):
    """Write the losses and steps of all models, whole or not at all."""
    record = {
        "backend": keras.backend.backend(),
        "models": {
            name: {
                "steps": total_steps(name, steps),
                "held_out_loss": [round(loss, 4) for loss in losses],
            }
            for name, losses in curves.items()
        },
    }
    part = RECORD.with_name(f".{RECORD.name}.part")
    part.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    part.replace(RECORD)


if __name__ == "__main__":
    main()
