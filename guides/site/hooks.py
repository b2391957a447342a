"""Pages of the site that are made of other files of the repository."""

import json
import pathlib

import benchmarks
import notebooks
from mkdocs.structure.files import File

SITE = pathlib.Path(__file__).parent
ROOT = SITE.parent.parent
RESULTS = ROOT / "tests" / "benchmarks" / "results"
# What stands in the navigation for all of them.
NOTEBOOKS = "guides/*.ipynb"


def guides() -> dict[str, pathlib.Path]:
    """The notebooks, by the paths of their pages."""
    return {f"guides/{p.stem}.md": p for p in sorted(ROOT.glob(NOTEBOOKS))}


def on_config(config):
    navigation = []
    for part in config.nav:
        if part == {"Guides": NOTEBOOKS}:
            part = {"Guides": list(guides())} if guides() else None
        navigation += [] if part is None else [part]
    config.nav = navigation
    return config


def on_files(files, config):
    made = {uri: notebooks.page(path) for uri, path in guides().items()}
    made["zoo.md"] = (ROOT / "zoo" / "README.md").read_text()
    for path in (ROOT / "zoo" / "figures").iterdir():
        made[f"figures/{path.name}"] = path.read_bytes()
    made |= benchmarks.chapters(RESULTS)[1]
    for uri, content in made.items():
        files.append(File.generated(config, uri, content=content))
    return files


def turned() -> str:
    """A table of the presets whose routers were turned and tuned."""
    rows = []
    for path in sorted((ROOT / "zoo" / "results").glob("turned_*.json")):
        found = json.loads(path.read_text())
        rows.append(
            {
                "preset": f"`{found['recipe']}`",
                "to": f"`{found['router']}`",
                "figure": found["metric"].replace("_", " "),
                "before": f"{found['before']:.3f}",
                "turned": f"{found['turned']:.3f}",
                "tuned, steps": f"{found['tuned']:.3f}, {found['steps']}",
            }
        )
    return benchmarks.table(rows)


def sparse_models() -> str:
    """How much faster sparse experts are, by family, operation and backend."""
    return _by_backend(
        "kerashub_models",
        lambda row: row["of"] == "sparse",
        lambda row: {
            "family": row["family"],
            "E/k": f"{int(row['experts']) / int(row['top_k']):g}",
            "operation": f"{row['op']}, batch {row['batch']}",
        },
        lambda row: f"{1 / float(row['/KerasHub']):.1f}",
    )


def quantised_experts() -> str:
    """Errors and times of quantised experts."""
    return _by_backend(
        "kerashub_quantised",
        lambda row: row["of"] != "float",
        lambda row: {
            "family": row["family"],
            "mode": row["of"],
            "operation": f"{row['op']}, batch {row['batch']}",
        },
        lambda row: (
            f"{float(row['/float']):.2f}, {float(row['logits_error']):.1%}"
        ),
    )


def _by_backend(record, wanted, told, figure):
    """A table with a line for each thing told, and columns of backends."""
    lines = {}
    for path in sorted(RESULTS.glob(f"{record}-*.csv")):
        backend = path.stem.split("-")[1]
        for row in filter(wanted, benchmarks.read(path)):
            line = tuple(told(row).items())
            lines.setdefault(line, {})[backend] = figure(row)
    backends = sorted({name for found in lines.values() for name in found})
    return benchmarks.table(
        [
            {**dict(line), **{name: found.get(name, "") for name in backends}}
            for line, found in lines.items()
        ]
    )


def on_page_markdown(markdown, page, config, files):
    if page.file.src_uri == "benchmarks.md":
        return f"{markdown}\n\n{benchmarks.chapters(RESULTS)[0]}\n"
    if page.file.src_uri == "upcycling.md":
        return markdown.replace("<!-- turned -->", turned())
    if page.file.src_uri == "kerashub.md":
        markdown = markdown.replace("<!-- sparse models -->", sparse_models())
        return markdown.replace(
            "<!-- quantised experts -->", quantised_experts()
        )
    if page.file.src_uri == "devices.md":
        (path,) = RESULTS.glob("expert_parallel_compiled-*.csv")
        shown = benchmarks.transposed_table(benchmarks.read(path))
        return markdown.replace("<!-- expert parallel -->", shown)
    return markdown
