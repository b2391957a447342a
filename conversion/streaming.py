"""Writing a preset tensor by tensor, so that no model is held in memory.

KerasHub writes the preset of a small twin, a model of the same blocks with few
features, whose variables hold their own numbers. The files of the twin tell
where each variable lies; the preset is the same files with the real arrays.
"""

import datetime
import pathlib

import h5py
import numpy as np
from tqdm import tqdm

import keras_moe
from conversion.errors import ConversionError
from keras_moe import files
from keras_moe.models.checkpoints import weight_files
from keras_moe.models.presets import folders
from keras_moe.models.presets import manifest


def check_out(out):
    """The folder to write to, if a preset may be put there."""
    try:
        folders.check_target(out)
    except ValueError as error:
        raise ConversionError(str(error)) from error
    return pathlib.Path(out)


def write_preset(
    out, make_twin, edits, variables, read, record, check=None, say=print
):
    """Write a preset, whole or not at all.

    Args:
        out: its folder, see `check_out`.
        make_twin: makes the small twin, a task or a backbone.
        edits: {name of a JSON file: function that turns the twin's config in
            it, in place, into that of the model}.
        variables: {path of a variable: shape}, of the model.
        read: path of a variable → its array.
        record: what is known of the source, for `conversion.json`.
        check: `None`, or a function of the finished folder that raises an
            error if it is not as expected, or returns a line about it.
        say: gets a line of text for each thing done.
    """
    total = sum(np.prod(shape, dtype=int) for shape in variables.values())
    files.check_space(out, int(total))
    with folders.replacing(out) as preset:
        numbers = write_twin(make_twin(), preset, edits)
        with tqdm(total=total, unit="value", unit_scale=True) as bar:

            def read_and_tell(path):
                array = read(path)
                bar.update(array.size)
                return array

            count = fill(preset, numbers, read_and_tell)
        note_parameters(preset, int(count))
        record = {
            **record,
            "date": datetime.date.today().isoformat(),
            "keras_moe": keras_moe.__version__,
        }
        manifest.write_json(preset / "conversion.json", record)
        manifest.write_manifest(preset)
        if check is not None:
            say(check(preset))
    say(f"{total:,} parameters written to {out}")


def write_twin(twin, folder, edits):
    """Write the twin's preset; returns {number: path of a variable}."""
    numbers = {}
    for number, variable in enumerate(twin.weights, start=1):
        variable.assign(np.full(variable.shape, number, "float32"))
        numbers[number] = variable.path
    twin.save_to_preset(folder)
    for name, edit in edits.items():
        path = pathlib.Path(folder) / name
        config = files.read_json(path)
        edit(config["config"])
        manifest.write_json(path, config)
    return numbers


def fill(folder, numbers, read):
    """Put the real arrays into the files of the twin.

    Args:
        folder: that holds the twin's preset.
        numbers: {number: path of a variable}.
        read: path of a variable → its array.

    Returns:
        The number of values written to the backbone's file.
    """
    left, totals = set(numbers), {}
    for file in sorted(pathlib.Path(folder).glob("*.weights.h5")):
        part = file.with_name(f".{file.name}.part")
        totals[file.name] = 0
        with h5py.File(file) as twin, h5py.File(part, "w") as real:

            def copy(name, item, twin=twin, real=real, file=file):
                if isinstance(item, h5py.Group):
                    copy = real.require_group(name)
                elif not weight_files.is_weight(name):
                    copy = real.create_dataset(name, data=item[()])
                else:
                    number = int(np.asarray(item).flat[0])
                    left.remove(number)
                    array = read(numbers[number])
                    totals[file.name] += array.size
                    copy = real.create_dataset(name, data=array)
                for key, value in item.attrs.items():
                    copy.attrs[key] = value

            for key, value in twin.attrs.items():
                real.attrs[key] = value
            twin.visititems(copy)
        part.replace(file)
    if left:
        missing = ", ".join(numbers[n] for n in sorted(left))
        raise ConversionError(f"no file of the preset holds {missing}.")
    return totals["model.weights.h5"]


def note_parameters(folder, count):
    """Correct the number of parameters in KerasHub's metadata."""
    path = pathlib.Path(folder) / "metadata.json"
    metadata = files.read_json(path)
    metadata["parameter_count"] = count
    manifest.write_json(path, metadata)
