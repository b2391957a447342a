"""The guides run, and their notebooks are what the sources make."""

import importlib.util
import os
import pathlib
import re

import nbformat
import pytest
from nbclient import NotebookClient

from guides import build
from tests.hub import server
from tests.support import BACKEND

GUIDES = pathlib.Path(__file__).parent.parent / "guides"
# In which guides share a kernel: starting one takes longer than most of them.
# The last needs its devices before the backend starts.
KERNELS = (
    (
        "1_soft_moe",
        "2_inside_a_router",
        "3_dense_to_mixture",
        "4_mixture_of_tokens",
        "5_convert_and_publish",
        "7_sparse_experts",
    ),
    ("6_many_devices",),
)
# guide: (pictures, what its outputs say)
SAID = {
    "1_soft_moe": (
        1,
        r"from the layer: (0\.0|\de-0[56])",
        r"dense MLP +18,154 parameters, held-out accuracy [6-9]\d\.\d%",
        r"Soft MoE +77,868 parameters, held-out accuracy [6-9]\d\.\d%",
    ),
    "2_inside_a_router": (
        5,
        r"[89]\d% of 40 are right",
        r"block_5 +[2-4]\.\d\d +0\.0%",
        r"Expert Choice, not tuned: [5-9]\d% are right",
        r"token choice, not tuned: [5-9]\d% are right",
        r"block_5 +1\.00 +[2-7]\d\.\d%",
    ),
    "3_dense_to_mixture": (
        2,
        r"token choice largest difference of a logit 0\.000\d\d, same answer "
        r"for 100\.0%",
        r"Soft MoE +largest difference of a logit \d\.\d+, same answer for "
        r"(100|[89]\d)\.\d%",
    ),
    "4_mixture_of_tokens": (
        1,
        r"2,700,928 parameters",
        r"group +logits differ by up to [1-9]\d*\.",
        r"self +logits differ by up to 0\.000\d\d",
        r"argmax +logits differ by up to 0\.000\d\d",
        r"To be, or not to be..",
    ),
    "5_convert_and_publish": (
        0,
        r"logits differ from logits_f32_dispatch by \d\.\de-0[5-9] at most",
        r"weights\.h5 of preset …/soft_moe_tiny must have 23688 bytes; it has "
        r"23687\.",
        r"hf://someone/tiny@\w+ says the same: True",
    ),
    "7_sparse_experts": (
        1,
        r"Qwen3Moe .* MB -> +2\.2 MB in int4",
        r"[34]\.\d\d nats per byte",
        r"int8 +0\.66 MB b'The experts ",
        r"logits differ by [01]\.\d%",
        r"computes the same: True",
    ),
    "6_many_devices": (
        1,
        r"1\.8\d billion parameters",
        r"losses on one device \[",
        {
            "jax": r"moe.*/experts/up/kernel +\(8, 32, 64\) +here \(1, 32, 64",
            "tensorflow": r"copies: 2\b",
            "torch": r"losses with 2 processes \[",
        }[BACKEND],
    ),
}


def load(name):
    """A script as a module, without running it."""
    spec = importlib.util.spec_from_file_location(name, GUIDES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def environment(tmp_path):
    """Of a kernel: a Hub on the loopback, where guides may publish."""
    with server.running() as hub:
        yield {
            **os.environ,
            "KERAS_BACKEND": BACKEND,
            # Compiling takes longer than running.
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "HF_ENDPOINT": hub.url,
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_HUB_DISABLE_XET": "1",
            "KERAS_MOE_GUIDE_REPOSITORY": "someone/tiny",
            "KERAS_MOE_GUIDE_SHORT": "yes",
        }


@pytest.mark.parametrize("names", KERNELS, ids=["first", "many_devices"])
def test_guides_run(names, environment, tmp_path):
    cells = {name: cells_of(name) for name in names}
    together = nbformat.v4.new_notebook(cells=sum(cells.values(), []))
    client = NotebookClient(
        together,
        kernel_name="python3",
        timeout=600,
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute(env=environment)
    for name in names:
        check(name, cells[name])


def cells_of(name):
    """A guide's cells, after one that forgets all names of the one before."""
    cells = build.notebook(GUIDES / f"{name}.py").cells
    for cell in cells:
        cell.id = f"{name}-{cell.id}"
    return [nbformat.v4.new_code_cell("%reset -f"), *cells]


def check(name, cells):
    """Hold cells that were run against what they should say."""
    said, pictures = "", 0
    for cell in cells:
        for output in cell.get("outputs", ()):
            if output.output_type == "stream" and output.name == "stdout":
                said += output.text
            pictures += "image/png" in output.get("data", ())
    number, *patterns = SAID[name]
    assert pictures == number, name
    for pattern in patterns:
        assert re.search(pattern, said), f"{name}: {pattern}\n{said}"
    losses = [
        [float(number) for number in row.split(", ")]
        for row in re.findall(r"losses .*?\[(.*)\]", said)
    ]
    for row in losses:  # of the same training, on more or fewer devices
        assert row == pytest.approx(losses[0], rel=1e-3)
    assert (len(losses) == 2) == (name == "6_many_devices")


def test_every_guide_is_run():
    names = [name for names in KERNELS for name in names]
    assert sorted(names) == [source.stem for source in build.sources()]
    assert sorted(SAID) == sorted(names)


@pytest.mark.once
def test_notebooks_are_those_of_the_sources():
    """`make notebooks` writes them."""
    sources = build.sources()
    for source in sources:
        written = source.with_suffix(".ipynb").read_text(encoding="utf-8")
        assert written == build.text(source), source.name
    assert len(list(GUIDES.glob("*.ipynb"))) == len(sources)


@pytest.mark.once
def test_readme_leads_to_every_notebook():
    readme = (GUIDES.parent / "README.md").read_text(encoding="utf-8")
    linked = re.findall(r"\(guides/(\w+)\.ipynb\)", readme)
    assert linked == [source.stem for source in build.sources()]


@pytest.mark.once
def test_installing_is_left_to_the_reader():
    """The one cell that installs is the one that runners leave out."""
    for source in build.sources():
        installing = [
            cell.metadata.get("tags")
            for cell in build.notebook(source).cells
            if cell.cell_type == "code" and "pip install" in cell.source
        ]
        assert installing == [["skip-execution"]], source.name


@pytest.mark.once
def test_upcycling_briefly(capsys):
    """Too few steps to learn from, enough to run all there is."""
    found = load("upcycling").main(["--steps", "8"])
    assert {len(losses) for losses in found.values()} == {5}
    # What was upcycled begins where the dense model ended, or near it.
    for router in ("soft", "expert_choice", "token_choice"):
        start, end = found[router][0], found["dense"][-1]
        assert abs(start - end) < 0.2
    assert "soft to expert_choice, tuned" in capsys.readouterr().out
