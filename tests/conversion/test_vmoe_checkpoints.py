"""Checkpoints written by vmoe itself, through the command line."""

import json
import pathlib

import numpy as np
import pytest

from conversion import convert
from conversion import vmoe
from conversion.__main__ import main
from conversion.errors import ConversionError
from conversion.formats import orbax
from conversion.formats import vmoe_msgpack
from keras_moe import layers
from keras_moe.models import MoEViTImageClassifier
from keras_moe.models import resize_positions
from keras_moe.models.presets import manifest
from tests.conversion import writer
from tests.conversion.test_vmoe_goldens import load
from tests.conversion.test_vmoe_goldens import logits

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
CKPT = GOLDEN / "ckpt"
SOFT = "F1_soft_gap_qknorm_learned"
# folder: (name below it, options, model whose logits are wanted)
CHECKPOINTS = {
    "G_vmoe_soft_trainstate_sharded": ("ckpt_2", "", SOFT),
    "G_vmoe_soft_trainstate_small_chunks": ("ckpt_2", "", SOFT),
    "G_vmoe_soft_params_no_version": ("ckpt_2", "", SOFT),
    "G_vmoe_soft_orbax": ("", "", SOFT),
    "G_vmoe_soft_12_blocks": (
        "ckpt_7",
        "--image-size 12x8",
        "F1_soft_12_blocks",
    ),
    "G_vmoe_ec_params_single": (
        "ckpt_2",
        "--capacity-factor 1",
        "F2_ec_gap_qknorm",
    ),
    "G_vmoe_tokenchoice_params_released_style": (
        "ckpt_2",
        "--top-k 2 --capacity-factor 1.05 --group-size 34",
        "F3_vmoe_last2_top2",
    ),
}


def test_every_checkpoint_is_here():
    assert {p.name for p in CKPT.iterdir()} == set(CHECKPOINTS)


@pytest.mark.parametrize("folder", CHECKPOINTS)
def test_checkpoint_to_preset(folder, tmp_path, capsys):
    name, options, model = CHECKPOINTS[folder]
    out = tmp_path / "preset"
    source = CKPT / folder / name if name else CKPT / folder
    main(["vmoe", str(source), str(out), *options.split()])
    assert "parameters written to" in capsys.readouterr().out
    _, images, wanted = load(model)
    loaded = MoEViTImageClassifier.from_preset(str(out))
    np.testing.assert_allclose(logits(loaded, images), wanted, atol=1e-4)
    record = json.loads((out / "conversion.json").read_text())
    files = {p.name for p in CKPT.glob(f"{folder}/**/*") if p.is_file()}
    assert set(record["files"]) <= files and record["files"]
    for file in (CKPT / folder).rglob(next(iter(record["files"]))):
        assert manifest.digest(file) == record["files"][file.name]
    metadata = json.loads((out / "metadata.json").read_text())
    assert metadata["parameter_count"] == loaded.backbone.count_params()


def test_readers_give_every_array():
    folder = CKPT / "G_vmoe_soft_params_no_version"
    checkpoint = vmoe_msgpack.Checkpoint(folder / "ckpt_2")
    with np.load(folder / "expected.npz") as expected:
        assert set(checkpoint.shapes()) == set(expected.files)
        for path in expected.files:
            np.testing.assert_array_equal(checkpoint.read(path), expected[path])


def test_bfloat16_slots_and_parameters(tmp_path, capsys):
    parameters, images, wanted = load(SOFT)
    state = {f"params/{k}": v for k, v in writer.bfloat16(parameters).items()}
    state["step"] = np.int32(2)
    prefix = writer.checkpoint(tmp_path / "ckpt_2", state)
    main(["vmoe", prefix, str(tmp_path / "out")])
    assert "left out, no part of the model: step" in capsys.readouterr().out
    model = MoEViTImageClassifier.from_preset(str(tmp_path / "out"))
    assert {w.dtype for w in model.weights} == {"float32"}
    np.testing.assert_allclose(logits(model, images), wanted, atol=0.1)


@pytest.mark.parametrize("kind", ["logits", "arrays"])
def test_verify_accepts_what_is_equal(kind, tmp_path, capsys):
    folder = CKPT / "G_vmoe_soft_params_no_version"
    expected = GOLDEN / f"{SOFT}.npz"
    if kind == "arrays":
        expected = folder / "expected.npz"
    out = str(tmp_path / "out")
    main(["vmoe", str(folder / "ckpt_2"), out, "--verify", str(expected)])
    said = capsys.readouterr().out
    assert "logits differ" in said or "83 arrays are equal" in said


@pytest.mark.parametrize("kind", ["logits", "arrays"])
def test_verify_refuses_what_differs_and_writes_nothing(kind, tmp_path):
    folder = CKPT / "G_vmoe_soft_params_no_version"
    source = GOLDEN / f"{SOFT}.npz"
    key = "logits_f32_dispatch"
    if kind == "arrays":
        source, key = folder / "expected.npz", "head/bias"
    with np.load(source) as arrays:
        wrong = {name: arrays[name] for name in arrays.files}
    wrong[key] = wrong[key] + 1e-3
    np.savez(tmp_path / "wrong.npz", **wrong)
    with pytest.raises(ConversionError, match="--verify .*: "):
        convert.convert_vmoe(
            folder / "ckpt_2",
            tmp_path / "out",
            verify=tmp_path / "wrong.npz",
            say=lambda line: None,
        )
    assert {p.name for p in tmp_path.iterdir()} == {"wrong.npz"}


def test_image_size_resizes_learned_positions(tmp_path, capsys):
    folder = CKPT / "G_vmoe_soft_params_no_version"
    out = str(tmp_path / "out")
    main(["vmoe", str(folder / "ckpt_2"), out, "--image-size", "24x8"])
    model = MoEViTImageClassifier.from_preset(out)
    with np.load(folder / "expected.npz") as arrays:
        table = arrays["Encoder/posembed_input/pos_embedding"]
    found = model.backbone.get_layer("positions").get_weights()[0]
    np.testing.assert_allclose(
        found, resize_positions(table, (4, 4), (6, 2), False)
    )


def test_orbax_step_is_found_from_each_folder_above(tmp_path):
    state = CKPT / "G_vmoe_soft_orbax" / "ckpt" / "2" / "state"
    for folder in (
        state,
        state.parent,
        state.parent.parent,
        CKPT / ("G_vmoe_soft_orbax"),
    ):
        assert orbax.find_state(folder) == state
    with pytest.raises(ConversionError, match="no _METADATA"):
        orbax.find_state(tmp_path)
    with pytest.raises(ConversionError, match="by their prefix, such as"):
        orbax.find_state(CKPT / "G_vmoe_soft_12_blocks")


# What tells a router that chooses is alike for its two kinds.
SHAPES = {
    "embedding/kernel": (32, 32, 3, 512),
    "Encoder/encoder_norm/scale": (512,),
    "Encoder/posembed_input/pos_embedding": (1, 50, 512),
    "cls": (1, 1, 512),
    "head/kernel": (512, 1000),
    "Encoder/encoderblock_0/SelfAttention/query/kernel": (512, 8, 64),
    "Encoder/encoderblock_0/Moe/Mlp/Dense_0/kernel": (8, 512, 2048),
    "Encoder/encoderblock_0/Moe/Router/dense/kernel": (512, 8),
}


def test_architecture_gives_what_shapes_do_not_tell():
    options = vmoe.Options(architecture="vmoe_s32_last2")
    plan = vmoe.deduce(SHAPES, options)
    assert plan.backbone["router"] == "token_choice"
    assert plan.backbone["image_shape"] == (224, 224, 3)
    chosen = plan.backbone["router_options"]
    assert (chosen["top_k"], chosen["capacity_factor"]) == (2, 1.05)
    assert chosen["capacity_multiple_of"] == 4
    assert plan.classifier["pooling"] == "token"


@pytest.mark.parametrize(
    "options, said",
    [
        ({"capacity_factor": 1.0}, True),
        ({"capacity_factor": 1.0, "top_k": 2}, False),
        ({"architecture": "vmoe_s32_last2"}, False),
    ],
)
def test_router_that_weights_do_not_tell(options, said):
    """Expert Choice is taken, and it is said that this was a choice."""
    plan = vmoe.deduce(SHAPES, vmoe.Options(**options))
    router = "expert_choice" if said else "token_choice"
    assert plan.backbone["router"] == router
    notes = [n for n in plan.notes if "weights do not tell" in n]
    assert len(notes) == said
    assert all("--top-k N would make it" in note for note in notes)


def test_token_choice_that_rounds(tmp_path, capsys):
    prefix = CKPT / "G_vmoe_tokenchoice_params_released_style" / "ckpt_2"
    given = "--top-k 2 --capacity-factor 1.05 --capacity-rounding round"
    main(["vmoe", str(prefix), str(tmp_path / "out"), *given.split()])
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    chosen = config["config"]["router_options"]
    assert (chosen["top_k"], chosen["capacity_rounding"]) == (2, "round")
    assert chosen["capacity_multiple_of"] == 4
    model = MoEViTImageClassifier.from_preset(str(tmp_path / "out"))
    rounding = {
        layer.capacity_rounding
        for layer in model.backbone._flatten_layers()
        if isinstance(layer, layers.TokenChoiceMoE)
    }
    assert rounding == {"round"}


def test_help_explains_each_option(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["vmoe", "--help"])
    said = capsys.readouterr().out
    for option in vars(vmoe.Options()):
        assert f"--{option.replace('_', '-')}" in said
