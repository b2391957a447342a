"""The guides run, and their notebooks agree with the sources."""

import importlib.metadata
import importlib.util
import os
import pathlib
import re
import sys

import nbformat
import numpy as np
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
        "8_two_towers",
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
        r"(?s)own target\ndense +64 hidden features, error \d+%\n.*"
        r"Soft MoE +16 hidden features, error \d+%\n.*"
        r"one vector\ndense +64 hidden features, error \d+%\n.*"
        r"Soft MoE +16 hidden features, error \d+%\n",
    ),
    "3_dense_to_mixture": (
        2,
        r"token choice largest difference of a logit 0\.000\d\d, same class "
        r"for 100\.0%",
        r"Soft MoE +largest difference of a logit \d\.\d+, same class for "
        r"(100|[89]\d)\.\d%",
        r"dense +held-out loss 0\.\d+, then 0\.\d+\nupcycled +held-out loss",
    ),
    "4_mixture_of_tokens": (
        2,
        r"2,700,928 parameters",
        r"group +logits differ by up to [1-9]\d*\.",
        r"self +logits differ by up to 0\.000\d\d",
        r"argmax +logits differ by up to 0\.000\d\d",
        r"To be, or not to be..",
        r"591,072 parameters\n'The function .*\n.Le fichier ",
    ),
    "5_convert_and_publish": (
        0,
        r"logits differ from logits_f32_dispatch by \d\.\de-0[5-9] at most",
        r"weights\.h5 of preset …/soft_moe_tiny must have 23688 bytes; it has "
        r"23687\.",
        r"hf://someone/tiny@\w+ gives the same logits: True",
    ),
    "7_sparse_experts": (
        1,
        r"Qwen3Moe .* MB -> +2\.2 MB in int4",
        r"[1-4]\.\d\d nats per byte",
        r"int8 +0\.66 MB b'The experts ",
        r"logits differ by [01]\.\d%",
        r"computes the same: True",
    ),
    "8_two_towers": (
        2,
        r"412 drawings, 2,500,292 parameters",
        r"recall@1: 5\d\.\d%\nrecall@5: [78]\d\.\d%",
        r"8\d% of 135 drawings are in the right class",
        r"held-out drawings: recall@5 \d+\.\d%, by chance 6\.0%",
    ),
    "6_many_devices": (
        1,
        r"1\.8\d billion parameters",
        r"losses on one device \[",
        {
            "jax": r"moe.*/experts/up/kernel +\(8, 32, 64\) +here \(1, 32, 64",
            "tensorflow": r"copies: 2\b",
            "torch": r"losses with 2 processes \[",
        },
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


def check(name, cells, backend=BACKEND, uploads=True):
    """Compare the outputs of cells with what they should say."""
    said, pictures = "", 0
    for cell in cells:
        for output in cell.get("outputs", ()):
            if output.output_type == "stream" and output.name == "stdout":
                said += output.text
            pictures += "image/png" in output.get("data", ())
    # A kernel prints TensorFlow's warnings on stdout, anywhere.
    said = re.sub(r"(?m)^WARNING:tensorflow:.*\n", "", said)
    number, *patterns = SAID[name]
    assert pictures == number, name
    for pattern in patterns:
        if isinstance(pattern, dict):
            pattern = pattern[backend]
        if pattern.startswith("hf://") and not uploads:
            pattern = "nothing was uploaded"
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
    """`make notebooks` writes them, with their outputs."""
    sources = build.sources()
    for source in sources:
        path = source.with_suffix(".ipynb")
        assert build.without_outputs(path) == build.text(source), source.name
    notebooks = list(GUIDES.glob("*.ipynb"))
    assert len(notebooks) == len(sources)
    assert sum(path.stat().st_size for path in notebooks) < 2**20


@pytest.mark.once
@pytest.mark.parametrize("name", SAID)
def test_notebooks_have_their_outputs(name):
    cells = nbformat.read(GUIDES / f"{name}.ipynb", as_version=4).cells
    outputs = [o for cell in cells for o in cell.get("outputs", ())]
    assert not any(o.output_type == "error" for o in outputs)
    streams = {o.name for o in outputs if "name" in o}
    assert streams == {"stdout"}
    check(name, cells, "jax", uploads=False)  # as `make notebooks` runs them


@pytest.mark.once
def test_which_router_fits_which_toy_task():
    """As guide 2 says of the errors in its notebook, by layer and task."""
    cells = nbformat.read(GUIDES / "2_inside_a_router.ipynb", 4).cells
    (said,) = (
        output.text
        for cell in cells
        for output in cell.get("outputs", ())
        if "own target" in output.get("text", "")
    )
    lines = re.findall(r"(\S.*\S) +\d+ hidden features, error (\d+)%", said)
    own, shared = (
        {name: int(error) for name, error in part}
        for part in (lines[:5], lines[5:])
    )
    assert own["token choice"] < own["dense"] / 3 < own["dense"]
    assert own["Expert Choice"] < own["dense, twice as wide"] / 3
    assert own["Soft MoE"] > own["dense"]
    assert min(shared, key=shared.get) == "Soft MoE"
    assert list(own) == list(shared)


@pytest.mark.once
def test_figures_in_texts_of_guides_are_those_of_the_zoo():
    zoo = (GUIDES.parent / "zoo" / "README.md").read_text(encoding="utf-8")
    found = [
        figure
        for source in build.sources()
        for line in source.read_text(encoding="utf-8").splitlines()
        if line.startswith("# ")
        for figure in re.findall(r"\d\.\d{4}\b", line)
    ]
    assert found and all(figure in zoo for figure in found)


@pytest.mark.once
def test_readme_leads_to_every_notebook():
    readme = (GUIDES.parent / "README.md").read_text(encoding="utf-8")
    linked = re.findall(r"\(guides/(\w+)\.ipynb\)", readme)
    assert linked == [source.stem for source in build.sources()]


@pytest.mark.once
def test_setup_cells_install_their_extras(tmp_path, monkeypatch):
    """In a clone and elsewhere, where keras_moe is not installed."""
    extras = {"jax,demo", "jax,models,viz", "jax,conversion"}
    for source in build.sources():
        (cell,) = [
            cell
            for cell in build.notebook(source).cells
            if build.SETUP_TAG in cell.metadata.get("tags", ())
        ]
        assert cell.source.startswith('EXTRAS = "')
        assert cell.source.split('"')[1] in extras, source.name
        assert cell.source.count("import keras") == 0  # before it is installed
    commands = []

    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(
        "subprocess.run", lambda command, check: commands.append(command)
    )
    monkeypatch.setattr(sys, "path", list(sys.path))
    code = 'EXTRAS = "jax"\n' + build.SETUP
    monkeypatch.chdir(GUIDES)
    exec(code.format(repository=""), {})
    assert commands.pop()[-1] == f"{GUIDES.parent}[jax]"
    assert sys.path[0] == str(GUIDES.parent)
    monkeypatch.chdir(tmp_path)
    exec(code.format(repository="https://host/keras_moe"), {})
    clone = str(tmp_path / "keras_moe_clone")
    assert commands[0][-2:] == ["https://host/keras_moe", clone]
    assert commands[1][-1] == f"{clone}[jax]"
    with pytest.raises(ValueError, match="Set REPOSITORY to the address"):
        exec(code.format(repository=""), {})


@pytest.mark.once
def test_guides_open_in_colab(monkeypatch):
    assert "upload it there" in build.colab("1_soft_moe")
    monkeypatch.setattr(
        build, "repository", lambda: "https://github.com/someone/keras_moe"
    )
    assert build.colab("1_soft_moe") == (
        "[Run this notebook in Colab](https://colab.research.google.com/github/"
        "someone/keras_moe/blob/main/guides/1_soft_moe.ipynb)."
    )


@pytest.mark.once
def test_router_picture_shows_the_plans():
    from guides import router_picture

    weights = {
        name: router_picture.dispatch(name, plan)
        for name, plan in router_picture.plans().items()
    }
    assert router_picture.PATH.read_text() == router_picture.render()
    dropped = {
        name: np.flatnonzero(~table.any((1, 2))).tolist()
        for name, table in weights.items()
    }
    assert dropped == {
        "Soft MoE": [],
        "Expert Choice": [1],
        "Token choice": [2],
        "Mixture of Tokens": [],
    }
    for name, table in weights.items():
        drawn = "\n".join(router_picture.panel(name, table))
        squares = sum(drawn.count(colour) for colour in router_picture.COLOURS)
        # Each colour is also that of three labels.
        assert squares == (table.round(2) > 0).sum() + 9, name
        assert drawn.count("url(#dropped)") == 6 * len(dropped[name])
    # Groups of Mixture of Tokens are the tokens at one position.
    mixture = weights["Mixture of Tokens"]
    assert not mixture[0::2, :, 1].any() and not mixture[1::2, :, 0].any()
    np.testing.assert_allclose(mixture.sum(0), 1, rtol=1e-5)


@pytest.mark.once
def test_upcycling_briefly(capsys):
    """Too few steps to learn from, enough to run all there is."""
    found = load("upcycling").main(["--steps", "8"])
    assert {len(losses) for losses in found.values()} == {5}
    # An upcycled model starts near the dense model's last loss.
    for router in ("soft", "expert_choice", "token_choice"):
        start, end = found[f"{router}, upcycled"][0], found["dense"][-1]
        assert abs(start - end) < 0.2
    assert "soft, upcycled, to expert_choice" in capsys.readouterr().out


@pytest.mark.once
def test_value_networks_briefly(capsys):
    found = load("value_network").main(["--steps", "480", "--seeds", "1"])
    dense, soft = (found[head]["parameters"] for head in ("dense", "soft"))
    assert 1 < soft / dense < 1.05  # "about as many parameters"
    for one in found.values():
        (curve,) = one["returns"]
        assert len(curve) == 8
    assert "soft   seed 0: " in capsys.readouterr().out
