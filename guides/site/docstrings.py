"""Docstrings as they are written in keras_moe, made Markdown for the site.

They are plain text that reads well in a terminal: formulas are indented,
examples begin with `>>>`, and shapes, masks and sources are paragraphs
`Word: text` with what follows indented.
"""

import re
import textwrap

import griffe

# What griffe itself reads, and lists name by name.
SECTIONS = ("Args:", "Raises:")
TITLED = re.compile(r"([A-Z][A-Za-z ]*): (\S.*)", re.DOTALL)
ARXIV = re.compile(r"(?<![\[/])arXiv (\d{4}\.\d{5})")


def markdown(text: str) -> str:
    """A docstring, cleaned of its indentation, as Markdown for griffe."""
    summary, *blocks = re.split(r"\n\s*\n", text)
    found, indented = [summary], "formula"
    for block in blocks:
        if not block.startswith("    "):
            block, indented = _block(block)
        elif indented == "formula":
            block = f"```text\n{textwrap.dedent(block)}\n```"
        elif indented == "returns":
            block = textwrap.dedent(block)
        found.append(block)
    text = "\n\n".join(found)
    return ARXIV.sub(r"[arXiv \1](https://arxiv.org/abs/\1)", text)


def _block(block):
    """A block without indentation, and what an indented one behind it is."""
    first, _, rest = block.partition("\n")
    if first in SECTIONS:
        return block, "section"
    if first in ("Returns:", "Yields:"):
        name = first.removesuffix(":")
        return f"**{name}:**\n\n{textwrap.dedent(rest)}", "returns"
    if first == "Example:":
        return "**Example:**", "formula"
    if block.startswith(">>>"):
        return f"```pycon\n{block}\n```", "formula"
    indented = all(line.startswith("    ") for line in rest.splitlines())
    if indented and (titled := TITLED.fullmatch(block)):
        # A link may be broken behind its parenthesis.
        said = re.sub(r"\(\n\s+", "(", titled[2])
        said = re.sub(r"\n\s+", " ", said)
        return f"**{titled[1]}:** {said}", "formula"
    return block, "formula"


class Docstrings(griffe.Extension):
    """Rewrites each docstring before griffe parses it."""

    def on_instance(self, *, obj: griffe.Object, **kwargs) -> None:
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)
