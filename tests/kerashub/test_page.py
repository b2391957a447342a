"""The page of sparse experts says of quantised ones as the records say."""

import csv
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[2]
RESULTS = ROOT / "tests" / "benchmarks" / "results"
PAGE = ROOT / "guides" / "site" / "pages" / "kerashub.md"
LONG = ("block, 1024 tokens", "prefill 512")


def rows(backend, mode):
    (path,) = RESULTS.glob(f"kerashub_quantised-{backend}-*.csv")
    found = csv.DictReader(path.read_text().splitlines())
    return [row for row in found if row["of"] == mode]


def times(backend, mode):
    return [float(row["/float"]) for row in rows(backend, mode)]


@pytest.mark.once
def test_goals_of_quantised_experts():
    text = " ".join(PAGE.read_text().split())
    assert "JAX meets it in 8 and in 4 bits: experts take less time" in text
    assert max(times("jax", "int8") + times("jax", "int4")) < 1
    assert "PyTorch meets it in 8 bits, and in 4 bits for some inputs" in text
    assert max(times("torch", "int8")) <= 1.3
    assert min(times("torch", "int4")) <= 1.3 < max(times("torch", "int4"))
    assert "TensorFlow meets it in 8 bits for long inputs" in text
    for row in rows("tensorflow", "int8"):
        if row["op"] in LONG:
            assert float(row["/float"]) <= 1.3
    assert max(times("tensorflow", "int8")) > 1.3
    assert "2% in int8, which is met, and 8% in 4 bits, which is missed" in text
    for backend in ("jax", "tensorflow", "torch"):
        for row in rows(backend, "int8"):
            assert float(row["block_error"]) <= 0.02
        for row in rows(backend, "int4"):
            assert float(row["block_error"]) > 0.08
