"""Figures of the page about two towers are those on record."""

import csv
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[3]
PAGE = ROOT / "guides/site/pages/two_towers.md"
RESULTS = ROOT / "tests/benchmarks/results"
BACKENDS = {"jax": "JAX", "tensorflow": "TensorFlow", "torch": "PyTorch"}


@pytest.mark.once
def test_times_of_embedding():
    figures = []
    for backend, name in BACKENDS.items():
        (path,) = RESULTS.glob(f"embedding-{backend}-*-cpu.csv")
        _, row = csv.DictReader(path.read_text().splitlines())
        assert row["of"] == "encode_image"
        figures.append(f"{float(row['/image tower']):.2f} ({name})")
    text = f"takes {figures[0]}, {figures[1]} or {figures[2]} times as long"
    assert text in " ".join(PAGE.read_text().split())
