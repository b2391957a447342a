"""From a checkpoint of vmoe to a preset folder, whole or not at all."""

import pathlib

from conversion import streaming
from conversion import verify as verification
from conversion import vmoe
from conversion import vmoe_model
from conversion import vmoe_two_tower
from conversion.errors import ConversionError
from conversion.formats import orbax
from conversion.formats import vmoe_msgpack
from conversion.vmoe_names import source_name
from conversion.vmoe_names import two_tower_name
from keras_moe import files
from keras_moe.models import resize_positions
from keras_moe.models.checkpoints import foreign_weights
from keras_moe.models.presets import manifest
from keras_moe.models.vision import architectures

POSITIONS = "positions/positions"
TEXT_POSITIONS = "text_positions/embeddings"


def open_checkpoint(source):
    """A reader for PREFIX of `.index` and `.data-…`, or an Orbax folder."""
    source = pathlib.Path(source)
    if source.is_dir():
        return orbax.Checkpoint(source)
    return vmoe_msgpack.Checkpoint(source)


def convert_vmoe(
    source,
    out,
    options=None,
    *,
    verify=None,
    tolerance=1e-4,
    licence="not stated",
    say=print,
):
    """Convert a checkpoint of vmoe's vision transformer into a preset.

    Args:
        source: prefix of `.index` and `.data-…`, or an Orbax folder.
        out: the preset's folder; see `save_to_preset`.
        options: a `conversion.vmoe.Options`.
        verify: .npz file to compare with, see `vmoe_model.compare`.
        tolerance: of that comparison.
        licence: of the checkpoint, for the record.
        say: gets a line of text for each thing deduced.

    Raises:
        ConversionError: when anything does not fit; nothing is written then.
    """
    options = options or vmoe.Options()
    options.check()
    out = streaming.check_out(out)
    verification.check(verify)
    with files.about(source, ConversionError):
        _convert(source, out, options, verify, tolerance, licence, say)


def _convert(source, out, options, verify, tolerance, licence, say):
    checkpoint = open_checkpoint(source)
    shapes = checkpoint.shapes()
    inside, left = vmoe.parameters(shapes)
    found = {p: shapes[q] for p, q in inside.items()}
    if vmoe_two_tower.is_one(found):
        plan, model = vmoe_two_tower.deduce(found, options), vmoe_two_tower
        name_of = two_tower_name
    else:
        plan, model = vmoe.deduce(found, options), vmoe_model
        name_of = source_name
    for note in plan.notes:
        say(note)
    if left:
        roots = sorted({path.split("/")[0] for path in left})
        say(f"left out, no part of the model: {', '.join(roots)}")
    variables = _variables(lambda: model.build(plan))
    sources = {ours: name_of(ours) for ours in variables}
    used = _match(variables, sources, inside, shapes)
    check = None
    if verify is not None:
        by_source = {theirs: ours for ours, theirs in used.items()}

        def check(preset):
            return model.compare(preset, verify, tolerance, by_source)

    streaming.write_preset(
        out,
        lambda: model.build(plan, small=True),
        model.edits(plan),
        variables,
        _reader(checkpoint, variables, used, plan),
        _record(source, checkpoint, options, plan, licence, used),
        check,
        say,
    )


def _variables(build):
    """{path of our variable: shape}, of a model that is never allocated."""
    try:
        return architectures.weight_shapes(build)
    except ValueError as error:
        raise ConversionError(
            f"no model can be made of this checkpoint: {error}"
        ) from error


def _match(variables, sources, inside, shapes):
    """{our variable: path in the checkpoint}, each used exactly once."""
    missing = sorted(set(sources.values()) - set(inside))
    extra = sorted(set(inside) - set(sources.values()))
    if missing or extra:
        raise ConversionError(
            "the checkpoint is not one of the model deduced from it: "
            f"missing {missing[:5] or 'nothing'}, not used "
            f"{extra[:5] or 'nothing'}."
        )
    for ours, name in sources.items():
        shape = shapes[inside[name]]
        expected = variables[ours]
        if name.endswith("/bias") and "/Moe/" in name:
            expected = (expected[0], *expected[2:])  # ours are (E,1,F)
        if ours == POSITIONS:
            expected = (1, shape[1], expected[2])  # may be resized
        if ours == TEXT_POSITIONS:
            expected = (1, *expected)
        if tuple(shape) != tuple(expected):
            raise ConversionError(
                f"{name} must have the shape {tuple(expected)}; the "
                f"checkpoint has {tuple(shape)}."
            )
    return {ours: inside[name] for ours, name in sources.items()}


def _reader(checkpoint, variables, used, plan):
    def read(ours):
        name = used[ours]
        array = foreign_weights.floats(
            checkpoint.read(name), f"{name} of {checkpoint.where(name)}"
        )
        if ours == POSITIONS:
            array = _resized(array, plan.backbone)
        return array.reshape(variables[ours])

    return read


def _resized(table, backbone):
    """Learned positions for the image size asked for, as vmoe resizes them."""
    height, width, _ = backbone["image_shape"]
    rows, columns = backbone["patch_size"]
    target = height // rows, width // columns
    class_token = backbone["class_token"]
    places = table.shape[1] - class_token
    if places == target[0] * target[1]:
        return table
    side = round(places**0.5)
    if side * side != places:
        raise ConversionError(
            f"--image-size {height}x{width} needs {target[0] * target[1]} "
            f"positions; the checkpoint has {places}, which are no square "
            "that could be resized."
        )
    return resize_positions(table, (side, side), target, class_token)


def _record(source, checkpoint, options, plan, licence, used):
    return {
        "source": pathlib.Path(source).name,
        "files": {f.name: manifest.digest(f) for f in _files(checkpoint)},
        "options": {k: v for k, v in vars(options).items() if v},
        "deduced": plan.notes,
        "arrays": len(used),
        "licence": licence,
    }


def _files(checkpoint):
    index = getattr(checkpoint, "index_file", None)
    return ([index] if index else []) + list(checkpoint.files)
