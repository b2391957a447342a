"""Build and run the notebooks of the guides.

    python -m guides.build [NUMBER ...]

A guide is a Python file whose name begins with its number. `# %%` separates its
cells (the "percent" format of jupytext). The notebook with its outputs lies
beside the source. The cell with the tag `setup` names the extras that the
guide needs in `EXTRAS`; the build adds the code that installs them and chooses
the backend. The address of the repository, for that code and for Colab, is
`repo_url` in `guides/site/mkdocs.yml`.
"""

import argparse
import base64
import io
import os
import pathlib
import re
import tempfile

import jupytext
import nbformat
from nbclient import NotebookClient
from tqdm import tqdm

FOLDER = pathlib.Path(__file__).parent
SITE = FOLDER / "site" / "mkdocs.yml"
SETUP_TAG = "setup"
METADATA = {
    "kernelspec": {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    },
    "language_info": {"name": "python"},
}
SETUP = """\

# Choose the backend before Keras is imported: "jax", "torch" or "tensorflow".
import os

os.environ.setdefault("KERAS_BACKEND", "jax")
# More threads do not speed up operations on tensors as small as these.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Install keras_moe where it is missing: from the clone that holds this
# notebook, otherwise from a new clone.
import importlib.metadata
import importlib.util
import logging
import pathlib
import subprocess
import sys
import warnings

REPOSITORY = "{repository}"  # the address to clone from
here = pathlib.Path.cwd()
clones = [
    folder
    for folder in (here, here.parent, here / "keras_moe_clone")
    if (folder / "keras_moe" / "__init__.py").is_file()
]
try:
    importlib.metadata.version("keras-moe")
except importlib.metadata.PackageNotFoundError:
    if not clones:
        if not REPOSITORY:
            raise ValueError("Set REPOSITORY to the address of keras_moe.")
        clones = [here / "keras_moe_clone"]
        command = ["git", "clone", "--depth", "1", REPOSITORY, str(clones[0])]
        subprocess.run(command, check=True)
    install = [sys.executable, "-m", "pip", "install", "-q"]
    install.append(f"{{clones[0]}}[{{EXTRAS}}]")
    subprocess.run(install, check=True)
if clones:
    sys.path.insert(0, str(clones[0]))

logging.getLogger("absl").setLevel("ERROR")
warnings.filterwarnings("ignore", "IProgress not found")
warnings.filterwarnings("ignore", ".shuffle=True. was passed")

# Keras imports TensorFlow where it is installed, and TensorFlow writes its log
# to the file descriptor of stderr. Import both without that descriptor.
stderr = os.dup(2)
with open(os.devnull, "w") as null:
    os.dup2(null.fileno(), 2)
try:
    for module in ("keras", "keras_hub"):
        if importlib.util.find_spec(module):
            importlib.import_module(module)
    if "tensorflow" in sys.modules:
        sys.modules["tensorflow"].config.list_physical_devices()
finally:
    os.dup2(stderr, 2)
    os.close(stderr)"""
COLAB = "https://colab.research.google.com"


def sources() -> list[pathlib.Path]:
    """The guides' sources in reading order."""
    return sorted(FOLDER.glob("[0-9]_*.py"))


def repository() -> str:
    """The address of the repository, empty while it has none."""
    found = re.search(
        r'^repo_url: *"?([^"\s]*)', SITE.read_text(encoding="utf-8"), re.M
    )
    return found[1] if found else ""


def colab(name: str) -> str:
    """The line below a guide's title that says how to run it in Colab."""
    address = repository()
    if "github.com/" not in address:
        return (
            f"To run this notebook in [Colab]({COLAB}), upload it there and "
            "set `REPOSITORY` in the first cell."
        )
    path = address.partition("github.com/")[2].rstrip("/")
    link = f"{COLAB}/github/{path}/blob/main/guides/{name}.ipynb"
    return f"[Run this notebook in Colab]({link})."


def notebook(source: pathlib.Path) -> nbformat.NotebookNode:
    """The notebook of a source without outputs, the same each time."""
    result = jupytext.read(source, fmt="py:percent")
    result.metadata = nbformat.from_dict(METADATA)
    for number, cell in enumerate(result.cells):
        cell.id = f"cell-{number}"  # random by default
        if SETUP_TAG in cell.metadata.get("tags", ()):
            cell.source += "\n" + SETUP.format(repository=repository())
    title, *rest = result.cells[0].source.split("\n\n", 1)
    result.cells[0].source = "\n\n".join([title, *rest, colab(source.stem)])
    nbformat.validate(result)
    return result


def without_outputs(path: pathlib.Path) -> str:
    """The text of a notebook file with its outputs removed."""
    result = nbformat.read(path, as_version=4)
    for cell in result.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return nbformat.writes(result) + "\n"


def text(source: pathlib.Path) -> str:
    """The text of a source's notebook without outputs."""
    return nbformat.writes(notebook(source)) + "\n"


def run(source: pathlib.Path) -> nbformat.NotebookNode:
    """The notebook of a source with the outputs of a run in an empty folder."""
    result = notebook(source)
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            result,
            kernel_name="python3",
            timeout=600,
            record_timing=False,
            resources={"metadata": {"path": folder}},
        )
        root = str(FOLDER.parent)
        path = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
        client.execute(env={**os.environ, "PYTHONPATH": path.rstrip(":")})
    result.metadata = nbformat.from_dict(METADATA)  # without versions
    for number, cell in enumerate(result.cells):
        cell.id = f"cell-{number}"
        if "outputs" in cell:
            cell.outputs = joined(cell.outputs)
        for output in cell.get("outputs", ()):
            if "execution_count" in output:
                output.execution_count = None
            if output.output_type == "stream":
                output.text = re.sub(r"/tmp/tmp\w+", "/tmp/folder", output.text)
            data = output.get("data", {})
            if "image/png" in data:
                data["image/png"] = small_png(data["image/png"])
                data.pop("text/plain", None)  # names an address in memory
    return result


def joined(outputs: list) -> list:
    """Outputs without progress bars, and with pieces of a stream joined."""
    results = []
    for output in outputs:
        if output.get("name") == "stderr" and (
            "\r" in output.text or not output.text.strip()
        ):
            continue
        last = results[-1] if results else {}
        if output.output_type == "stream" and output.name == last.get("name"):
            last.text += output.text
        else:
            results.append(output)
    return results


def small_png(picture: str) -> str:
    """A PNG in base64 with a palette of 255 colours."""
    from PIL import Image  # comes with matplotlib

    with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
        image = image.convert("RGB").quantize(255, dither=Image.Dither.NONE)
    file = io.BytesIO()
    image.save(file, format="png", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "numbers",
        nargs="*",
        metavar="NUMBER",
        help="Number of a guide to build, such as 2 (default: all guides).",
    )
    numbers = parser.parse_args(arguments).numbers
    chosen = [s for s in sources() if not numbers or s.name[0] in numbers]
    for source in tqdm(chosen, unit="notebook"):
        result = nbformat.writes(run(source)) + "\n"
        path = source.with_suffix(".ipynb")
        part = path.with_name(f".{path.name}.part")
        part.write_text(result, encoding="utf-8")
        part.replace(path)


if __name__ == "__main__":
    main()
