"""One page about what the routers of a model do with a batch."""

import base64
import html
import io
import os
import sys

import keras

from keras_moe import checks
from keras_moe import diagnostics
from keras_moe import plan_arrays
from keras_moe.visualize import arguments
from keras_moe.visualize import experts
from keras_moe.visualize import images as of_images
from keras_moe.visualize import texts as of_texts

ROWS = 8  # images or texts that are shown
LENGTH = 48  # tokens of a text that are shown
READABLE = {"<|endoftext|>": "·"}
PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #222; margin: 2rem auto;
  max-width: 70rem; padding: 0 1rem; }}
h1, h2 {{ line-height: 1.2; }}
h2 {{ border-top: 1px solid #ccc; margin-top: 2.5rem; padding-top: 1.5rem;
  overflow-wrap: anywhere; }}
table {{ border-collapse: collapse; }}
td, th {{ border-bottom: 1px solid #ddd; padding: .2rem .8rem;
  text-align: left; }}
figure {{ margin: 1rem 0; overflow-x: auto; }}
figure.small {{ display: inline-block; max-width: 100%; }}
figcaption {{ color: #555; font-size: .9rem; }}
img {{ max-width: 100%; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{summary}</p>
{sections}
</body>
</html>
"""
EXPLANATIONS = {
    "experts": "number of experts",
    "largest load": "largest share of an expert, times the experts; 1 is even",
    "dropped": "share of the tokens that no expert serves",
    "entropy": "how evenly a token spreads over experts; 0 one, 1 all alike",
    "similarity": "cosine between what two slots or experts read; 1 the same",
}


def report(model, batch, path: str | os.PathLike = "report.html"):
    """Write a page of pictures of what each router does with a batch.

    For every keras_moe layer that runs: its numbers (`summarize`), the load of
    the experts and how alike they read; of an image classifier of this package
    also which patches experts and slots read and, of a language model, which
    tokens share experts. The page holds its pictures itself and loads nothing.

    Args:
        model: a Keras model. `MoEViTImageClassifier`, `MoTCausalLM` and
            `MoTMaskedLM` preprocess the batch themselves.
        batch: what the model takes: raw images (n,H,W,channels) from 0 to 255
            for a classifier, a list of texts for a language model, else
            inputs for one eager call of the model.
        path: path of the page, which is written whole or not at all.

    Returns:
        The path.

    Raises:
        ValueError: if an argument is not of its kind, the model lacks a
            preprocessor that the batch needs, or no layer of this package
            runs in it.

    Example:

    >>> import keras, keras_moe
    >>> model = keras.Sequential(
    ...     [keras_moe.layers.SoftMoE(4, 1, intermediate_dim=8, name="moe")])
    >>> page = keras_moe.visualize.report(
    ...     model, keras.random.normal((2, 6, 3)), "routers.html")
    >>> "expert" in page.read_text(encoding="utf-8")
    True
    >>> page.unlink()
    """
    path = arguments.page_path(path)
    if not isinstance(model, keras.layers.Layer):
        raise ValueError(
            f"model must be a Keras model; received {type(model).__name__}."
        )
    ready_made, number, run, draw = _kind(model, batch)
    with diagnostics.collect() as plans:
        run()
    if not plans:
        raise ValueError(
            f"report found no keras_moe layer in the model {model.name!r}."
        )
    sections = "\n".join(
        _section(name, plan, draw(plans.layers[name], plan))
        for name, plan in plans.items()
    )
    title = f"Routers of {model.name}"
    if ready_made:
        title = f"Routers of {type(model).__name__}"
    page = PAGE.format(
        title=html.escape(title),
        summary=html.escape(
            f"{len(plans)} layer{'s' if len(plans) > 1 else ''}, computed on "
            f"{keras.backend.backend()} in one call of a batch of "
            f"{number}."
        ),
        sections=sections,
    )
    _write(path, page)
    return path


def _write(path, page):
    """Write the page whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(page, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _kind(model, batch):
    """Functions that `report` calls with a model and a batch.

    Returns whether the model is of this package, how many examples the batch
    has, how to run it, and what to draw: a function of a layer and its plan,
    beside what all get.
    """
    # A model of keras_moe.models exists only where that was imported; this
    # module is for users without KerasHub, too.
    models = sys.modules.get("keras_moe.models")
    if models is not None and isinstance(model, models.MoEViTImageClassifier):
        return True, *_image_kind(model, batch)
    if models is not None and isinstance(
        model, (models.MoTCausalLM, models.MoTMaskedLM)
    ):
        return True, *_text_kind(model, batch)
    checks.batch("batch", batch)
    number = keras.tree.flatten(batch)[0].shape[0]

    def run():
        model(batch, training=False)

    return False, number, run, lambda layer, plan: ()


def _image_kind(classifier, batch):
    backbone = classifier.backbone
    first = backbone.data_format == "channels_first"
    channels = backbone.image_shape[0 if first else -1]
    batch = arguments.images(batch, channels)
    ready = arguments.preprocessor(classifier)(batch)

    of_some = _of_some_tokens(backbone)

    def draw(layer, plan):
        if id(layer) in of_some:
            yield (
                "It reads only tokens that pass; no image is shown.",
                None,
            )
            return
        plan = _first(plan, len(batch))
        if plan is None:
            yield "Its groups are not the images, so no image is shown.", None
            return
        if batch.shape[-1] not in (1, 3):
            yield "Images of one or three channels would be shown here.", None
            return
        shown = batch[:ROWS], plan, backbone.grid
        yield (
            "Where the slots of each expert look, most used expert first",
            of_images.expert_regions(*shown),
        )
        if plan_arrays.kind(plan).hard or plan.slots.shape[2] > 1:
            yield (
                "What single slots read, most used slot first",
                of_images.slot_regions(*shown),
            )
        yield "How much of each patch is read", of_images.token_weights(*shown)

    return len(batch), lambda: backbone(ready, training=False), draw


def _text_kind(task, batch):
    preprocessor = arguments.preprocessor(task)
    batch = arguments.texts(batch)
    limit = min(LENGTH, preprocessor.sequence_length)
    if isinstance(task, sys.modules["keras_moe.models"].MoTCausalLM):
        inputs = preprocessor.generate_preprocess(batch, sequence_length=limit)
    else:
        inputs, _, _ = preprocessor(batch)
    inputs = {
        name: keras.ops.convert_to_numpy(inputs[name])[:, :limit]
        for name in ("token_ids", "padding_mask")
    }
    longest = int(inputs["padding_mask"].sum(axis=1).max())
    if longest == 0:
        raise ValueError(
            f"batch must hold a text with a token; {checks.received(batch)}."
        )
    inputs = {name: array[:, :longest] for name, array in inputs.items()}
    tokenizer = preprocessor.tokenizer
    tokens = [
        [tokenizer.id_to_token(number) for number in row]
        for row in inputs["token_ids"].tolist()
    ]
    shown = [
        [READABLE.get(t, t.replace("Ġ", " ").replace("Ċ", "\n")) for t in row]
        for row in tokens
    ]

    of_some = _of_some_tokens(task.backbone)

    def draw(layer, plan):
        if id(layer) in of_some:
            yield "It reads only tokens that pass; no text is shown.", None
            return
        yield (
            "Tokens of one colour get most from the same expert",
            of_texts.token_experts(shown, layer, plan),
        )

    return len(batch), lambda: task.backbone(inputs, training=False), draw


def _of_some_tokens(backbone):
    """Ids of the layers in blocks that some tokens skip."""
    return {id(backbone.blocks[index].mlp) for index in backbone.depth_layers}


def _first(plan, number):
    """The plan of the first rows, `None` if groups are not `number` rows."""
    groups = next(iter(plan_arrays.group_arrays(plan).values())).shape[0]
    return plan_arrays.first_groups(plan, ROWS) if groups == number else None


def _section(name, plan, pictures):
    facts = diagnostics.summarize(plan)
    load = facts.pop("load")
    numbers = {
        "experts": f"{len(load)}",
        "largest load": f"{load.max() * len(load):.2f}",
        **{key: f"{value:.3f}" for key, value in facts.items()},
    }
    rows = "".join(
        f"<tr><th>{key}</th><td>{value}</td><td>{EXPLANATIONS[key]}</td></tr>"
        for key, value in numbers.items()
    )
    small = [
        ("What each expert carries", experts.expert_load(plan)),
        ("How alike experts read", experts.expert_similarity(plan)),
    ]
    figures = [
        *(_figure(*one, "small") for one in small),
        *(_figure(*one, "wide") for one in pictures),
    ]
    body = "\n".join(figures)
    return f"<h2>{html.escape(name)}</h2>\n<table>{rows}</table>\n{body}"


def _figure(caption, figure, kind):
    if figure is None:
        return f"<p>{html.escape(caption)}</p>"
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110)
    source = base64.b64encode(data.getvalue()).decode()
    text = html.escape(caption)
    return (
        f'<figure class="{kind}"><img alt="{text}" '
        f'src="data:image/png;base64,{source}">'
        f"<figcaption>{text}</figcaption></figure>"
    )
