"""The site of the documentation: it builds, leads somewhere and is whole."""

import ast
import csv
import importlib
import inspect
import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from keras_moe import layers
from tests.support import numpy
from zoo.measure import compare

ROOT = pathlib.Path(__file__).parent.parent
SITE = ROOT / "guides" / "site"
PAGES = SITE / "pages"
RESULTS = ROOT / "tests" / "benchmarks" / "results"
BACKENDS = ("torch", "tensorflow", "jax")
# Public beside what keras_moe/__init__.py imports for all.
ON_DEMAND = {"kerashub", "models", "planning", "upcycling", "visualize"}

pytestmark = pytest.mark.once


def load(name, monkeypatch):
    """A module of the site, which is no package."""
    monkeypatch.syspath_prepend(str(SITE))
    monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module(name)
    monkeypatch.delitem(sys.modules, name)
    return module


def public_names(path):
    """What a module says is public, or has under a name without underscore."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            (target,) = node.targets
            if target.id == "__all__":
                return set(ast.literal_eval(node.value))
            found.add(target.id)
        elif isinstance(node, ast.ImportFrom):
            found |= {a.name for a in node.names if a.name == a.asname}
    return {name for name in found if not name.startswith("_")}


def test_reference_covers_every_public_name():
    package = ROOT / "keras_moe"
    modules = (public_names(package / "__init__.py") | ON_DEMAND) - {"upcycle"}
    public = set()
    for module in modules:
        path = package / f"{module}.py"
        if not path.exists():
            path = package / module / "__init__.py"
        names = public_names(path)
        assert names, module
        public |= {f"keras_moe.{module}.{name}" for name in names}
    said = set()
    for page in (PAGES / "reference").glob("*.md"):
        said |= set(re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE))
    of_modules = {f"keras_moe.{module}" for module in modules}
    assert said - of_modules == public
    # Nothing public is left out by the rule that found it.
    assert "keras_moe.routing.SoftPlan" in public
    assert "keras_moe.visualize.report" in public
    assert "keras_moe.ops.AUTOMATIC" in public


def test_it_builds_and_its_links_lead_somewhere(tmp_path, monkeypatch):
    site = tmp_path / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    command += ["--config-file", str(SITE / "mkdocs.yml")]
    done = subprocess.run(
        [*command, "--site-dir", str(site)],
        capture_output=True,
        text=True,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    links = load("links", monkeypatch)
    broken, elsewhere = links.check(site)
    assert broken == []
    assert "https://arxiv.org/abs/2308.00951" in elsewhere
    assert links.not_found(site) == []
    # Pages show what comes from other files.
    assert "mot_tiny_shakespeare" in (site / "zoo.html").read_text()
    for path in RESULTS.glob("*.csv"):
        assert path.name in (site / "benchmarks.html").read_text()
    assert len(list((site / "benchmarks").glob("*.svg"))) >= 10
    benchmarks = (site / "benchmarks.html").read_text()
    for headline in ("token_choice", "dropless", "memory"):
        assert benchmarks.count(f"headline_{headline}_") == 3
    assert benchmarks.index("headline_memory_torch") < benchmarks.index("<li>")
    for path in (ROOT / "guides").glob("*.ipynb"):
        text = (site / "guides" / f"{path.stem}.html").read_text()
        pictures = path.read_text().count('"image/png"')
        assert text.count(f'src="{path.stem}_') == pictures, path.name
    assert "tf_saved_model" in (site / "backends.html").read_text()
    assert "soft_moe_s16" in (site / "devices.html").read_text()
    assert "recomputed, MiB" in (site / "models.html").read_text()
    upcycling = (site / "upcycling.html").read_text()
    kerashub = (site / "kerashub.html").read_text()
    assert "(missed)" in kerashub and "reading 2 GB" in kerashub
    assert "0.896, 300 steps" in upcycling
    record = json.loads((ROOT / "guides" / "upcycling.json").read_text())
    for model in record["models"].values():
        assert f"{model['held_out_loss'][-1]:.2f}" in upcycling
    # A link to nowhere is found.
    (site / "models.html").write_text('<a href="routers.html#nowhere">')
    (broken,) = links.check(site)[0]
    assert broken.startswith("models.html leads to routers.html#nowhere")
    # A search that finds nothing is found.
    monkeypatch.setattr(links, "SEARCHES", {"no such word": "faq.html"})
    assert links.not_found(site) == [
        "the search for 'no such word' does not find faq.html"
    ]


def test_docstrings_become_markdown(monkeypatch):
    markdown = load("docstrings", monkeypatch).markdown
    assert markdown(
        "Does it (arXiv 2308.00951):\n\n    y = x\n\nArgs:\n    x: a word,\n"
        "        or two.\n\nReturns:\n    A dictionary.\n\n    - `a`: one.\n\n"
        "Mask: Boolean,\n    of two [axes](\n    here).\n\n"
        "Example:\n\n>>> 1 + 1\n2"
    ) == (
        "Does it ([arXiv 2308.00951](https://arxiv.org/abs/2308.00951)):\n\n"
        "```text\ny = x\n```\n\nArgs:\n    x: a word,\n        or two.\n\n"
        "**Returns:**\n\nA dictionary.\n\n- `a`: one.\n\n"
        "**Mask:** Boolean, of two [axes](here).\n\n"
        "**Example:**\n\n```pycon\n>>> 1 + 1\n2\n```"
    )


def test_curves_of_tokens_and_of_experts(monkeypatch):
    curves = load("curves", monkeypatch)
    rows = [
        {"tokens": n, "mode": m, "of": of, "seconds": s}
        for n, m, of, s in (
            ("64", "F", "ours", "0.1"),
            ("128", "F", "ours", "0.2"),
            ("64", "F", "peer", "0.3"),
            ("128", "F", "peer", ""),
        )
    ]
    assert curves.lines(rows, "tokens", "seconds") == {
        ("ours", "F"): ([64, 128], [0.1, 0.2]),
        ("peer", "F"): ([64], [0.3]),
    }
    # A competitor that is the number to the right has no line of its own.
    rows = [{**row, "of": f"{row['tokens']} tokens"} for row in rows[:2]]
    assert curves.lines(rows, "tokens", "seconds") == {
        ("", "F"): ([64, 128], [0.1, 0.2]),
    }
    benchmarks = load("benchmarks", monkeypatch)
    _, files = benchmarks.chapters(RESULTS)
    for op in curves.CURVES:
        drawn = [f for name, f in files.items() if f"/{op}-" in name]
        assert drawn and all("<svg" in file for file in drawn)


def test_benchmarks_of_either_form_are_drawn(monkeypatch, tmp_path):
    benchmarks = load("benchmarks", monkeypatch)
    (tmp_path / "some_op-jax-1.0-cpu.csv").write_text(
        "op,mode,tokens,dtype,of,seconds,/peer,smallest,largest\n"
        "there,F,16,float32,peer,0.2,1.000,1.000,1.000\n"
        "there,F,16,float32,ours,0.1,0.500,0.400,0.700\n"
        "there,F,32,float32,ours,0.1,0.250,0.200,0.300\n"
        "there,F,64,float32,ours,,,,\n"
    )
    (tmp_path / "wide.csv").write_text(
        "op,mode,tokens,peer_s,ours_s,ours/peer,smallest,largest\n"
        "back+forth,FB,8,0.2,0.1,0.5,0.4,0.7\n"
    )
    (tmp_path / "two.csv").write_text("size,a/b,a/c\n8,0.5,2.0\n")
    (tmp_path / "zero.csv").write_text("what,mb\nthis|that,3\n")
    long, wide = (
        benchmarks.read(tmp_path / name)
        for name in ("some_op-jax-1.0-cpu.csv", "wide.csv")
    )
    assert benchmarks.bars(long, "/peer") == [
        ("16", "ours", 0.5, 0.4, 0.7),
        ("32", "ours", 0.25, 0.2, 0.3),
    ]
    assert benchmarks.bars(wide, "ours/peer") == [("", "ours", 0.5, 0.4, 0.7)]
    text, pictures = benchmarks.chapters(tmp_path)
    assert set(pictures) == {
        "benchmarks/some_op-jax-1.0-cpu-there-F-_peer.svg",
        "benchmarks/two-two-None-a_b.svg",
        "benchmarks/two-two-None-a_c.svg",
        "benchmarks/wide-back_forth-FB-ours_peer.svg",
    }
    assert all("<svg" in picture for picture in pictures.values())
    assert "## Some op: jax 1.0, cpu" in text and "| this\\|that | 3 |" in text
    assert all(f"({name})" in text for name in pictures)


def test_notebooks_become_pages(monkeypatch, tmp_path):
    nbformat = pytest.importorskip("nbformat").v4
    notebooks = load("notebooks", monkeypatch)
    code = nbformat.new_code_cell("print(1)")
    cells = [nbformat.new_markdown_cell("# A guide"), code]
    path = tmp_path / "guide.ipynb"

    def write():
        path.write_text(
            importlib.import_module("nbformat").writes(
                nbformat.new_notebook(cells=cells)
            )
        )

    write()
    page, pictures = notebooks.page(path)
    assert page.startswith("# A guide") and not pictures
    assert "```python\nprint(1)\n```" in page and "guides/guide.ipynb" in page
    code.outputs = [
        nbformat.new_output("stream", name="stdout", text="one\n"),
        nbformat.new_output("display_data", {"image/png": "iVBORw0KGgo="}),
    ]
    setup = nbformat.new_code_cell("pip", metadata={"tags": ["setup"]})
    cells.insert(1, setup)
    write()
    page, pictures = notebooks.page(path)
    assert "    one" in page and "pip" not in page
    ((name, picture),) = pictures.items()
    assert name.startswith("guide_") and f"({name})" in page
    assert picture == b"\x89PNG\r\n\x1a\n"


def tables():
    """Tables of the page on migration: (peer, our layer's, pairs of names)."""
    text = (PAGES / "migration.md").read_text()
    for peer, ours in (
        ("SoftRouter", layers.SoftMoE),
        ("NoisyTopItemsPerExpertRouter", layers.ExpertChoiceMoE),
        ("NoisyTopExpertsPerItemRouter", layers.TokenChoiceMoE),
        ("dopamine", layers.SoftMoE),
        ("soft-moe-pytorch", layers.SoftMoE),
        ("`MixtralBackbone`", layers.TokenChoiceMoE),
        ("`QwenMoeBackbone`", layers.TokenChoiceMoE),
    ):
        start = text.index(f"### {peer}" if "Router" in peer else f"| {peer}")
        rows = re.search(r"(?:\|.*\n)+", text[start:])[0].splitlines()[2:]
        pairs = [[c.strip(" `") for c in row.split("|")[1:3]] for row in rows]
        yield peer, ours, pairs


def test_migration_names_arguments_that_exist():
    import keras_hub
    from soft_moe_pytorch import SoftMoE

    peers = {
        "soft-moe-pytorch": SoftMoE,
        "`MixtralBackbone`": keras_hub.models.MixtralBackbone,
        "`QwenMoeBackbone`": keras_hub.models.QwenMoeBackbone,
    }
    for peer, ours, pairs in tables():
        here = set(inspect.signature(ours).parameters) | {"–"}
        assert {name for _, name in pairs} <= here, peer
        there = [name for name, _ in pairs]
        assert len(there) == len(set(there)) and "num_experts" in there
        if peer in peers:
            known = inspect.signature(peers[peer].__init__).parameters
            assert set(there) <= set(known), peer
        if peer == "soft-moe-pytorch":  # whose arguments are all the router's
            assert set(there) == set(known) - {"self"}


def test_normalised_gates_compute_what_mixtral_computes():
    from keras_hub.src.models.mixtral import mixtral_decoder

    text = (PAGES / "migration.md").read_text()
    said = {}
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(code, "migration.md", "exec"), said)
    ours, theirs = (
        said["block"],
        mixtral_decoder.MixtralSparseMoeBlock(
            hidden_dim=16, intermediate_dim=32, num_experts=8, top_k=2
        ),
    )
    theirs.build((None, None, 16))
    bank = theirs.expert_bank
    ours.router_kernel.assign(theirs._sparse_feedforward_gate_dense.kernel)
    for mine, name in (("gate", "gate"), ("up", "intermediate")):
        kernel = getattr(bank, f"_expert_feedforward_{name}_dense")
        getattr(ours.experts, mine).kernel.assign(kernel)
    ours.experts.down.kernel.assign(bank._expert_feedforward_output_dense)
    tokens = said["tokens"]
    expected, _ = theirs(tokens)
    close = {"rtol": 1e-5, "atol": 1e-6}
    np.testing.assert_allclose(numpy(ours(tokens)), numpy(expected), **close)
    # The layer as it is has other gates.
    plain = layers.TokenChoiceMoE.from_config(
        ours.get_config() | {"normalize_gates": False}
    )
    plain.build(tokens.shape)
    plain.set_weights(ours.get_weights())
    assert abs(numpy(plain(tokens)) - numpy(expected)).max() > 1e-2


@pytest.mark.parametrize("name", ["README.md", "zoo/README.md"])
def test_links_of_a_readme_lead_somewhere(name):
    path = ROOT / name
    links = re.findall(r"\]\(([^)#\s]+)", path.read_text())
    own = [link for link in links if "://" not in link]
    assert len(own) > 3
    assert [link for link in own if not (path.parent / link).exists()] == []


def test_readme_figures_are_those_of_the_records():
    readme = (ROOT / "README.md").read_text()
    results = readme[readme.index("## Results") : readme.index("## What each")]
    zoo = (ROOT / "zoo" / "README.md").read_text()
    for figure in re.findall(r"\d\.\d{4}", results):
        assert figure in zoo
    names = re.findall(r"^\| `(\w+)`, ", results, re.M)
    assert len(names) == 5 and set(compare.winners()) < set(names)
    assert len(compare.winners()) == 2
    said = "of the five small models [below](#results), two gain"
    assert said in " ".join(readme.split())
    page = " ".join((PAGES / "routers.md").read_text().split())
    assert "two are better than their dense twins at equal time" in page
    for name, pattern in (
        ("gather", "hard_plans-*.csv"),
        ("shared_exp", "soft_routing-*.csv"),
    ):
        (said,) = re.findall(
            rf'"{name}"` \| (\d\.\d+) to (\d\.\d+) \|', results
        )
        found = []
        for path in RESULTS.glob(pattern):
            for row in csv.DictReader(path.read_text().splitlines()):
                if "/reference" in row and row["of"] == name:
                    found.append(float(row["/reference"]))
        assert said == (f"{min(found):.3f}", f"{max(found):.3f}")
    (said,) = re.findall(
        r"TokenChoiceMoE\(32, top_k=2\)`.* \| (\d\.\d+) to (\d\.\d+) \|",
        results,
    )
    found = []
    for path in RESULTS.glob("token_choice_layers-*.csv"):
        for row in csv.DictReader(path.read_text().splitlines()):
            if row["of"].startswith("capacity"):
                found.append(float(row["/KerasHub"]))
    assert said == (f"{min(found):.3f}", f"{max(found):.3f}")
    (said,) = re.findall(
        r"capacity_factor=None\)`, 1,024 .* \| (\d\.\d+) to (\d+\.\d+); "
        r"KerasHub's Qwen3 block (\d\.\d+) to (\d+\.\d+) \|",
        results,
    )
    found = {"dropless": [], "KerasHub": []}
    for path in RESULTS.glob("grouped-*.csv"):
        for row in csv.DictReader(path.read_text().splitlines()):
            if row["of"] in found and row["tokens"] == "1024":
                found[row["of"]].append(float(row["/dense MLP"]))
    ends = [f(found[of]) for of in ("dropless", "KerasHub") for f in (min, max)]
    assert said == tuple(f"{end:.3f}" for end in ends)


def ratios(name, column, **sizes):
    """The ratios of records, by the competitor and the backend."""
    found = {}
    for path in RESULTS.glob(f"{name}-*.csv"):
        backend = path.stem.split("-")[1]
        for row in csv.DictReader(path.read_text().splitlines()):
            if all(row[key] == value for key, value in sizes.items()):
                ends = found.setdefault((row["of"], backend), [])
                ends.append(float(row[column]))
    return found


def grown(what, least, most, column, mode):
    """How many times as much a dropless layer takes, on each backend."""
    op = {"op": f"more {what}", "mode": mode}
    few = ratios("grouped_growth", column, **{what: least}, **op)
    many = ratios("grouped_growth", column, **{what: most}, **op)
    return [many[key][0] / few[key][0] for key in few if key[0] == "dropless"]


def test_benchmarks_page_says_what_the_records_say():
    text = " ".join((PAGES / "benchmarks.md").read_text().split())
    many = ratios("grouped", "/dense MLP", tokens="1024")
    one = ratios("grouped", "/dense MLP", tokens="1", experts="128", mode="F")

    def ends(found, of):
        values = [
            v for (name, _), vs in found.items() if name == of for v in vs
        ]
        return min(values), max(values)

    least, most = ends(many, "dropless")
    assert f"1,024 tokens it takes {least:.1f} to {most:.1f} times" in text
    least, most = ends(many, "KerasHub")
    assert f"computes every expert, {least:.1f} to {most:.0f} times" in text
    least, most = ends(one, "KerasHub")
    assert f"the block {least:.0f} to {most:.0f} times" in text
    least, most = ends(one, "dropless")
    assert f"experts, the layer takes {least:.1f} to {most:.1f} times" in text
    for mode, largest, words in (
        ("F", "65536", "65,536 takes {} to {} of the time"),
        ("FB", "16384", "16,384 takes {} to {}. With 256"),
    ):
        said = grown("tokens", "1024", largest, "seconds", mode)
        said = [f"{v * 1024 / int(largest):.2f}"[1:] for v in said]
        assert words.format(min(said), max(said)) in text
    for mode, words in (
        ("F", "it takes {:.2f} to {:.2f} times as long"),
        ("FB", "and {:.2f} to {:.2f} times with gradients"),
    ):
        said = grown("experts", "8", "256", "/dense MLP", mode)
        assert words.format(min(said), max(said)) in text
    found = ratios("grouped_memory", "peak_extra_mib")
    mib = [value for values in found.values() for value in values]
    assert f"take {min(mib):.0f} to {max(mib):.0f} MiB beyond" in text
    limits = ratios("grouped_memory", "bound_mib")
    parts = [
        part / bound
        for key, values in found.items()
        for part, bound in zip(values, limits[key])
    ]
    parts = [f"{end:.2f}"[1:] for end in (min(parts), max(parts))]
    assert "{} to {} of 4·T·k·(D + 2F) numbers".format(*parts) in text
    layers = ratios("soft_moe_layers", "/plain")
    for backend, said in (
        ("jax", "It takes {} to {} of the time of the plain formulas on JAX"),
        ("tensorflow", "and {} to {} on TensorFlow"),
        ("torch", "and {} to {} on PyTorch"),
    ):
        values = layers["SoftMoE", backend]
        pair = (f"{min(values):.2f}", f"{max(values):.2f}")
        said = said.format(*(end.removeprefix("0") for end in pair))
        assert said in text


def test_recomputing_takes_less_memory_on_each_backend():
    records = sorted((ROOT / "tests/benchmarks/results").glob("recomputed-*"))
    assert len(records) == 3
    for path in records:
        with path.open(newline="") as file:
            kept, recomputed = csv.DictReader(file)
        assert (kept["of"], recomputed["of"]) == ("kept", "recomputed")
        less, more = (int(r["peak_extra_mib"]) for r in (recomputed, kept))
        assert less < 0.75 * more, path.name


def test_two_towers_page_says_what_the_records_say():
    page = (ROOT / "guides/site/pages/two_towers.md").read_text()
    text = " ".join(page.split())
    (row,) = {key[0] for key in ratios("embedding", "/image tower")} - {
        "image tower"
    }
    found = ratios("embedding", "/image tower")
    said = "takes {} (JAX), {} (TensorFlow) or {} (PyTorch) times"
    backends = ("jax", "tensorflow", "torch")
    assert said.format(*(f"{found[row, b][0]:.2f}" for b in backends)) in text
    for kind, said in (
        ("sigmoid", "{} (JAX), {} (TensorFlow) or {} (PyTorch) of the plain"),
        ("softmax", "{}, {} or {} of it"),
    ):
        found = ratios("contrastive_loss", "/plain", kind=kind)
        one = [f"{found['chunked', b][0]:.2f}" for b in backends]
        assert said.format(*one) in text
        memory = ratios("contrastive_loss", "peak_extra_mib", kind=kind)
        for b in backends:
            assert memory["chunked", b][0] <= memory["plain", b][0] / 4


def test_benchmarks_page_gives_ratios_of_the_records():
    text = " ".join((PAGES / "benchmarks.md").read_text().split())

    def ends(values):
        return tuple(
            f"{end:.2f}".removeprefix("0") for end in (min(values), max(values))
        )

    gather = sum(
        (
            values
            for (of, _), values in ratios("hard_plans", "/reference").items()
            if of == "gather"
        ),
        [],
    )
    assert f"at most {max(gather):.2f} times" in text
    assert 0.005 < min(gather) < 0.015  # "a hundredth"
    capacity = [
        value
        for (of, _), values in ratios(
            "token_choice_layers", "/KerasHub"
        ).items()
        if of.startswith("capacity")
        for value in values
    ]
    assert (round(1 / max(capacity)), round(1 / min(capacity))) == (7, 17)
    products = [
        value
        for slots in ("7", "32", "128")  # many rows for each expert
        for (of, _), values in ratios(
            "soft_moe_layers", "/plain", slots=slots
        ).items()
        if of == "products"
        for value in values
    ]
    least, most = ends(products)
    assert f"it takes {least} to {most} of the time of the plain" in text
    layers = ratios("soft_moe_layers", "/plain")
    ours = layers["SoftMoE", "torch"]
    for of, sentence in (
        ("soft-moe", "`soft-moe` takes {:.1f} to {:.1f} times"),
        ("soft-moe-pytorch", "`soft-moe-pytorch` {:.1f} to {:.0f} times"),
    ):
        found = [a / b for a, b in zip(layers[of, "torch"], ours)]
        assert sentence.format(min(found), max(found)) in text
    overhead = ratios("keras_overhead", "/native")
    compiled = overhead["SoftMoE", "jax"] + overhead["SoftMoE", "tensorflow"]
    assert "takes {} to {} of the time of the same".format(*ends(compiled)) in (
        text
    )
    experts = {
        number: [
            value
            for values in ratios(
                "soft_moe_experts", "/8 experts", experts=number
            ).values()
            for value in values
        ]
        for number in ("32", "128", "512")
    }
    assert f"up to {max(experts['32'] + experts['128']):.2f} times" in text
    assert "{} to {} times for 512".format(*ends(experts["512"])) in text
    vision, language = (
        ratios("whole_models", "/dense", op=f"{op}, training step")
        for op in ("ViT S/16", "language model")
    )
    steps = {backend: vision["SoftMoE", backend][0] for backend in BACKENDS}
    assert (
        f"{steps['torch']:.1f} times as long on PyTorch, "
        f"{steps['tensorflow']:.1f} times on TensorFlow and "
        f"{steps['jax']:.1f} times on JAX"
    ) in text
    steps = [f"{language['MixtureOfTokens', b][0]:.2f}" for b in BACKENDS]
    assert "{}, {} and {} times as long as the dense".format(*steps) in text
    (pages,) = (
        values
        for (of, _), values in ratios("huge_pages", "/usual").items()
        if of == "huge pages"
    )
    assert "then takes {} to {} of the time".format(*ends(pages)) in text


def test_headlines_show_the_records(monkeypatch):
    headlines = load("headlines", monkeypatch)
    pictures = headlines.pictures(RESULTS)
    assert len(pictures) == 9
    text = headlines.markdown(RESULTS)
    assert all(f"({name})" in text for name in pictures)
    (capacity, *_) = headlines.HEADLINES
    rows = [
        {"batch": "2", "tokens": "1024", "mode": "F", "of": of, "/KerasHub": r}
        for of, r in (("KerasHub", "1.0"), ("capacity 1", "0.1"), ("no", "3"))
    ]
    assert headlines.bars(capacity, rows) == {
        "2 × 1,024 tokens, forward pass": {
            "KerasHub, every expert": 1.0,
            "TokenChoiceMoE, capacity factor 1": 0.1,
        }
    }


def test_pages_show_the_records_of_runs(monkeypatch):
    runs = load("runs", monkeypatch)
    found = runs.read(runs.SELECTIONS)
    table = runs.selections_table()
    for name, one in found.items():
        assert f"| `{name}` | {one['validation'][-1]:.3f} |" in table
    page = " ".join((PAGES / "routers.md").read_text().split())
    steps = len(found["top_k"]["validation"]) * 200
    assert f"small models after {steps:,} steps" in page
    record = runs.read(runs.VALUES)
    table = runs.values_table()
    for head in record["heads"].values():
        last = ", ".join(f"{curve[-1]:.1f}" for curve in head["returns"])
        assert f"{head['parameters']:,}" in table and last in table
    page = " ".join((PAGES / "value_network.md").read_text().split())
    assert f"{record['steps']:,} steps" in page
    for picture in runs.pictures().values():
        assert picture.count("<svg") == 1
