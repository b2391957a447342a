"""Notebooks of guides/ as pages of the site."""

import pathlib

import nbconvert
import nbformat


def page(path: pathlib.Path) -> str:
    """The Markdown of a notebook, which holds no pictures."""
    notebook = nbformat.read(path, as_version=4)
    # It may be saved without its kernel, which says what to highlight.
    notebook.metadata.setdefault("language_info", {"name": "python"})
    text, resources = nbconvert.MarkdownExporter().from_notebook_node(notebook)
    if resources["outputs"]:
        raise ValueError(
            f"{path.name} must be saved without pictures in its outputs; "
            f"received {', '.join(sorted(resources['outputs']))}."
        )
    source = f"\n\nThis page is the notebook `guides/{path.name}`.\n"
    return text.rstrip() + source
