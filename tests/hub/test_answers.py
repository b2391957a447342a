"""What a server may not have written, and what errors may not tell."""

import traceback

import pytest
from huggingface_hub import constants

from keras_moe.addresses import redact
from keras_moe.models.presets import finding
from tests.hub.server import Fault
from tests.hub.test_loading import HANDLE

pytestmark = pytest.mark.once

NAMES = [
    "../../../taken",
    "/tmp/taken",
    "a/b",
    "..\\..\\taken",
    "..",
    "c:taken",
]


@pytest.fixture
def repo(hub):
    hub.push("someone/tiny", {"config.json": b"{}", "a.bin": b"taken"})
    return hub


def everything(folder):
    return {path for path in folder.rglob("*") if path.is_file()}


def refused(handle=HANDLE, error=ValueError):
    with pytest.raises(error) as raised:
        finding.find(handle)
    return raised.value


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ['"{}"', 'W/"{}"', "{}"])
def test_a_checksum_that_leads_out_of_the_cache(name, form, repo, tmp_path):
    """huggingface_hub names what it downloads by the server's ETag."""
    header = "ETag" if form != "{}" else "X_Linked_ETag"
    repo.faults = [Fault("/a.bin", headers={header: form.format(name)})]
    message = str(refused())
    assert HANDLE in message and "ETag" in message, message
    left = everything(tmp_path)
    assert not [p for p in left if p.read_bytes() == b"taken"], left
    repo.faults = []
    finding.find(HANDLE)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("where", ["sha", "header", "oid", "lfs"])
def test_other_names_that_lead_out_of_the_cache(name, where, repo, tmp_path):
    """A commit names a folder; a checksum of the listing may name a file."""
    if where == "header":
        fault = Fault("/a.bin", headers={"X_Repo_Commit": name})
    elif where == "sha":
        content = {"id": "someone/tiny", "sha": name, "siblings": []}
        fault = Fault("/revision/main", content=content)
    else:
        row = {"type": "file", "path": "a.bin", "size": 5, "oid": "0" * 40}
        row["xetHash"] = "0" * 64
        if where == "oid":
            row["oid"] = name
        row["lfs"] = {"oid": name, "size": 5, "pointerSize": 9}
        commit = repo.find("someone/tiny", "main")[0]
        fault = Fault(f"/tree/{commit}", content=[row])
    repo.faults = [fault]
    assert name in str(refused()).replace("\\\\", "\\")
    assert not [p for p in everything(tmp_path) if p.read_bytes() == b"taken"]


def test_a_revision_that_leads_out_of_the_cache(repo, tmp_path):
    message = str(refused(f"{HANDLE}@../../../taken"))
    assert "must be a branch, a tag or a commit" in message
    assert not everything(tmp_path)


# === Addresses with credentials ===

SECRETS = ("someuser", "pass%40word", "pass@word", "signature")


@pytest.mark.parametrize("how", ["500", "401", "no server", "etag", "name"])
@pytest.mark.parametrize("password", ["pass%40word", "p1"])
def test_no_error_tells_credentials(how, password, repo, monkeypatch):
    endpoint = f"//someuser:{password}@".join(repo.url.split("//"))
    if how == "no server":
        endpoint = f"http://someuser:{password}@127.0.0.1:9"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    if how == "etag":
        repo.faults = [Fault("/a.bin", headers={"ETag": '"../a"'})]
    elif how in ("500", "401"):
        repo.faults = [Fault("", status=int(how))]
    handle = f"{endpoint}/someone/none" if how == "name" else HANDLE
    error = refused(handle, (OSError, ValueError))
    said = "".join(traceback.format_exception(error))
    assert not [one for one in (*SECRETS, password) if one in said], said
    if how in ("500", "no server"):
        assert "://***@127.0.0.1" in str(error)


@pytest.mark.parametrize(
    "text, told",
    [
        ("hf://a/b@v1", "hf://a/b@v1"),
        ("write to a@b.example", "write to a@b.example"),
        ("'https://a:b@c@d/e' failed", "'https://***@d/e' failed"),
        ("HTTPS://token@d (e)", "HTTPS://***@d (e)"),
        ("at https://d/e?signature=f.", "at https://d/e?***"),
        (
            "two: s3://a:b@c and s3://d:e@f/g",
            "two: s3://***@c and s3://***@f/g",
        ),
        ("token hf_abcDEF123456 (read)", "token hf_*** (read)"),
        ("header b'Bearer abc.def\\n'", "header b'Bearer ***'"),
    ],
)
def test_redact(text, told):
    assert redact(text) == told
