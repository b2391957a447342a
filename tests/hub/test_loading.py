"""What comes from the Hub is exactly what was put there, or is refused."""

import json
import pathlib
from concurrent import futures

import pytest
from huggingface_hub import constants

from keras_moe.models.presets import catalogue
from keras_moe.models.presets import finding
from keras_moe.models.presets import hub as downloads
from keras_moe.models.presets import manifest as manifests
from tests.hub.server import Fault

pytestmark = pytest.mark.once

HANDLE = "hf://someone/tiny"
CONTENT = {
    "config.json": b'{"registered_name": "none"}',
    "task.json": b"{}",
    "model.weights.h5": bytes(range(256)) * 40,
    "task.weights.h5": bytes(range(255, -1, -1)) * 3,
    "assets/tokenizer/vocabulary.json": b'{"a": 0}',
}
FILES = [*CONTENT, manifests.MANIFEST]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The files of a preset, as far as checksums go, with its manifest."""
    folder = tmp_path_factory.mktemp("preset")
    for name, content in CONTENT.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    manifests.write_manifest(folder)
    return {**CONTENT, manifests.MANIFEST: (folder / FILES[-1]).read_bytes()}


@pytest.fixture
def repo(hub, whole):
    hub.push("someone/tiny", whole)
    return hub


def found(handle=HANDLE):
    """The files that a preset would be read from, after all checks."""
    folder = pathlib.Path(finding.find(handle))
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def refused(*texts, handle=HANDLE, error=(OSError, ValueError)):
    with pytest.raises(error) as raised:
        finding.find(handle)
    for text in texts:
        assert text in str(raised.value), str(raised.value)


def test_whole_and_by_revision(repo, whole):
    assert found() == whole
    first = repo.find("someone/tiny", "main")[0]
    repo.push("someone/tiny", {"config.json": b"{}"})
    assert found(f"{HANDLE}@{first}") == whole
    assert found() == {"config.json": b"{}"}
    refused("someone/tiny", "no-such", handle=f"{HANDLE}@no-such")


@pytest.mark.parametrize(
    "handle", ["hf://", "hf://a", "hf://a/b/c", "hf://a/b@", "hf://a/b c"]
)
def test_handles_of_another_form(handle):
    refused(repr(handle), handle=handle, error=ValueError)


# What the server does to a file, and what is said; None where the client
# gets over it by itself.
FAULTS = {
    "404": ({"status": 404}, "404"),
    "401": ({"status": 401}, "401"),
    "403": ({"status": 403}, "403"),
    "429": ({"status": 429}, "429"),
    "429 twice": ({"status": 429, "times": 2}, None),
    "500": ({"status": 500}, "500"),
    "503": ({"status": 503}, "503"),
    "500 for the body": ({"status": 500, "method": "GET"}, "500"),
    "503 for the body": ({"status": 503, "method": "GET"}, "503"),
    "503 once": ({"status": 503, "times": 1}, None),
    "504": ({"status": 504}, "504"),
    "a slow body": ({"pause": 0.01}, None),
    "cut at the start": ({"cut": 0}, ""),
    "cut in the middle": ({"cut": 1}, "received 1 bytes"),
    "cut in the middle once": ({"cut": 1, "times": 1, "method": "GET"}, None),
    "wrong bytes, right length": ({"alter": True}, ""),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", FILES)
def test_faults_of_each_file(name, fault, repo, whole):
    does, says = FAULTS[fault]
    repo.faults = [Fault(f"/{name}", **does)]
    if says is None:
        assert found() == whole
        return
    refused("someone", "tiny", name, says)


def test_many_that_load_at_once(repo, whole):
    with futures.ThreadPoolExecutor(8) as threads:
        tasks = [threads.submit(found) for _ in range(8)]
    assert all(task.result() == whole for task in tasks)


def test_a_half_download_is_finished_later(repo, whole):
    repo.faults = [Fault("/model.weights.h5", cut=999, times=7, method="GET")]
    refused("model.weights.h5", error=OSError)
    repo.requests.clear()
    assert found() == whole
    fetched = [path for method, path in repo.requests if method == "GET"]
    assert sum(path.endswith("/config.json") for path in fetched) == 0


@pytest.mark.parametrize("status", [404, 401, 429, 500, 503])
def test_faults_of_the_listing(status, repo):
    repo.faults = [Fault("/revision/main", status=status)]
    refused(HANDLE, str(status), error=OSError)


def test_a_name_that_lives_on_the_hub(repo, whole, monkeypatch):
    """As `python -m zoo publish` notes it."""
    listed = {"elsewhere": {"places": {"hub": HANDLE}}}
    monkeypatch.setattr(catalogue, "list_presets", lambda: listed)
    assert found("elsewhere") == whole


# === The cache ===


def break_off(how, hub, patch):
    if how == "offline mode":
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
    elif how == "503":
        hub.faults = [Fault("", status=503)]
    else:
        patch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")


@pytest.mark.parametrize("how", ["no server", "503", "offline mode"])
def test_offline_before_and_after_caching(how, repo, whole, monkeypatch):
    with monkeypatch.context() as patch:
        break_off(how, repo, patch)
        refused(HANDLE, error=OSError)
    repo.faults = []
    assert found() == whole
    break_off(how, repo, monkeypatch)
    assert found() == whole


def cached(name):
    """Where the cache keeps the content of a file."""
    return (pathlib.Path(finding.resolve(HANDLE)) / name).resolve()


SPOILT = {
    "cut": lambda content: content[: len(content) // 2],
    "altered": lambda content: content[:9] + b"?" + content[10:],
    "empty": lambda content: b"",
}


@pytest.mark.parametrize("how", SPOILT)
@pytest.mark.parametrize("name", ["config.json", "task.weights.h5", FILES[-1]])
def test_a_spoilt_cache_is_said_once_and_mended(name, how, repo, whole):
    assert found() == whole
    cached(name).write_bytes(SPOILT[how](whole[name]))
    refused(name, "deleted from the cache", error=ValueError)
    assert found() == whole


def test_a_file_lost_from_the_cache_is_fetched(repo, whole, monkeypatch):
    folder = pathlib.Path(finding.find(HANDLE))
    (folder / "task.weights.h5").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        refused(HANDLE, "task.weights.h5")
    assert found() == whole


def test_without_a_manifest_the_checksums_of_the_hub_count(hub):
    """As git names files, or by SHA-256 as large ones are named."""
    hub.push("someone/tiny", CONTENT)
    assert found() == CONTENT
    blob = cached("model.weights.h5")
    blob.write_bytes(blob.read_bytes()[::-1])
    refused("model.weights.h5", "checksum that the Hub", error=ValueError)
    assert found() == CONTENT
    hub.faults = [Fault("/task.json", alter=True)]
    cached("task.json").unlink()
    refused("task.json", "checksum that the Hub", error=ValueError)
    large = blob.with_name(manifests.digest(blob))
    assert not downloads._altered(blob.rename(large))
    large.write_bytes(b"others")
    assert downloads._altered(large)


# === A repository that says what is not so, or wants too much ===


@pytest.mark.parametrize(
    "name", ["../../../outside.h5", "/outside.h5", "assets/../../outside.h5"]
)
def test_names_outside_of_the_folder(name, repo, whole, tmp_path):
    repo.push("someone/tiny", {**whole, name: b"taken"})
    refused(HANDLE, "outside.h5")
    written = [p for p in tmp_path.rglob("outside.h5") if p.is_file()]
    assert not [p for p in written if "snapshots" not in p.parts]
    assert not pathlib.Path("/outside.h5").exists()


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "a/../../b", "c:\\d"])
def test_a_manifest_of_files_elsewhere(name, hub, whole):
    manifest = json.loads(whole[manifests.MANIFEST])
    manifest["files"][name] = {"bytes": 3, "sha256": "0" * 64}
    content = json.dumps(manifest).encode()
    hub.push("someone/tiny", {**whole, manifests.MANIFEST: content})
    refused(repr(name), "its own folder", error=ValueError)


@pytest.mark.parametrize("name", ["../a.weights.h5", "/b.weights.h5"])
@pytest.mark.parametrize("listed", [True, False])
def test_an_index_of_weights_elsewhere(name, listed, hub, tmp_path):
    """KerasHub opens the files that the index names, wherever they are."""
    index = json.dumps({"weight_map": {"a": "x.weights.h5", "b": [name]}})
    files = {"config.json": b"{}", "x.weights.h5": b"1"}
    files["model.weights.json"] = index.encode()
    if listed:
        for path, content in files.items():
            (tmp_path / path).write_bytes(content)
        manifests.write_manifest(tmp_path)
        manifest = (tmp_path / manifests.MANIFEST).read_bytes()
        files[manifests.MANIFEST] = manifest
    hub.push("someone/tiny", files)
    refused(name, error=ValueError)
    hub.push("someone/tiny", {"model.weights.json": b"[]"})
    refused("model.weights.json must hold a JSON obj", error=ValueError)


def test_links(repo, tmp_path, whole):
    """One in a repository is a small text; one in the cache is refused."""
    link = {**whole, "model.weights.h5": b"../../../secret"}
    repo.push("someone/tiny", link)
    refused("model.weights.h5", "it has 15", error=ValueError)
    repo.push("someone/tiny", whole)
    (tmp_path / "secret").write_bytes(whole["task.json"])
    path = pathlib.Path(finding.find(HANDLE)) / "task.json"
    path.unlink()
    path.symlink_to(tmp_path / "secret")
    refused("task.json", "outside of the download", error=ValueError)


@pytest.mark.parametrize("name", FILES[:-1])
def test_files_that_were_never_uploaded(name, hub, whole):
    hub.push("someone/tiny", {k: v for k, v in whole.items() if k != name})
    refused(f"lacks its file {name}", error=ValueError)


def test_a_weight_file_too_many(hub, whole):
    hub.push("someone/tiny", {**whole, "more.weights.h5": b""})
    refused("more.weights.h5", error=ValueError)


def test_a_newer_format(hub, whole):
    manifest = {**json.loads(whole[manifests.MANIFEST]), "format": 2}
    content = json.dumps(manifest).encode()
    hub.push("someone/tiny", {**whole, manifests.MANIFEST: content})
    refused("has format 2", "Upgrade keras-moe", error=ValueError)
