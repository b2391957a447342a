"""Pictures of what a preset's routers do, for its card."""

import io

import keras
import numpy as np

from keras_moe import diagnostics
from keras_moe import samples
from keras_moe import visualize
from keras_moe.visualize.texts import expert_colours
from zoo.tasks import task_of

NAME = "routing.png"
CLASSES = (0, 1, 5, 7, 8, 9)  # an image of each is shown
DRAWINGS = ("red apple", "dog face", "owl", "tulip", "pizza", "crab")
LINE = "To be, or not to be, that is the question:"
CAPTIONS = {
    "vision": "Images of the test data and, in red, the patches with the "
    "largest dispatch weights of the most used slots of the last mixture.",
    "text": "The expert with the largest router weight for each letter, in "
    "each layer with a mixture. The six experts with most letters in a layer "
    "have a colour each.",
    "pairs": "Drawings of the style that was held out and, in red, the patches "
    "with the largest dispatch weights of the most used slots of the last "
    "mixture.",
}
MIXING = (
    ' `inference_mixing="argmax"` routes so; `"group"` mixes with the same '
    "weights."
)


def caption_of(recipe) -> str | None:
    """The caption of the picture, `None` for a model without routers."""
    router = recipe.backbone.get("router")
    if router is None:
        return None
    more = MIXING if router == "mixture_of_tokens" else ""
    return CAPTIONS[recipe.task] + more


def draw(recipe, preset) -> bytes | None:
    """The picture of a preset as a PNG, the same bytes each time.

    Args:
        recipe: what was trained.
        preset: name or folder.

    Returns:
        `None` for a model without routers.
    """
    if recipe.backbone.get("router") is None:
        return None
    model = task_of(recipe).model_class.from_preset(str(preset))
    draw_one = {"vision": _regions, "text": _letters, "pairs": _drawings}
    return png(draw_one[recipe.task](model))


def png(figure) -> bytes:
    """A figure as a PNG, equal ones as equal bytes."""
    file = io.BytesIO()
    # Without the version that drew it.
    figure.savefig(file, format="png", dpi=100, metadata={"Software": None})
    return file.getvalue()


def _regions(classifier):
    """Sample images and the regions that slots of the last mixture read."""
    images, labels, classes = samples.fashion_mnist()
    shown = [np.flatnonzero(labels == k)[0] for k in CLASSES]
    ready = classifier.preprocessor(images[shown])
    plans = _plans(classifier.backbone, ready)
    return visualize.slot_regions(
        images[shown],
        list(plans.values())[-1],
        classifier.backbone.grid,
        titles=[classes[k] for k in CLASSES],
    )


def _letters(model):
    """The expert of each letter of a line, for each layer with a mixture."""
    from matplotlib.figure import Figure

    if model.backbone.router == "mixture_of_tokens":
        model.inference_mixing = "argmax"
    ids = np.asarray([list(LINE.encode())], "int32")
    ready = {"token_ids": ids, "padding_mask": ids * 0 + 1}
    plans = _plans(model.backbone, ready)
    experts = []
    for plan in plans.values():
        # (tokens,1,E,1) where each token stands alone, else (1,tokens,E,·)
        _, received = plan.weights()
        received = keras.ops.convert_to_numpy(received).sum(-1)
        count = received.shape[-1]
        experts.append(received.reshape(-1, count).argmax(-1))
    experts = np.stack(experts)  # (layers,tokens)
    # (layers,tokens,3); the busiest experts of each layer have a colour.
    colours = [expert_colours(row, count)[0][row] for row in experts]
    figure = Figure(figsize=(0.24 * len(LINE) + 1, 0.5 * len(experts) + 0.8))
    axis = figure.subplots()
    axis.imshow(np.stack(colours))
    axis.set_aspect("auto")
    axis.set_xticks(range(len(LINE)), LINE, family="monospace")
    layers = [path.split("/")[0] for path in plans]
    axis.set_yticks(range(len(layers)), layers)
    for (row, column), expert in np.ndenumerate(experts):
        axis.text(column, row, expert, ha="center", va="center", fontsize=6)
    axis.set_title(f"number of the expert, of {count}", fontsize=8)
    figure.tight_layout()
    return figure


def _drawings(model):
    """Sample drawings and the regions that slots of the last mixture read."""
    images, _, names = samples.emoji()
    shown = [names.index(name) for name in DRAWINGS]
    tower = model.backbone.image_tower
    ready = model.preprocessor({"images": images[shown]})["images"]
    return visualize.slot_regions(
        images[shown],
        list(_plans(tower, ready).values())[-1],
        tower.grid,
        titles=list(DRAWINGS),
    )


def _plans(backbone, inputs):
    with diagnostics.capture() as plans:
        backbone(inputs, training=False)
    return plans
