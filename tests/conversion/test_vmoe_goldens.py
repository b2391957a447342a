"""Models of vmoe, converted by the command line, give vmoe's logits.

Each golden file holds the parameters, images and logits of one model of the
reference code. The parameters are written as a checkpoint, converted, loaded
with `from_preset`, and run.
"""

import pathlib

import keras
import numpy as np
import pytest

from conversion.__main__ import main
from keras_moe.models import MoETwoTower
from keras_moe.models import MoEViTBackbone
from keras_moe.models import MoEViTImageClassifier
from tests import support
from tests.conversion import writer

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
# What the checkpoint does not say of each model.
CASES = {
    "F0_vit_dense": "--image-size 12x8",
    "F1_soft_12_blocks": "--image-size 12x8",
    "F1_soft_gap_noqk_sincos2d_representation": (
        "--image-size 16x16 --positions sincos2d"
    ),
    "F1_soft_gap_qknorm_learned": "",
    "F1_soft_group_two_images": "--group-size 32",
    "F1_soft_map_qknorm_sincos2d": "--image-size 16x16 --positions sincos2d",
    "F1_soft_token_map_none_pos": "--image-size 16x16 --positions none",
    "F1_soft_token_noqk_learned": "--pooling token --num-heads 2",
    "F2_ec_gap_qknorm": "--capacity-factor 1 --capacity-rounding round",
    "F2_ec_token_cf2": "--capacity-factor 2 --capacity-rounding round",
    "F3_vmoe_every2_top1_drop": (
        "--top-k 1 --capacity-factor 0.5 --group-size 34 "
        "--capacity-multiple-of 1"
    ),
    "F3_vmoe_gap_top2_indices": "--top-k 2 --capacity-factor 0.9",
    "F3_vmoe_last2_top2": "--top-k 2 --capacity-factor 1.05 --group-size 34",
    "F3_vmoe_last2_top2_bpr_drop": (
        "--top-k 2 --capacity-factor 0.6 --group-size 68 --batch-priority "
        "--capacity-multiple-of 1"
    ),
}


def load(name):
    """Parameters, images and logits of a golden file."""
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        arrays = {key: arrays[key] for key in arrays.files}
    parameters = {
        key.removeprefix("params/"): value
        for key, value in arrays.items()
        if key.startswith("params/")
    }
    # vmoe rounds to bfloat16 on the way; these logits are without that.
    wanted = arrays.get("logits_f32_dispatch", arrays.get("logits"))
    return parameters, arrays["images"], wanted


def logits(model, images):
    return support.run(lambda x: model(x, training=False), images)


def test_every_model_of_the_reference_is_here():
    files = {p.stem for p in GOLDEN.glob("F[0-3]_*.npz")}
    assert files == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_vmoe(name, tmp_path, capsys):
    parameters, images, wanted = load(name)
    prefix = writer.checkpoint(tmp_path / "ckpt_1", parameters)
    main(["vmoe", prefix, str(tmp_path / "preset"), *CASES[name].split()])
    model = MoEViTImageClassifier.from_preset(str(tmp_path / "preset"))
    np.testing.assert_allclose(logits(model, images), wanted, atol=1e-4)


def test_two_towers(tmp_path, capsys):
    """Embeddings and logits of pairs, each within 1e-5."""
    parameters, images, wanted = load("F5_two_tower_soft")
    with np.load(GOLDEN / "F5_two_tower_soft.npz") as arrays:
        texts, ztxt = arrays["texts"], arrays["ztxt"]
        zimg = arrays["zimg_f32_dispatch"]
    prefix = writer.checkpoint(tmp_path / "ckpt_1", parameters)
    main(["vmoe", prefix, str(tmp_path / "preset")])
    backbone = MoETwoTower.from_preset(str(tmp_path / "preset")).backbone
    assert len(backbone.weights) == len(parameters)

    def embed(images, ids):
        mask = keras.ops.ones_like(ids)
        found = backbone(
            {"images": images, "token_ids": ids, "padding_mask": mask},
            training=False,
        )
        pair = found["image_embeddings"], found["text_embeddings"]
        return *pair, backbone.logits(*pair)

    for found, right in zip(
        support.run(embed, images, texts), (zimg, ztxt, wanted)
    ):
        np.testing.assert_allclose(found, right, atol=1e-5)


def test_another_weight_is_seen():
    """The comparison is no formality: one changed array fails it."""
    name = "F1_soft_token_map_none_pos"
    parameters, images, wanted = load(name)
    backbone = MoEViTBackbone(
        (16, 16, 3),
        4,
        4,
        2,
        32,
        64,
        router="soft",
        moe_layers=(2, 3),
        router_options={"num_experts": 4, "slots_per_expert": 4},
        positions="none",
        class_token=True,
    )
    model = MoEViTImageClassifier(backbone, 10, pooling="token")
    assert not np.allclose(logits(model, images), wanted, atol=1e-4)
