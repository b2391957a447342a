"""A Hub on the loopback, and the client as if it had been started for it."""

import time

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import disable_progress_bars

from tests.hub import server


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The server; `HF_ENDPOINT` and the others are read at import."""
    disable_progress_bars()
    with server.running() as running:
        template = (
            f"{running.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        )
        cache = str(tmp_path / "cache")
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", cache)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        # Requests that failed are repeated after some seconds.
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        yield running


@pytest.fixture
def records(tmp_path, monkeypatch):
    """An empty folder of results, and other files for the lists of presets."""
    from zoo.measure import results
    from zoo.publish import table

    folder = tmp_path / "results"
    monkeypatch.setattr(results, "FOLDER", folder)
    monkeypatch.setattr(table, "PATH", tmp_path / "zoo" / "README.md")
    monkeypatch.setattr(table, "CATALOGUE", tmp_path / "catalogue.json")
    return folder
