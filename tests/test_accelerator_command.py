"""`python -m tests.accelerator` where there is no accelerator."""

import csv

import pytest

from keras_moe import ops as moe_ops
from tests import support
from tests.accelerator import __main__ as command
from tests.accelerator import chip
from tests.accelerator import memory
from tests.accelerator import run
from tests.accelerator import sizes
from tests.accelerator import tables
from tests.accelerator.items import Item
from tests.benchmarks import timing

pytestmark = pytest.mark.once


def test_parity_is_checked_on_a_cpu(tmp_path, capsys):
    assert command.main(["--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"No accelerator is here for {support.BACKEND}")
    (path,) = tmp_path.iterdir()
    assert path.name.startswith(f"accelerator_parity-{support.BACKEND}-")
    assert path.name.endswith("-cpu.csv")
    with path.open() as file:
        rows = list(csv.DictReader(file))
    done = {(row["of"], row["kind"]) for row in rows}
    assert done == {
        (name, kind)
        for name, one in moe_ops.IMPLEMENTATIONS.items()
        for kind in one.plans
        if support.BACKEND in one.backends
    }
    assert all(int(row["cases"]) > 0 for row in rows)


def test_without_out_a_cpu_leaves_no_records(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(timing, "RESULTS", tmp_path)
    item = Item("parity", "nothing", lambda: [{"op": "nothing"}])
    monkeypatch.setitem(run.PARTS, "parity", lambda chip: [item])
    assert command.main([]) == 0
    assert not list(tmp_path.iterdir())
    assert "parity 1/1: nothing (" in capsys.readouterr().out


def test_what_fails_stops_nothing_else(monkeypatch, tmp_path, capsys):
    def fails():
        raise RuntimeError("of no\nmemory")

    def broken(chip):
        raise ValueError("no such part")

    items = [
        Item("one", "bad", fails),
        Item("one", "good", lambda: [{"op": "good"}]),
    ]
    monkeypatch.setitem(run.PARTS, "parity", lambda chip: items)
    monkeypatch.setitem(run.PARTS, "reads", broken)
    parts = ["--parts", "parity", "reads", "--out", str(tmp_path)]
    assert command.main(parts) == 1
    said = capsys.readouterr().out
    assert "FAILED parity: bad: RuntimeError: of no memory" in said
    assert "FAILED reads: ValueError: no such part" in said
    assert [path.read_text().count("good") for path in tmp_path.iterdir()] == [
        1
    ]


def test_what_is_not_reached_is_a_failure(monkeypatch, capsys):
    item = Item("one", "late", list)
    monkeypatch.setitem(run.PARTS, "parity", lambda chip: [item])
    assert command.main(["--minutes", "1e-9"]) == 1
    said = capsys.readouterr().out
    assert "FAILED parity: not reached in the time: late" in said


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf", "soon"])
def test_minutes_that_do_not_fit(minutes, capsys):
    with pytest.raises(SystemExit) as end:
        command.main(["--minutes", minutes])
    assert end.value.code == 2
    assert "argument --minutes" in capsys.readouterr().err


def test_a_table_and_memory_of_each_kind(monkeypatch):
    """The items at a small size: a row for each implementation."""
    monkeypatch.setattr(timing, "SHORTEST", 1e-9)
    monkeypatch.setattr(tables, "TURNS", 1)
    here = chip.Chip("cpu", "cpu", "", 2**23)
    monkeypatch.setattr(tables, "DTYPE", "float32")
    monkeypatch.setattr(memory, "DTYPE", "float32")
    small = {"groups": 1, "tokens": 16, "features": 8, "experts": 4}
    monkeypatch.setattr(tables, "ROUTED", (small, small))
    monkeypatch.setattr(tables, "LAYER", {**small, "hidden": 8})
    for items in (tables.items, memory.items):
        keys = {}
        for item in items(here):
            for row in item.run():
                assert keys.setdefault(item.table, list(row)) == list(row)
    size = {**small, "hidden": 8}
    rows = list(tables.whole("SoftMoE", "F", "float32", size))
    names = [row["of"] for row in rows]
    assert names[0] == "reference" and names[-1] == "products"


def test_sizes_that_fit():
    size = {"groups": 4, "tokens": 1024}
    found = sizes.fitted(size, lambda groups, tokens: groups * tokens, 1024)
    assert found == {"groups": 4, "tokens": 128}
    with pytest.raises(MemoryError):
        sizes.fitted(size, lambda groups, tokens: 10**9, 1024)


def test_a_chip_names_files():
    made = chip.Chip("gpu", "NVIDIA H100 80GB-HBM3", "driver 1", 2**30)
    assert made.slug == "nvidia_h100_80gb_hbm3"
    assert set(made.columns()) == {"chip", "driver", "versions", "threads"}
