"""Presets from others' checkpoints: fetched, converted, counted."""

import pathlib

from conversion.errors import ConversionError
from keras_moe import files
from keras_moe.addresses import harmless
from keras_moe.addresses import redact
from keras_moe.models.checkpoints import weight_files
from keras_moe.models.presets import folders
from keras_moe.models.presets import hub
from keras_moe.models.presets import manifest

RECORD = "conversion.json"
# So that a store that cannot be reached is an error soon.
RETRIES = {"gcs_request_retries": {"max_retries": 3}}


def build(source, out, say=print) -> None:
    """Fetch a published checkpoint and make a preset of it.

    Args:
        source: a `zoo.publish.sources.Source`.
        out: the preset's folder; see `save_to_preset`.
        say: gets a line of text for each thing found.

    Raises:
        ConversionError: where something cannot be fetched or does not fit;
            nothing is written then.
    """
    out = pathlib.Path(out)
    folders.check_target(out)
    with folders.replacing(out) as part:
        _convert(source, part, say)
        parameters = parameters_of(part)
        if parameters != source.parameters:
            raise ConversionError(
                f"{source.name} must have {source.parameters:,} parameters; "
                f"{source.address} has {parameters:,}."
            )
        record = files.read_json(part / RECORD)
        manifest.write_json(
            part / RECORD, {**record, "address": source.address}
        )
        manifest.write_manifest(part)
    say(f"{out}: {parameters:,} parameters, from {source.address}")


def parameters_of(folder) -> int:
    """Count the numbers in the weight files of a preset."""
    files = pathlib.Path(folder).glob("*.weights.h5")
    return sum(sum(weight_files.weight_sizes(path)) for path in files)


def _convert(source, part, say):
    if source.format == "mot":
        from conversion.mot import convert_mot

        convert_mot(source.address, part, licence=source.licence, say=say)
        return
    from conversion.convert import convert_vmoe
    from conversion.vmoe import Options

    convert_vmoe(
        download(source.address, part.parent),
        part,
        Options(**source.options),
        licence=source.licence,
        say=say,
    )


def download(address: str, folder) -> pathlib.Path:
    """Fetch the files of a checkpoint; returns their common prefix here.

    Args:
        address: of the files without `.index` and `.data-…`, in any store of
            tensorstore.
        folder: to write to.
    """
    import tensorstore

    if address.startswith(hub.SCHEME):
        raise ConversionError(f"{address} is no prefix of files.")
    base, _, prefix = address.rpartition("/")
    # "/" is the character after ".".
    names = tensorstore.KvStore.KeyRange(f"{prefix}.", f"{prefix}/")
    try:
        store = tensorstore.KvStore.open(
            f"{base}/", context=tensorstore.Context(RETRIES)
        ).result()
        keys = [key.decode() for key in store.list(names).result()]
        for key in keys:
            (
                pathlib.Path(folder) / pathlib.PurePosixPath(key).name
            ).write_bytes(store[key])
    except Exception as error:
        # A class of its own for each of the store's reasons.
        raise ConversionError(
            redact(f"{address} cannot be fetched: {error}")
        ) from harmless(error)
    if not keys:
        raise ConversionError(f"{address} has no files.")
    return pathlib.Path(folder) / prefix
