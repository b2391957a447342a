"""The preset of a run as it ships: half precision, equally good."""

import pathlib
import zlib

from keras_moe import files
from keras_moe.models.presets import catalogue
from keras_moe.models.presets import folders
from zoo.errors import ResultError
from zoo.measure.evaluate import evaluate
from zoo.tasks import task_of
from zoo.training.runs import FURTHER
from zoo.training.runs import PRESET
from zoo.training.runs import preset_of

# Bytes of all presets in the wheel, which compresses its files. It may have
# 15 MB in all, and holds code and samples, too.
LIMIT = 14.2e6


def pack(
    recipe,
    run,
    data_folder=None,
    target=catalogue.FOLDER,
    preset=PRESET,
    mixing=None,
):
    """Put the preset of a run into the package, in half precision.

    Args:
        recipe: what was trained.
        run: folder of the run, trained and evaluated.
        data_folder: where the data set lies, see `zoo.data.datasets`.
        target: folder of the presets that ship.
        preset: which folder of the run holds it.
        mixing: `inference_mixing` that it is to have, of a Mixture of Tokens.

    Returns:
        What was measured of the written preset.

    Raises:
        ResultError: where half precision makes it worse, or the presets
            would take too much of the wheel; nothing is written then.
    """
    task = task_of(recipe)
    run, target = pathlib.Path(run), pathlib.Path(target)
    source = preset_of(recipe, run, preset)
    whole = evaluate(recipe, source, data_folder, mixing=mixing)
    with folders.replacing(target / recipe.name) as part:
        half = task.model_class.from_preset(str(source), dtype="float16")
        if mixing is not None:
            half.inference_mixing = mixing
        half.save_to_preset(part)
        packed = evaluate(recipe, part, data_folder)
        loss = whole[task.metric] - packed[task.metric]
        loss = loss if task.higher_is_better else -loss
        if loss > task.tolerance:
            raise ResultError(
                f"{recipe.name} in half precision has {task.metric_title} "
                f"{packed[task.metric]:.5f}, with all bits "
                f"{whole[task.metric]:.5f}."
            )
        others = sum(
            compressed(folder)
            for folder in target.iterdir()
            if folder.is_dir()
            and not folder.name.startswith(".")
            and folder.name != recipe.name
        )
        size, total = size_of(part), others + compressed(part)
        if total > LIMIT:
            raise ResultError(
                f"the presets may take {LIMIT / 1e6:.1f} MB of the wheel "
                f"together; with {recipe.name} they would take "
                f"{total / 1e6:.1f} MB."
            )
    return {
        "seed": int(run.name.removeprefix("seed-")),
        **{name: packed[name] for name in (task.metric, *task.more_metrics)},
        "of": preset,
        "further": _further(run) if preset.startswith(FURTHER) else None,
        "inference_mixing": mixing,
        "with_all_bits": whole[task.metric],
        "bytes": size,
    }


def _further(run):
    """Arguments of the run's further training."""
    return files.read_json(run / FURTHER / "training.json")


def size_of(folder: pathlib.Path) -> int:
    """Bytes of all files of a folder."""
    return sum(path.stat().st_size for path in _files(folder))


def compressed(folder: pathlib.Path) -> int:
    """Bytes that all files of a folder take in a wheel."""
    return sum(len(zlib.compress(path.read_bytes())) for path in _files(folder))


def _files(folder):
    return (path for path in folder.rglob("*") if path.is_file())
