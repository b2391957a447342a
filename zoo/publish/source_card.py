"""Cards of presets that were converted, from the record of the conversion."""

import pathlib

from keras_moe import files
from keras_moe.models import MoEViTImageClassifier
from keras_moe.models import MoTCausalLM
from keras_moe.models.presets import hub
from zoo.errors import PublishError
from zoo.publish import card as cards
from zoo.publish.build import RECORD
from zoo.publish.build import parameters_of
from zoo.publish.papers import PAPERS

TEMPLATE = pathlib.Path(__file__).parent / "source_card.md"
# By format: class, what the Hub calls the task, and the router.
KINDS = {
    "mot": (MoTCausalLM, "text-generation", "mixture_of_tokens"),
    "vmoe": (MoEViTImageClassifier, "image-classification", "token_choice"),
}


def record_of(source, folder) -> dict:
    """The record of a conversion.

    Raises:
        PublishError: where source or licence are not on record, or the preset
            is another one.
    """
    path = pathlib.Path(folder) / RECORD
    if not path.is_file():
        raise PublishError(
            f"{folder} has no {RECORD}, the record of a conversion; make the "
            f"preset with `python -m zoo build {source.name}`."
        )
    record = files.read_json(path, error=PublishError)
    for key, expected in (
        ("address", source.address),
        ("licence", source.licence),
    ):
        if record.get(key) != expected:
            raise PublishError(
                f"{key} in {path} must be {expected!r}; it is "
                f"{record.get(key)!r}."
            )
    parameters = parameters_of(folder)
    if parameters != source.parameters:
        raise PublishError(
            f"{folder} must have {source.parameters:,} parameters; it has "
            f"{parameters:,}."
        )
    return record


def render(source, folder, repo: str) -> str:
    """The card of a converted preset.

    Args:
        source: a `zoo.publish.sources.Source`.
        folder: of the preset, as `zoo.publish.build` writes it.
        repo: `"organisation/name"` on the Hub.
    """
    from huggingface_hub import ModelCard
    from huggingface_hub import ModelCardData

    record = record_of(source, folder)
    model, pipeline, router = KINDS[source.format]
    on_hub = source.address.startswith(hub.SCHEME)
    metadata = ModelCardData(
        license=source.licence,
        library_name=cards.LIBRARY,
        pipeline_tag=pipeline,
        base_model=(
            source.address.removeprefix(hub.SCHEME) if on_hub else None
        ),
        tags=["keras", "keras_moe", "mixture-of-experts"],
        model_name=source.name,
    )
    card = ModelCard.from_template(
        metadata,
        template_path=str(TEMPLATE),
        source=source,
        parameters=f"{source.parameters:,}",
        revision=record.get("revision"),
        class_name=model.__name__,
        base=cards.base_of(model),
        handle=cards.handle_of(source, repo),
        arrays=record["arrays"],
        files=record["files"],
        batch_mates=cards.BATCH_MATES if source.format == "mot" else None,
        paper=PAPERS[router],
    )
    return card.content
