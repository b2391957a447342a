"""Model cards, from a recipe and what was measured: never typed by hand."""

import dataclasses
import pathlib

from keras_moe.models.presets import hub
from zoo.data import datasets
from zoo.measure import results
from zoo.publish import picture
from zoo.publish.papers import PAPERS
from zoo.tasks import task_of

TEMPLATE = pathlib.Path(__file__).parent / "card.md"
LICENCE = "apache-2.0"  # of weights trained here
# What `library_name` and its snippet on the Hub go by: the files are those of
# KerasHub's presets.
LIBRARY = "keras-hub"
DATA_TITLES = {
    "fashion_mnist": "Fashion-MNIST",
    "shakespeare": "Shakespeare's plays",
    "domains": "text of seven domains in five languages",
    "emoji": "emoji of four styles and their names",
}
PIPELINES = {
    "vision": "image-classification",
    "text": "text-generation",
    "pairs": "zero-shot-image-classification",
}
# Of the data; that of images needs none.
LANGUAGES = {
    "shakespeare": "en",
    "emoji": "en",
    "domains": ["en", "de", "fr", "es", "ja"],
}
UNITS = {"vision": "images", "text": "bytes", "pairs": "drawings"}
EXAMPLES = {
    "vision": (
        "# images (batch, {0}, {1}, {2}), pixels from 0 to 255\n"
        "print(model.classify(images, top_k=3))  # names and probabilities"
    ),
    "text": 'print(model.generate("To be, or ", max_length=64))',
    "pairs": (
        "# images (batch, {0}, {1}, {2}), pixels from 0 to 255\n"
        'indices, scores = model.search(images, "a red fruit", k=5)'
    ),
}
LIMITS = {
    "vision": (
        "It knows the classes of its data set and no others, and images of "
        "{0}x{1} pixels that look like those of it.",
    ),
    "text": (
        "It reads and writes bytes of plain text, {0} at a time, and "
        "writes in the manner of what it was trained on; nothing in it is "
        "true.",
    ),
    "pairs": (
        "It knows drawings like emoji, in {0}x{1} pixels on white, and the "
        "words of their names and tags. It does not know photographs, and "
        "reads a caption as its words with hardly any grammar. A phrase such "
        'as "a picture of a" may stand before a name.',
    ),
}
# What is to be known of the data, beside it.
DATA_LIMITS = {
    "emoji": "The drawings that it was trained on are under several licences; "
    "those of OpenMoji are under CC BY-SA 4.0.",
    "domains": "The texts that it was trained on are under several licences. "
    "The dictionary and most manual pages are under the GNU GPL. The model can "
    "repeat phrases from these texts.",
}
# Titles of what further training changes in a recipe.
CHANGES = {"phrased": "share of captions that begin with a phrase"}
BATCH_MATES = (
    "**An example's output depends on its batch-mates** where "
    '`inference_mixing` is `"group"`, as in training: the same text beside '
    'others goes on differently. `"self"` and `"argmax"` do without; set '
    "`model.inference_mixing`."
)
SETTINGS = (
    "batch_size",
    "learning_rate",
    "warmup",
    "weight_decay",
)


def handle_of(recipe, repo=None) -> str:
    """Name or handle of the preset for `from_preset`."""
    return recipe.name if repo is None else f"{hub.SCHEME}{repo}"


def base_of(model) -> str:
    """The class of KerasHub that loads a published preset of `model`, too."""
    return model.__bases__[-1].__name__


def render(recipe, record, repo=None, mixing=None, twin=None) -> str:
    """The card of a preset.

    Args:
        recipe: what was trained.
        record: its recorded results, see `zoo.measure.results`.
        repo: `"organisation/name"` on the Hub, or `None`.
        mixing: what `zoo.measure.mixing.compare` measured, or `None`.
        twin: recorded results of the recipe's twin, or `None`.

    Raises:
        ResultError: where nothing is recorded of a preset.
    """
    from huggingface_hub import EvalResult
    from huggingface_hub import ModelCard
    from huggingface_hub import ModelCardData

    preset = preset_of(recipe, record)
    task = task_of(recipe)
    figure = preset[task.metric]
    pipeline = PIPELINES[recipe.task]
    router = recipe.backbone.get("router")
    metadata = ModelCardData(
        license=LICENCE,
        library_name=LIBRARY,
        pipeline_tag=pipeline,
        language=LANGUAGES.get(recipe.data),
        tags=["keras", "keras_moe", "mixture-of-experts"],
        datasets=[recipe.data],
        metrics=[task.metric],
        model_name=recipe.name,
        eval_results=[
            EvalResult(
                task_type=pipeline,
                dataset_type=recipe.data,
                dataset_name=DATA_TITLES[recipe.data],
                dataset_split="test",
                metric_type=task.metric,
                metric_name=task.metric_title,
                metric_value=round(figure, 6),
            )
        ],
    )
    sizes = recipe.backbone.get("image_shape") or (
        getattr(recipe, "sequence_length", None),
    )
    limits = [limit.format(*sizes) for limit in LIMITS[recipe.task]]
    if recipe.data in DATA_LIMITS:
        limits.append(DATA_LIMITS[recipe.data])
    if router == "mixture_of_tokens":
        limits.append(BATCH_MATES)
    card = ModelCard.from_template(
        metadata,
        template_path=str(TEMPLATE),
        recipe=recipe,
        parameters=f"{record['parameters']:,}",
        megabytes=f"{preset['bytes'] / 1e6:.1f}",
        data_title=DATA_TITLES[recipe.data],
        examples=_examples(recipe, record),
        metric=task.metric_title,
        rows=_rows(recipe, record, preset, task, twin),
        more=[
            (title, f"{preset[name]:.4f}")
            for name, title in task.more_metrics.items()
        ],
        class_name=task.model_class.__name__,
        base=base_of(task.model_class) if repo else None,
        handle=handle_of(recipe, repo),
        example=EXAMPLES[recipe.task].format(*sizes),
        seed=preset["seed"],
        further=preset.get("further"),
        settings=_settings(recipe, record, preset),
        limits=limits,
        picture=picture.NAME,
        caption=picture.caption_of(recipe),
        mixing=mixing,
        licence=LICENCE,
        data_licence=datasets.LICENCES[recipe.data],
        paper=PAPERS.get(router),
        class_names=datasets.CLASSES.get(recipe.data),
    )
    return card.content


def preset_of(recipe, record) -> dict:
    """Record of the preset that ships, and its origin.

    Raises:
        ResultError: where a measurement, the training or a licence lacks.
    """
    if not record or not record.get("preset"):
        raise results.ResultError(
            f"nothing is recorded of a preset of {recipe.name}; train, "
            f"evaluate and pack it first (python -m zoo pack {recipe.name})."
        )
    preset = record["preset"]
    if not record["training"].get(str(preset["seed"])):
        raise results.ResultError(
            f"nothing is recorded of the training of seed {preset['seed']} of "
            f"{recipe.name}, from which its preset comes."
        )
    if recipe.data not in datasets.LICENCES:
        raise results.ResultError(
            f"the licence of {recipe.data}, the data of {recipe.name}, is not "
            "known; state it in zoo.data.datasets.LICENCES."
        )
    return preset


def recorded_mixing(recipe) -> dict | None:
    """Measurements of each `inference_mixing`, `None` if there are none."""
    return results.load(f"mixing_{recipe.name}")


def of(recipe, repo=None) -> str:
    """The card of a recipe from everything that is on record."""
    return render(
        recipe,
        results.load(recipe.name),
        repo,
        recorded_mixing(recipe),
        results.load(recipe.twin) if recipe.twin else None,
    )


def spread(record, of="") -> str:
    """Mean and standard deviation of the seeds of a record.

    `of` is what its keys start with.
    """
    text = f"{record[of + 'mean']:.4f}"
    if record[of + "standard_deviation"] is not None:
        text += f" ± {record[of + 'standard_deviation']:.4f}"
    return text


def _examples(recipe, record):
    return f"{record['test_examples']:,} {UNITS[recipe.task]}"


def _rows(recipe, record, preset, task, twin):
    seeds = len(record["seeds"])
    plural = "s" if seeds > 1 else ""
    tuned = str(preset.get("of", "")).partition("tuned-")[2]
    kind = f", tuned for `{tuned}`" if tuned else ""
    kind = ", trained further" if preset.get("further") else kind
    yield f"this preset, in half precision{kind}", f"{preset[task.metric]:.4f}"
    yield f"{seeds} trained model{plural}, in float32", spread(record)
    if twin:
        yield f"`{recipe.twin}`, its dense twin", spread(twin)


def _settings(recipe, record, preset):
    training = record["training"][str(preset["seed"])]
    # Of the run, which may have been told another number than the recipe's.
    yield "epochs", training["epochs"]
    if "steps" in training:  # not in the first records
        yield "steps", f"{training['steps']:,}"
    values = dataclasses.asdict(recipe)
    for name in SETTINGS:
        yield name.replace("_", " "), values[name]
    seconds = training["seconds"]
    if further := preset.get("further"):
        yield "further epochs", further["epochs"]
        yield "their learning rate", further["learning_rate"]
        for name, value in further.get("changes", {}).items():
            yield f"their {CHANGES.get(name, name)}", value
        seconds += further["seconds"]
    yield "time", f"{seconds / 60:.0f} minutes"
    yield "backend", training["backend"]
    yield "Keras", training["keras"]
    yield "keras_moe", training["keras_moe"]
