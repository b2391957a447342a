"""One page about what the routers of a model do with a batch."""

import base64
import dataclasses
import html
import io
import os
import pathlib
import sys

import keras
import numpy as np

from keras_moe import diagnostics
from keras_moe.plans import HardPlan
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
        path: of the page, which is written whole or not at all.

    Returns:
        The path.

    Raises:
        ValueError: if no layer of this package runs in the model.

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
    path = pathlib.Path(path)
    ready_made, run, draw = _kind(model, batch)
    with diagnostics.capture() as plans:
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
            f"{_size(batch)}."
        ),
        sections=sections,
    )
    part = path.with_name(f".{path.name}.part")
    part.write_text(page, encoding="utf-8")
    part.replace(path)
    return path


def _size(batch):
    """How many examples a batch has, of one array or a structure of them."""
    if isinstance(batch, (list, tuple)) and isinstance(batch[0], str):
        return len(batch)
    return keras.tree.flatten(batch)[0].shape[0]


def _kind(model, batch):
    """Whether it is a model of this package, how to run it, what to draw.

    The last is a function of a layer and its plan, beside what all get.
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
    return False, lambda: model(batch, training=False), lambda layer, plan: ()


def _image_kind(classifier, batch):
    backbone = classifier.backbone
    batch = np.asarray(batch)
    ready = classifier.preprocessor(batch)

    def draw(layer, plan):
        plan = _first(plan, len(batch))
        if plan is None:
            yield "Its groups are not the images, so no image is shown.", None
            return
        shown = batch[:ROWS], plan, backbone.grid
        yield (
            "Where the slots of each expert look, most used expert first",
            of_images.expert_regions(*shown),
        )
        if layer.plan_kind == "hard" or layer.slots_per_expert > 1:
            yield (
                "What single slots read, most used slot first",
                of_images.slot_regions(*shown),
            )
        yield "How much of each patch is read", of_images.token_weights(*shown)

    return lambda: backbone(ready, training=False), draw


def _text_kind(task, batch):
    preprocessor = task.preprocessor
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

    def draw(layer, plan):
        yield (
            "Tokens of one colour get most from the same expert",
            of_texts.token_experts(shown, layer, plan),
        )

    return lambda: task.backbone(inputs, training=False), draw


def _first(plan, number):
    """The plan of the first rows, `None` if groups are not `number` rows."""
    names = ("tokens", "noise", "mask")
    if isinstance(plan, HardPlan):
        names = ("token", "gate", "mask")
    arrays = {name: getattr(plan, name) for name in names}
    if arrays[names[0]].shape[0] != number:
        return None
    rows = {k: None if a is None else a[:ROWS] for k, a in arrays.items()}
    return dataclasses.replace(plan, **rows)


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
