"""Folders of runs, and the commands that fill them."""

import pathlib
import shlex

from zoo.errors import ResultError

PRESET = "preset"
FURTHER = "further"  # folder of a run, see `zoo.training.transition.further`


def preset_of(recipe, run, preset=PRESET) -> pathlib.Path:
    """The folder of a preset of a run.

    Args:
        recipe: what was trained.
        run: folder of the run.
        preset: name of the folder in it.

    Raises:
        ResultError: if it is not there, with the command that writes it.
    """
    folder = pathlib.Path(run) / preset
    if not folder.is_dir():
        words = ["train", recipe.name]
        if preset.startswith("tuned-"):
            mode = preset.removeprefix("tuned-")
            words = ["tune", recipe.name, "--mode", mode]
        elif preset.startswith(FURTHER):
            words = ["further", recipe.name]
        raise ResultError(
            f"no trained preset lies in {folder}; run `{_typed(words, run)}` "
            "first."
        )
    return folder


def evaluation_of(recipe, runs, further=False) -> str:
    """The commands that train and evaluate a recipe's first run.

    Args:
        recipe: what is to be trained.
        runs: folder of its runs.
        further: whether the run is to be trained further, and that evaluated.
    """
    run = pathlib.Path(runs) / "seed-0"
    words = [["further"], ["evaluate", "--further"]]
    if not further:
        words = [["train"], ["evaluate"]]
    both = (
        _typed([word, recipe.name, *options], run) for word, *options in words
    )
    return " and ".join(f"`{one}`" for one in both)


def _typed(words, run):
    """A command of the zoo, with the options that name a run."""
    run = pathlib.Path(run)
    seed, runs = run.name.removeprefix("seed-"), run.parent.parent
    if seed not in ("0", run.name):
        words = [*words, "--seed", seed]
    if runs != pathlib.Path("runs"):
        words = [*words, "--runs", str(runs)]
    return shlex.join(["python", "-m", "zoo", *words])
