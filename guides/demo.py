"""Classify images, and find drawings by words, with Soft MoE models.

    KERAS_BACKEND=jax python guides/demo.py

The presets, 300 test images of Fashion-MNIST and 412 drawings come with the
package, so the demo trains and downloads nothing. It prints the accuracy and
writes two pictures: of some images, their predicted classes, and the regions
that the most used slots of the last Soft MoE layer read; and of the drawings
that it finds for a few words.
"""

import argparse
import os
import pathlib
import time

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras  # noqa: E402  (the backend is chosen above)
import numpy as np  # noqa: E402

from keras_moe import diagnostics  # noqa: E402
from keras_moe import samples  # noqa: E402
from keras_moe import visualize  # noqa: E402
from keras_moe.models import MoETwoTower  # noqa: E402
from keras_moe.models import MoEViTImageClassifier  # noqa: E402

PRESET = "soft_moe_vit_tiny_fashion_mnist"
SEARCH_PRESET = "soft_moe_two_tower_tiny_emoji"
QUERIES = ("a red fruit", "a crying face", "a vegetable", "a heart", "a flower")
FOUND = 5  # drawings of each query


def classify(classifier, images):
    """The class of each image and its probability."""
    logits = classifier.predict(images, batch_size=100, verbose=0)
    chances = keras.ops.convert_to_numpy(keras.ops.softmax(logits))
    return chances.argmax(-1), chances.max(-1)


def draw(classifier, images, titles, path):
    """Draw the regions that slots of the last MoE block read."""
    backbone = classifier.backbone
    ready = classifier.preprocessor(images)
    with diagnostics.capture() as plans:
        backbone(ready, training=False)
    figure = visualize.slot_regions(
        images,
        list(plans.values())[-1],
        backbone.grid,
        titles=titles,
        title="Dispatch weights of the most used slots of the last layer",
    )
    figure.savefig(path, dpi=80, metadata={"Software": None})


def search(model, path):
    """Print and draw the drawings that fit each of the queries best."""
    from matplotlib.figure import Figure

    images, _, names = samples.emoji()
    found, _ = model.search(model.encode_image(images), list(QUERIES), FOUND)
    figure = Figure((1.3 * FOUND + 1.5, 1.3 * len(QUERIES)))
    axes = figure.subplots(len(QUERIES), FOUND)
    for query, rows, row in zip(QUERIES, found, axes):
        print(f"  {query:<14} {', '.join(names[index] for index in rows)}")
        row[0].set_ylabel(query, rotation=0, ha="right", va="center")
        for index, axis in zip(rows, row):
            axis.imshow(images[index])
            axis.set_title(names[index], fontsize=6)
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=80, metadata={"Software": None})


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--preset",
        default=PRESET,
        metavar="NAME",
        help="Name or folder of the classifier's preset (default: "
        "%(default)s).",
    )
    parser.add_argument(
        "--picture",
        type=pathlib.Path,
        default="demo_fashion_slots.png",
        metavar="FILE",
        help="Write the picture to this PNG file (default: %(default)s).",
    )
    parser.add_argument(
        "--search-picture",
        type=pathlib.Path,
        default="demo_emoji_search.png",
        metavar="FILE",
        help="Write the picture of found drawings to this PNG file (default: "
        "%(default)s).",
    )
    arguments = parser.parse_args(arguments)
    start = time.perf_counter()
    classifier = MoEViTImageClassifier.from_preset(arguments.preset)
    images, labels, classes = samples.fashion_mnist()
    found, chances = classify(classifier, images)
    right = found == labels
    print(
        f"{arguments.preset}: {classifier.count_params():,} parameters, "
        f"backend {keras.backend.backend()}"
    )
    for label, name in enumerate(classes):
        part = labels == label
        print(f"  {name:<12} {right[part].sum():3} of {part.sum()} right")
    print(f"accuracy {right.mean():.1%} on {len(images)} test images")

    # One image of each of six classes.
    shown = [np.flatnonzero(labels == k)[0] for k in (0, 1, 5, 7, 8, 9)]
    titles = [
        f"label {classes[labels[k]]}\n"
        f"predicted {classes[found[k]]}, {chances[k]:.0%}"
        for k in shown
    ]
    draw(classifier, images[shown], titles, arguments.picture)
    print(f"Picture: {arguments.picture}")

    model = MoETwoTower.from_preset(SEARCH_PRESET)
    print(f"{SEARCH_PRESET}: {model.count_params():,} parameters")
    search(model, arguments.search_picture)
    print(f"Picture: {arguments.search_picture}")
    print(f"Took {time.perf_counter() - start:.0f} s.")
    return right.mean()


if __name__ == "__main__":
    main()
