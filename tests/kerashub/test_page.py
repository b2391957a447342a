"""The page of sparse experts says which goals the records meet."""

import csv
import pathlib

import pytest

from tests.kerashub import models

ROOT = pathlib.Path(__file__).parents[2]
RESULTS = ROOT / "tests" / "benchmarks" / "results"
PAGE = ROOT / "guides" / "site" / "pages" / "kerashub.md"
TEXT = " ".join(PAGE.read_text().split())
BACKENDS = ("jax", "tensorflow", "torch")
LONG = ("block, 1024 tokens", "prefill 512")


def rows(backend, mode):
    (path,) = RESULTS.glob(f"kerashub_quantised-{backend}-*.csv")
    found = csv.DictReader(path.read_text().splitlines())
    return [row for row in found if row["of"] == mode]


def times(backend, mode):
    return [float(row["/float"]) for row in rows(backend, mode)]


@pytest.mark.once
def test_goals_of_quantised_experts():
    assert "JAX meets it in 8 and in 4 bits: experts take less time" in TEXT
    assert max(times("jax", "int8") + times("jax", "int4")) < 1
    assert "PyTorch meets it in 8 bits, and in 4 bits for some inputs" in TEXT
    assert max(times("torch", "int8")) <= 1.3
    assert min(times("torch", "int4")) <= 1.3 < max(times("torch", "int4"))
    assert "TensorFlow meets it in 8 bits for long inputs" in TEXT
    for row in rows("tensorflow", "int8"):
        if row["op"] in LONG:
            assert float(row["/float"]) <= 1.3
    assert max(times("tensorflow", "int8")) > 1.3
    assert "2% in int8, which is met, and 8% in 4 bits, which is missed" in TEXT
    assert "in 4 bits for the prefill of gpt-oss alone" in TEXT
    quick = [r for r in rows("tensorflow", "int4") if float(r["/float"]) <= 1.3]
    assert [(r["family"], r["op"]) for r in quick] == [
        ("gpt-oss", "prefill 512")
    ]
    for backend in BACKENDS:
        for row in rows(backend, "int8"):
            assert float(row["block_error"]) <= 0.02
        for row in rows(backend, "int4"):
            assert float(row["block_error"]) > 0.08


@pytest.mark.once
def test_errors_of_logits():
    assert (
        "of Mixtral and Qwen3-MoE stay within 2% in int8 and within 8% in 4 "
        "bits. Those of gpt-oss exceed both goals, up to 5.7% and 24.4%"
    ) in TEXT
    for mode, goal, most in (("int8", 0.02, 0.057), ("int4", 0.08, 0.244)):
        errors = {}
        for backend in BACKENDS:
            for row in rows(backend, mode):
                own = errors.setdefault(row["family"], [])
                own.append(float(row["logits_error"]))
        assert round(max(errors["gpt-oss"]), 3) == most > goal
        assert min(errors.pop("gpt-oss")) > goal
        assert set(errors) == {"Mixtral", "Qwen3-MoE"}
        assert max(max(own) for own in errors.values()) <= goal


def records(table, backend):
    (path,) = RESULTS.glob(f"{table}-{backend}-*.csv")
    return list(csv.DictReader(path.read_text().splitlines()))


def meeting(backend, op, goal, batch="1", table="kerashub_models"):
    """The families that are faster by this share of E/k."""
    return {
        row["family"]
        for row in records(table, backend)
        if row["of"] == "sparse"
        and row["op"].startswith(op)
        and row["batch"] == batch
        and int(row["top_k"]) / int(row["experts"]) / float(row["/KerasHub"])
        >= goal
    }


@pytest.mark.once
def test_goals_of_sparse_experts():
    assert "On PyTorch, gpt-oss and Qwen3.5-MoE miss it." in TEXT
    assert "for all families but Qwen1.5-MoE on PyTorch" in TEXT
    assert "for all families but Gemma 4 on JAX and TensorFlow" in TEXT
    assert "Prefill meets it for gpt-oss on JAX alone" in TEXT
    everyone = set(models.FAMILIES)
    for backend in BACKENDS:
        torch, jax = backend == "torch", backend == "jax"
        found = meeting(backend, "block, 1 tokens", 0.7)
        assert everyone - found == (
            {"gpt-oss", "Qwen3.5-MoE"} if torch else set()
        )
        found = meeting(backend, "block, 1024", 0.8)
        assert found == (
            everyone - {"Qwen1.5-MoE"} if torch else {"Mixtral", "gpt-oss"}
        )
        found = meeting(backend, "generate", 0.7)
        assert found == ({"Mixtral"} if torch else everyone - {"Gemma 4"})
        found = meeting(backend, "generate", 0.7, "8")
        assert found == (set() if torch else {"Mixtral"})
        assert meeting(backend, "prefill", 0.8) == (
            {"gpt-oss"} if jax else set()
        )
        found = meeting(backend, "training", 0.6)
        assert found == ({"Mixtral"} if backend == "tensorflow" else set())


@pytest.mark.once
def test_goals_of_long_models():
    everyone, long = set(models.FAMILIES), "kerashub_long"
    assert (
        "meets the goal for all six families on JAX and TensorFlow, and for "
        "Mixtral alone on PyTorch."
    ) in TEXT
    assert (
        "meets it for Mixtral on JAX, for Mixtral and gpt-oss on TensorFlow, "
        "and for no family on PyTorch. Prefill misses it for all. A training "
        "step meets it for Mixtral on TensorFlow alone."
    ) in TEXT
    eight = {"jax": {"Mixtral"}, "tensorflow": {"Mixtral", "gpt-oss"}}
    for backend in BACKENDS:
        torch = backend == "torch"
        measured = {row["family"] for row in records(long, backend)}
        assert measured == everyone
        found = meeting(backend, "generate", 0.7, table=long)
        assert found == ({"Mixtral"} if torch else everyone)
        found = meeting(backend, "generate", 0.7, "8", long)
        assert found == eight.get(backend, set())
        assert not meeting(backend, "prefill", 0.8, table=long)
        found = meeting(backend, "training", 0.6, table=long)
        assert found == ({"Mixtral"} if backend == "tensorflow" else set())


@pytest.mark.once
def test_goal_of_memory():
    assert "PyTorch meets it. JAX and TensorFlow miss it" in TEXT
    for backend in BACKENDS:
        (path,) = RESULTS.glob(f"kerashub_memory-{backend}-*.csv")
        found = csv.DictReader(path.read_text().splitlines())
        peaks = {row["of"]: float(row["peak_extra_mib"]) for row in found}
        meets = 5 * peaks["sparse"] <= peaks["KerasHub"]
        assert meets is (backend == "torch")
