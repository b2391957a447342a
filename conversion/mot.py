"""Repositories in the `mot` format of the Hugging Face Hub, into presets."""

import pathlib

from conversion import language
from conversion import streaming
from conversion import verify as verification
from conversion.errors import ConversionError
from keras_moe import files
from keras_moe.models import MoTCausalLM
from keras_moe.models.checkpoints import mot
from keras_moe.models.presets import finding
from keras_moe.models.presets import hub
from keras_moe.models.presets import manifest

TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer.json")


def convert_mot(
    source,
    out,
    *,
    verify=None,
    tolerance=2e-4,
    licence="not stated",
    say=print,
):
    """Convert a model in the `mot` format into a preset for `MoTCausalLM`.

    Args:
        source: a folder, or `"hf://organisation/name"` with `"@revision"`
            behind it if wanted.
        out: the preset's folder; see `save_to_preset`.
        verify: .npz file to compare with, see `verify.compare_texts`.
        tolerance: of that comparison.
        licence: of the checkpoint, for the record.
        say: gets a line of text for each thing deduced.

    Raises:
        ConversionError: when anything does not fit; nothing is written then.
    """
    out = streaming.check_out(out)
    verification.check(verify)
    folder = fetch(source)
    with files.about(folder, ConversionError):
        _convert(source, folder, out, verify, tolerance, licence, say)


def _convert(source, folder, out, verify, tolerance, licence, say):
    checkpoint = mot.MoTCheckpoint(folder)
    preprocessor = MoTCausalLM.published_preprocessor(
        folder, checkpoint.backbone
    )
    for name, value in checkpoint.backbone.items():
        say(f"{name}: {value}")
    if checkpoint.left_out:
        names = ", ".join(checkpoint.left_out)
        say(f"left out, no weights of their own: {names}")
    if preprocessor is None:
        say("tokenizer: none in the source; the preset reads token ids")
    else:
        size = preprocessor.tokenizer.vocabulary_size()
        say(f"tokenizer: byte pairs, {size} tokens")
    record = {
        "source": str(source) if _on_hub(source) else folder.name,
        "revision": _revision(folder) if _on_hub(source) else None,
        "files": {
            file.name: manifest.digest(file)
            for file in _files(folder, checkpoint)
        },
        "options": {},
        "deduced": checkpoint.backbone,
        "left_out": checkpoint.left_out,
        "arrays": len(checkpoint.shapes()),
        "licence": licence,
    }
    language.write(
        out,
        checkpoint.backbone,
        checkpoint.sources,
        checkpoint,
        record,
        preprocessor=preprocessor,
        verify=verify,
        tolerance=tolerance,
        say=say,
    )


def fetch(source) -> pathlib.Path:
    """The folder of a source, downloaded if it is a repository of the Hub."""
    if not _on_hub(source):
        if not pathlib.Path(source).is_dir():
            raise ConversionError(
                "SOURCE must be a folder or a repository such as "
                f"'hf://organisation/name'; {str(source)!r} is neither."
            )
        return pathlib.Path(source).absolute()
    try:
        return pathlib.Path(finding.resolve(source))
    except (OSError, ValueError) as error:
        raise ConversionError(f"{source} cannot be fetched: {error}") from error


def _on_hub(source):
    return str(source).startswith(hub.SCHEME)


def _revision(folder):
    """The commit of a download, which the Hub's cache names its folder by."""
    return folder.name if folder.parent.name == "snapshots" else None


def _files(folder, checkpoint):
    others = (folder / name for name in ("config.json", *TOKENIZER_FILES))
    return [*(f for f in others if f.is_file()), *checkpoint.files.files]
