"""Recipes of presets: one flat, frozen record each."""

import dataclasses
import importlib
import pkgutil

from zoo import recipes


class RecipeError(ValueError):
    """A recipe that does not exist."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Recipe of a model's training, whatever its task.

    Args:
        name: of the preset.
        title: one line for tables and cards.
        data: name of the data set, a key of `zoo.data.datasets.DATASETS`.
        backbone: arguments of the backbone.
        epochs: number of epochs.
        batch_size: examples of a step.
        learning_rate: peak of a linear warm-up and a cosine down to zero.
        warmup: the share of the steps that warms up.
        weight_decay: of AdamW.
        twin: name of the recipe this one is compared with.
        further: arguments that `python -m zoo further` replaces.
    """

    name: str
    title: str
    data: str
    backbone: dict
    epochs: int
    batch_size: int
    learning_rate: float
    warmup: float = 0.05
    weight_decay: float = 0.05
    twin: str | None = None
    further: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageRecipe(Recipe):
    """Recipe of an image classifier; an epoch is all images.

    Args:
        classifier: arguments of `MoEViTImageClassifier` beside those of the
            backbone, the preprocessor and the number of classes.
        label_smoothing: share of each label spread over all classes.
        flip: whether images are mirrored, half of the time.
        shift: most pixels that an image is moved by, each way.
        erase: probability that a rectangle of an image is blanked.
        initial_scale: what the `scale` of every `SoftMoE` starts from. From 1
            it hardly moves in a short training, and all slots go on reading
            the mean of the image.
    """

    task = "vision"

    classifier: dict
    label_smoothing: float = 0.1
    flip: bool = True
    shift: int = 2
    erase: float = 0.25
    initial_scale: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextRecipe(Recipe):
    """Recipe of a language model of bytes.

    Args:
        sequence_length: bytes of an example.
        steps_per_epoch: each step reads examples from anywhere in the text.
    """

    task = "text"

    sequence_length: int
    steps_per_epoch: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairRecipe(Recipe):
    """Recipe of two towers, of drawings and of their names.

    `backbone` has the arguments of the image tower.

    Args:
        text: arguments of `TextTransformerBackbone` beside the sizes that the
            captions give.
        towers: arguments of `MoETwoTowerBackbone` beside the towers.
        loss: `"softmax"` or `"sigmoid"`.
        sequence_length: tokens of a caption.
        vocabulary_size: most words that captions have.
        steps_per_epoch: each step reads drawings from anywhere in the data.
        tagged: share of the captions that have tags of their drawing, beside
            its name or in its place.
        phrased: share of the captions that begin with words such as "a picture
            of a".
        shift: most pixels that a drawing is moved by, each way.
        turn: most degrees that it is turned by.
        zoom: how much larger or smaller it becomes at most, as a share.
        colour: spread of the changes of its colours.
        initial_scale: what the `scale` of every `SoftMoE` starts from.
    """

    task = "pairs"

    text: dict
    towers: dict
    loss: str = "softmax"
    sequence_length: int = 12
    vocabulary_size: int = 8192
    steps_per_epoch: int
    tagged: float = 0.3
    phrased: float = 0.0
    shift: float = 2.0
    turn: float = 8.0
    zoom: float = 0.1
    colour: float = 0.1
    initial_scale: float = 1.0


def dense_twin(recipe: Recipe, name: str, title: str, mlp_dim: int) -> Recipe:
    """The same recipe for a model without routers, of other MLPs."""
    routed = ("router", "moe_layers", "router_options")
    arguments = {k: v for k, v in recipe.backbone.items() if k not in routed}
    return dataclasses.replace(
        recipe,
        name=name,
        title=title,
        backbone={**arguments, "mlp_dim": mlp_dim},
        twin=None,
    )


def expert_choice(recipe: Recipe, name: str, title: str) -> Recipe:
    """The recipe of a Soft MoE with Expert Choice, a slot for each token."""
    experts = recipe.backbone["router_options"]["num_experts"]
    return dataclasses.replace(
        recipe,
        name=name,
        title=title,
        backbone={
            **recipe.backbone,
            "router": "expert_choice",
            # round(tokens / experts) capacity slots for each expert.
            "router_options": {"num_experts": experts, "capacity_factor": 1.0},
        },
        initial_scale=1.0,  # there is no scale to start
    )


def names() -> list[str]:
    """Names of all recipes."""
    found = pkgutil.iter_modules(recipes.__path__)
    return sorted(m.name for m in found if not m.name.startswith("_"))


def load(name: str) -> Recipe:
    """The recipe called `name`."""
    if name not in names():
        raise RecipeError(
            f"NAME must be one of {', '.join(names())}; received {name!r}."
        )
    return importlib.import_module(f"zoo.recipes.{name}").RECIPE
