"""Through KerasHub's base classes: our classes, the weights, or an error."""

import keras_hub
import pytest

from keras_moe import models
from keras_moe.models.presets import manifest
from tests.hub.server import Fault
from tests.hub.test_end_to_end import arrays_of
from tests.hub.test_end_to_end import equal
from tests.models import language_support
from tests.models import support
from tests.models.language.test_masked_lm import make_masked

HANDLE = "hf://someone/tiny"
HEAD = "task.weights.h5"
MAKERS = {
    "ImageClassifier": lambda: support.make_classifier("dense", pixels=True),
    "CausalLM": language_support.make_causal,
    "MaskedLM": make_masked,
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Of a base class: a model, the files of its preset, its weights."""
    made = {}

    def save(base):
        if base not in made:
            model = support.randomize(MAKERS[base]())
            folder = tmp_path_factory.mktemp("presets") / base
            model.save_to_preset(folder)
            files = {
                path.relative_to(folder).as_posix(): path.read_bytes()
                for path in folder.rglob("*")
                if path.is_file()
            }
            made[base] = type(model), files, arrays_of(model)
        return made[base]

    return save


@pytest.mark.parametrize("base", MAKERS)
def test_the_published_weights(base, hub, saved):
    cls, files, wanted = saved(base)
    hub.push("someone/tiny", files)
    model = getattr(keras_hub.models, base).from_preset(HANDLE)
    assert type(model) is cls
    equal(arrays_of(model), wanted)
    # What it did not ask for was fetched too, and held to its checksum.
    fetched = {path.partition("/resolve/")[2] for _, path in hub.requests}
    assert any(path.endswith("/keras_moe.json") for path in fetched)


def test_a_backbone_alone(hub, saved):
    _, files, wanted = saved("ImageClassifier")
    hub.push("someone/tiny", files)
    backbone = keras_hub.models.Backbone.from_preset(HANDLE)
    assert type(backbone) is models.MoEViTBackbone
    found = arrays_of(backbone)
    assert found
    equal(found, {path: wanted[path] for path in found})


def test_a_new_head_where_one_is_asked_for(hub, saved):
    _, files, wanted = saved("ImageClassifier")
    hub.push("someone/tiny", files)
    base = keras_hub.models.ImageClassifier
    model = base.from_preset(HANDLE, num_classes=5)
    assert model.num_classes == 5
    found = arrays_of(model.backbone)
    equal(found, {path: wanted[path] for path in found})


def test_a_head_that_was_not_fetched_in_time(hub, saved):
    """KerasHub takes the error for a preset without a head of its own."""
    _, files, wanted = saved("ImageClassifier")
    hub.push("someone/tiny", files)
    # The download as a whole, later, asks for a commit.
    hub.faults = [Fault(f"/main/{HEAD}", status=503)]
    base = keras_hub.models.ImageClassifier
    with pytest.raises(OSError, match=f"{HEAD} of hf://.* fetched in time"):
        base.from_preset(HANDLE)
    hub.faults = []
    equal(arrays_of(base.from_preset(HANDLE)), wanted)


class Push(Fault):
    """Comes after a new commit."""

    def hits(self, method, path):
        if super().hits(method, path):
            self.commit()
        return False


def test_a_commit_in_between(hub, saved):
    """The head of one commit and the backbone of the next are not mixed."""
    _, files, _ = saved("ImageClassifier")
    hub.push("someone/tiny", files)
    push = Push("/model.weights.h5", times=1)
    push.commit = lambda: hub.push("someone/tiny", files)
    hub.faults = [push]
    with pytest.raises(OSError, match="was changed while it was read"):
        keras_hub.models.ImageClassifier.from_preset(HANDLE)


KINDS = {
    "503": {"status": 503},
    "altered": {"alter": True},
}


# On one backend, as all of it is before weights come to it.
@pytest.mark.once
@pytest.mark.parametrize(
    "base, kind",
    [
        ("ImageClassifier", "503"),
        ("ImageClassifier", "altered"),
        ("CausalLM", "503"),
    ],
)
def test_faults_of_each_file(base, kind, hub, saved):
    """Whatever fails, there is an error, and nothing stays broken."""
    cls, files, wanted = saved(base)
    for name in files:
        # A repository of its own, so that nothing of it is in the cache.
        repo = f"someone/{name.replace('/', '-').replace('.', '-')}"
        hub.push(repo, files)
        hub.faults = [Fault(f"/{name}", **KINDS[kind])]
        with pytest.raises(Exception) as raised:  # noqa: B017, PT011
            getattr(keras_hub.models, base).from_preset(f"hf://{repo}")
        assert str(raised.value), name  # KerasHub's are of many classes
        hub.faults = []
        equal(arrays_of(again(cls, f"hf://{repo}")), wanted)


def again(cls, handle):
    """Load a preset; once more where something is to be fetched anew."""
    try:
        return cls.from_preset(handle)
    except manifest.DamagedFile as error:
        assert "deleted from the cache" in str(error)
        return cls.from_preset(handle)


def test_presets_of_each_class():
    listed = models.list_presets()
    classes = (
        models.MoEViTBackbone,
        models.MoTBackbone,
        models.MoETwoTowerBackbone,
    )
    assert {k: v for one in classes for k, v in one.presets.items()} == listed
    assert models.MoTMaskedLM.presets == {}
    assert set(models.MoTCausalLM.presets) == {
        name for name, one in listed.items() if one["model"] == "MoTCausalLM"
    }
