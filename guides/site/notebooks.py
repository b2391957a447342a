"""Notebooks of guides/ as pages of the site."""

import pathlib

import nbconvert
import nbformat

SETUP_TAG = "setup"  # of the cell that only a notebook needs


def page(path: pathlib.Path) -> tuple[str, dict[str, bytes]]:
    """The Markdown of a notebook and its pictures, by their file names."""
    notebook = nbformat.read(path, as_version=4)
    # A notebook saved without its kernel lacks the name of the language.
    notebook.metadata.setdefault("language_info", {"name": "python"})
    notebook.cells = [
        cell
        for cell in notebook.cells
        if SETUP_TAG not in cell.metadata.get("tags", ())
    ]
    text, resources = nbconvert.MarkdownExporter().from_notebook_node(
        notebook, {"unique_key": path.stem}
    )
    pictures = resources["outputs"]
    missing = [name for name in pictures if f"({name})" not in text]
    if missing:
        raise ValueError(f"{path.name} must show its pictures: {missing}.")
    source = (
        f"\n\nThis page is the notebook `guides/{path.name}` without its first "
        "code cell, which chooses the backend and installs keras_moe.\n"
    )
    return text.rstrip() + source, pictures
