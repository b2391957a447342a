"""Write the notebooks that the guides' sources make.

    python -m guides.build

A guide is a Python file whose name begins with its number, cut into cells by
`# %%` (the "percent" format of jupytext). Its notebook lies beside it, without
outputs. Cells tagged `skip-execution` install what a guide needs; runners of
notebooks that are built on nbclient leave them out.
"""

import pathlib

import jupytext
import nbformat
from tqdm import tqdm

FOLDER = pathlib.Path(__file__).parent
METADATA = {
    "kernelspec": {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    },
    "language_info": {"name": "python"},
}


def sources() -> list[pathlib.Path]:
    """The guides' sources, in the order they are to be read."""
    return sorted(FOLDER.glob("[0-9]_*.py"))


def notebook(source: pathlib.Path) -> nbformat.NotebookNode:
    """The notebook of a source; the same one each time."""
    made = jupytext.read(source, fmt="py:percent")
    made.metadata = nbformat.from_dict(METADATA)
    for number, cell in enumerate(made.cells):
        cell.id = f"cell-{number}"  # by default drawn at random
    nbformat.validate(made)
    return made


def text(source: pathlib.Path) -> str:
    """What the file of a source's notebook holds."""
    return nbformat.writes(notebook(source)) + "\n"


def main():
    for source in tqdm(sources(), unit="notebook"):
        path = source.with_suffix(".ipynb")
        part = path.with_name(f".{path.name}.part")
        part.write_text(text(source), encoding="utf-8")
        part.replace(path)


if __name__ == "__main__":
    main()
