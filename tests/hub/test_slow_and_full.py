"""A server that dribbles, a disk that is full: the weights, or an error."""

import contextlib
import resource

import pytest
from huggingface_hub import constants

from keras_moe.models.presets import finding
from keras_moe.models.presets import manifest
from tests.hub.server import Fault

pytestmark = pytest.mark.once

HANDLE = "hf://someone/tiny"
CONTENT = {
    "config.json": b"{}",
    "model.weights.h5": bytes(range(256)) * 40,
    "task.weights.h5": bytes(range(255, -1, -1)) * 3,
}


@pytest.fixture
def repo(hub, tmp_path):
    folder = tmp_path / "preset"
    folder.mkdir()
    for name, content in CONTENT.items():
        (folder / name).write_bytes(content)
    manifest.write_manifest(folder)
    hub.push("someone/tiny", {p.name: p.read_bytes() for p in folder.iterdir()})
    return hub


def check_whole():
    found = finding.find(HANDLE)
    for name, content in CONTENT.items():
        with open(f"{found}/{name}", "rb") as file:
            assert file.read() == content


def test_a_slow_body_is_waited_for(repo, monkeypatch):
    """It takes longer than the client waits, but each piece comes in time."""
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.4)
    repo.faults = [Fault("/model.weights.h5", pause=0.1)]
    check_whole()


def test_a_body_that_stalls(repo, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.05)
    repo.faults = [Fault("/model.weights.h5", pause=2)]
    with pytest.raises(OSError, match="lacks model.weights.h5.*timed out"):
        finding.find(HANDLE)
    repo.faults = []
    check_whole()


@contextlib.contextmanager
def files_end_after(size):
    """The system refuses to write further into any file: EFBIG.

    It stands for a full disk, which takes the rights to mount one.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 1, 500, 5000])
def test_a_full_disk(size, repo):
    """From the first byte on, or in the middle of one of the files."""
    with files_end_after(size), pytest.raises(OSError) as raised:
        finding.find(HANDLE)
    said = str(raised.value)
    assert HANDLE in said and "cannot be written" in said, said
    assert "File too large" in said and "HF_HUB_CACHE" in said, said
    check_whole()


def test_the_disk_fills_up_when_a_file_is_mended(repo):
    check_whole()
    folder = finding.resolve(HANDLE)
    with open(f"{folder}/model.weights.h5", "r+b") as file:
        file.write(b"?")
    with pytest.raises(manifest.DamagedFile, match="deleted from the cache"):
        finding.find(HANDLE)
    with files_end_after(5000), pytest.raises(OSError, match="be written"):
        finding.find(HANDLE)
    check_whole()
