"""Whatever the Hub answers, or does not, commands end with one line."""

import pytest
from huggingface_hub import HfApi
from huggingface_hub import constants
from huggingface_hub import errors

from conversion.__main__ import main as conversion
from keras_moe.__main__ import main as keras_moe
from tests.hub.records import REPO
from tests.hub.records import TEXT
from tests.hub.records import recorded as recorded
from tests.hub.server import Fault
from tests.hub.test_publish import folder as folder
from tests.hub.test_publish import run as run
from zoo.__main__ import main as zoo
from zoo.errors import PublishError
from zoo.publish import card as cards
from zoo.publish import hub as publish

pytestmark = pytest.mark.once
SECRETS = ("someuser", "p1ss", "signature")
CREDENTIALS = "someuser:p1ss@"
FAILURES = {
    "no server": "Check the connection",
    "broken TLS": "Check the connection",
    "timeout": "Check the connection",
    "401": "401",
    "403": "403.*hf auth login",
    "429": "429.*in some minutes",
    "500": "500.*Check the connection",
    "503": "503.*Check the connection",
    "another form": "",
}


def break_down(how, hub, monkeypatch):
    """Make every request fail in one way."""
    if how == "timeout":

        def late(self, *args, **kwargs):
            address = f"https://{CREDENTIALS}hub.example/a?signature=1"
            raise errors.HTTPError(f"timed out: {address}")

        for name in ("model_info", "create_commit"):
            monkeypatch.setattr(HfApi, name, late)
    elif how == "another form":  # as of the page where one logs in to a network
        hub.faults = [Fault("", content=[])]
    elif how.isdecimal():
        hub.faults = [Fault("", status=int(how))]
    else:
        host = hub.url.removeprefix("http://")
        endpoint = f"http://{CREDENTIALS}127.0.0.1:9"
        if how == "broken TLS":
            endpoint = f"https://{CREDENTIALS}{host}"
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)


def one_line(raised):
    said = raised.value.code
    assert said.startswith("error: ") and "\n" not in said, said
    assert not [secret for secret in SECRETS if secret in said], said
    return said


@pytest.mark.parametrize("how", FAILURES)
def test_publish_and_verify(how, run, hub, folder, monkeypatch):
    plan = publish.plan(TEXT.name, folder, REPO, cards.of(TEXT, REPO))
    break_down(how, hub, monkeypatch)
    says = f"hf://{REPO}.*{FAILURES[how]}"
    if how != "401":  # so the Hub answers for what is not there, too
        with pytest.raises(SystemExit, match=says) as raised:
            run()
        one_line(raised)
    verify = ["verify", TEXT.name, "--repo", REPO, "--preset", str(folder)]
    with pytest.raises(SystemExit, match=says) as raised:
        zoo(verify)
    one_line(raised)
    if how != "another form":
        with pytest.raises(PublishError, match=says):
            publish.upload(plan, "Add it")


def test_a_repository_that_is_not_there(run, hub, folder):
    verify = ["verify", TEXT.name, "--repo", REPO, "--preset", str(folder)]
    with pytest.raises(SystemExit, match="no repository of models") as raised:
        zoo(verify)
    assert f"hf://{REPO}" in one_line(raised)
    run("--yes")
    plan = publish.plan(
        TEXT.name, folder, REPO, "---\nmodel_name: x\n---\n", replace=True
    )
    hub.repos.clear()  # deleted in between
    with pytest.raises(PublishError, match="no repository of models"):
        publish.upload(plan, "Change it")


def test_a_gated_repository_is_not_taken_for_none(hub, folder):
    hub.faults = [Fault("", status=403, headers={"X-Error-Code": "GatedRepo"})]
    with pytest.raises(PublishError, match="access to .* must be asked for"):
        publish.plan(TEXT.name, folder, REPO, "card")


def test_a_name_of_no_form(hub, folder):
    with pytest.raises(PublishError, match="a/b/c"):
        publish.plan(TEXT.name, folder, "a/b/c", "card")


@pytest.mark.parametrize("how", ["no server", "broken TLS", "404", "500"])
def test_conversion_and_generate(how, hub, tmp_path, monkeypatch):
    break_down(how, hub, monkeypatch)
    handle, out = "hf://someone/none", tmp_path / "out"
    with pytest.raises(SystemExit, match=handle) as raised:
        conversion(["mot", handle, str(out)])
    one_line(raised)
    assert not out.exists()
    with pytest.raises(SystemExit, match=handle) as raised:
        keras_moe(["generate", "To be", "--preset", handle])
    one_line(raised)
