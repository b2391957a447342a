"""What users are told of a preset that cannot be had."""

import pytest

from tests.hub.server import Fault
from tests.hub.test_loading import HANDLE
from tests.hub.test_loading import break_off
from tests.hub.test_loading import refused

pytestmark = pytest.mark.once


@pytest.fixture
def repo(hub):
    hub.push("someone/tiny", {"config.json": b"{}"})
    return hub


def test_what_is_said_of_names(repo):
    refused(
        "no repository of models 'someone/none'",
        "404",
        "hf auth login",
        handle="hf://someone/none",
    )
    refused(
        "someone/tiny has no branch, tag or commit 'v9' (404)",
        handle=f"{HANDLE}@v9",
    )
    near = "soft_moe_vit_tiny_fashion_mnits"
    refused("Did you mean 'soft_moe_vit_tiny_fashion_mnist'?", handle=near)
    for page in ("someone/tiny", "https://hub.example/someone/tiny"):
        refused("of the Hub is given as 'hf://someone/tiny'.", handle=page)
    refused(
        "made of hf://jaszczur/mixture_of_tokens",
        "python -m zoo build mixture_of_tokens_573m",
        handle="mixture_of_tokens_573m",
        error=ValueError,
    )


@pytest.mark.parametrize(
    "status, says", [(401, "hf auth login"), (429, "in some minutes")]
)
def test_what_is_said_of_an_answer(status, says, repo):
    repo.faults = [Fault("", status=status)]
    refused(HANDLE, str(status), says, error=OSError)


@pytest.mark.parametrize(
    "how, says",
    [("no server", "Check the connection"), ("offline mode", "OFFLINE is set")],
)
def test_what_is_said_without_network(how, says, repo, monkeypatch):
    break_off(how, repo, monkeypatch)
    refused(HANDLE, says, error=OSError)
