"""Putting a preset and its card on the Hugging Face Hub, in one commit."""

import dataclasses
import pathlib

from huggingface_hub import CommitOperationAdd
from huggingface_hub import CommitOperationDelete
from huggingface_hub import HfApi
from huggingface_hub import ModelCard
from huggingface_hub.errors import GatedRepoError
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile

from keras_moe.models.presets import finding
from keras_moe.models.presets import hub
from keras_moe.models.presets import manifest
from zoo.errors import PublishError
from zoo.measure.evaluate import evaluate as measure
from zoo.publish import card as cards
from zoo.publish import picture as pictures
from zoo.tasks import task_of

CARD = "README.md"
# What the Hub itself puts into a repository.
OF_THE_HUB = (".gitattributes",)
# How far an evaluation may lie from the recorded one: that of three examples
# in 10,000, as backends round differently.
TOLERANCE = 3e-4


@dataclasses.dataclass(frozen=True)
class Plan:
    """Planned content of a repository, and its difference from the present one.

    Args:
        repo: `"organisation/name"`.
        exists: whether it is there.
        parent: id of its last commit, `None` without any.
        files: {path: content, as bytes or the path of a file}.
        changed: paths of `files` that are new or different there.
        deleted: paths there that are not in `files`.
    """

    repo: str
    exists: bool
    parent: str | None
    files: dict
    changed: list
    deleted: list

    def __str__(self):
        lines = [f"{hub.SCHEME}{self.repo} ({self._state()})"]
        for path, content in self.files.items():
            mark = "+" if path in self.changed else "="
            lines.append(f"{mark} {_size(content):>12,} bytes  {path}")
        lines += [f"- {'':>12}        {path}" for path in self.deleted]
        return "\n".join(lines)

    def _state(self):
        if not self.exists:
            return "new"
        if self.changed or self.deleted:
            return "to be changed"
        return "up to date"


def check_whole(folder) -> None:
    """Raise an error unless a folder is what its manifest records."""
    folder = pathlib.Path(folder)
    if not (folder / manifest.MANIFEST).is_file():
        raise PublishError(
            f"{folder} has no {manifest.MANIFEST}; write the preset with "
            "save_to_preset."
        )
    _manifest(folder)


def check(recipe, record, folder, evaluate=None, data_folder=None) -> None:
    """Raise an error unless a preset is whole and as good as recorded.

    Args:
        recipe: what was trained.
        record: its recorded results, see `zoo.measure.results`.
        folder: of the preset.
        evaluate: function of recipe, preset and folder of data, by default
            that of `zoo.measure.evaluate`.
        data_folder: where the data set lies, see `zoo.data.datasets`.
    """
    preset = cards.preset_of(recipe, record)
    check_whole(folder)
    task = task_of(recipe)
    metric, tolerance = task.metric, max(TOLERANCE, task.tolerance)
    figure = (evaluate or measure)(recipe, str(folder), data_folder)[metric]
    if not abs(figure - preset[metric]) <= tolerance:
        raise PublishError(
            f"{metric} of {folder} is {figure:.5f}; recorded is "
            f"{preset[metric]:.5f}. Only what was measured is published."
        )


def plan(name, folder, repo, card, replace=False, picture=None) -> Plan:
    """Compare a preset and its card with what a repository holds.

    Args:
        name: of the preset, as cards have it.
        folder: of the preset.
        repo: `"organisation/name"`.
        card: text of the card.
        replace: whether another model there may be replaced.
        picture: that the card shows, a PNG, or `None`.

    Raises:
        PublishError: if the repository holds something else, the folder links
            to files elsewhere, or the Hub gives no answer or an error.
    """
    api, folder = HfApi(), pathlib.Path(folder)
    files = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if _is_file(path) and path.name != CARD
    }
    if picture is not None:
        files[pictures.NAME] = picture
    files[CARD] = card.encode()
    with hub.requests(repo, PublishError):
        try:
            parent = api.model_info(repo).sha
        except GatedRepoError:  # is there, and is a kind of the next error
            raise
        except RepositoryNotFoundError:
            return Plan(repo, False, None, files, list(files), [])
        entries = list(
            api.list_repo_tree(repo, recursive=True, revision=parent)
        )
    there = {
        entry.path: entry
        for entry in entries
        if isinstance(entry, RepoFile) and entry.path not in OF_THE_HUB
    }
    if there and not replace:
        _check_same(name, repo, parent, there)
    changed = [
        path
        for path, content in files.items()
        if path not in there or not _equal(content, there[path])
    ]
    deleted = [path for path in there if path not in files]
    return Plan(repo, True, parent, files, changed, deleted)


def upload(plan: Plan, message: str) -> str | None:
    """Carry out a plan in one commit.

    Returns:
        Id of the commit, or `None` where there was nothing to do.

    Raises:
        PublishError: if the Hub gives no answer or an error.
    """
    if not plan.changed and not plan.deleted:
        return None
    api = HfApi()
    operations = [
        CommitOperationAdd(
            path, content if isinstance(content, bytes) else str(content)
        )
        for path, content in plan.files.items()
        if path in plan.changed
    ]
    operations += [CommitOperationDelete(path) for path in plan.deleted]
    with hub.requests(plan.repo, PublishError, hub.WRITING):
        if not plan.exists:
            api.create_repo(plan.repo, exist_ok=True)
        return api.create_commit(
            plan.repo,
            operations,
            commit_message=message,
            parent_commit=plan.parent,
        ).oid


def verify(model, folder, repo) -> str:
    """Load a published preset back and hold it to the folder it is from.

    Args:
        model: class of the preset.
        folder: of the preset.
        repo: `"organisation/name"`.

    Returns:
        A line that says what was compared.

    Raises:
        PublishError: if they differ, the repository is missing, or the Hub
            gives no answer or an error.
    """
    ours = _manifest(folder)
    with hub.requests(repo, PublishError):
        # By its commit, so that an older one in the cache does not do.
        handle = f"{hub.SCHEME}{repo}@{HfApi().model_info(repo).sha}"
    theirs = _manifest(handle)
    differing = sorted(
        name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name)
    )
    if differing:
        raise PublishError(
            f"{handle} differs from {folder} in {', '.join(differing)}."
        )
    model.from_preset(handle)
    return f"{len(ours)} files of {handle} are those of {folder}."


def _manifest(preset):
    """Read a preset's manifest, after its files were checked against it."""
    try:
        return manifest.read_manifest(finding.find(str(preset)))
    except (OSError, ValueError) as error:
        raise PublishError(str(error)) from error


def _check_same(expected, repo, parent, there):
    """Raise an error unless the card there is of this preset."""
    name = None
    if CARD in there:
        with hub.requests(repo, PublishError):
            path = HfApi().hf_hub_download(repo, CARD, revision=parent)
        card = ModelCard.load(path, ignore_metadata_errors=True)
        name = card.data.model_name
    if name != expected:
        what = f"the model {name!r}" if name else "files without such a card"
        raise PublishError(
            f"{hub.SCHEME}{repo} holds {what}, not {expected}; give "
            "--replace to replace all of it."
        )


def _is_file(path):
    """Whether a path is to be uploaded; a link may lead to anything."""
    if path.is_symlink():
        raise PublishError(
            f"{path} is a link, to {path.readlink()}; a preset that is "
            "published must hold its files itself."
        )
    return path.is_file()


def _size(content):
    if isinstance(content, bytes):
        return len(content)
    return content.stat().st_size


def _equal(content, entry):
    """Whether a file of the Hub has our content, by its checksum."""
    if entry.lfs is not None:
        sha256, _ = hub.checksums(content)
        return sha256 == entry.lfs.sha256
    return hub.checksums(content)[1] == entry.blob_id
