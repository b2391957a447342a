"""Pages of the site that come from other files of the repository."""

import json
import pathlib

import benchmarks
import headlines
import notebooks
import runs
from mkdocs.structure.files import File

SITE = pathlib.Path(__file__).parent
ROOT = SITE.parent.parent
RESULTS = ROOT / "tests" / "benchmarks" / "results"
# The entry of the navigation that stands for all notebooks.
NOTEBOOKS = "guides/*.ipynb"
# The tables need the width of the list of headings.
ZOO_HEAD = "---\nhide: [toc]\n---\n"


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
    made = {}
    for uri, path in guides().items():
        made[uri], pictures = notebooks.page(path)
        made |= {f"guides/{name}": data for name, data in pictures.items()}
    made["zoo.md"] = ZOO_HEAD + (ROOT / "zoo" / "README.md").read_text()
    for path in (ROOT / "zoo" / "figures").iterdir():
        made[f"figures/{path.name}"] = path.read_bytes()
    made |= benchmarks.chapters(RESULTS)[1]
    made |= headlines.pictures(RESULTS)
    made |= runs.pictures()
    for uri, content in made.items():
        files.append(File.generated(config, uri, content=content))
    return files


def transitions() -> str:
    """A table of presets with a new router, before and after tuning."""
    rows = []
    for path in sorted((ROOT / "zoo" / "results").glob("turned_*.json")):
        record = json.loads(path.read_text())
        rows.append(
            {
                "preset": f"`{record['recipe']}`",
                "new router": f"`{record['router']}`",
                "metric": record["metric"].replace("_", " "),
                "before": f"{record['before']:.3f}",
                "converted": f"{record['turned']:.3f}",
                "tuned": f"{record['tuned']:.3f}, {record['steps']} steps",
            }
        )
    return benchmarks.table(rows)


def sparse_models(record="kerashub_models") -> str:
    """How much faster sparse experts are, by family, operation and backend."""
    return _by_backend(
        record,
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
            f"{float(row['/float']):.2f}, {float(row['block_error']):.1%}, "
            f"{float(row['logits_error']):.1%}"
        ),
    )


# What was aimed for: the least share of E/k that an operation is faster by.
GOALS = {
    "block, 1 tokens": 0.7,
    "block, 1024 tokens": 0.8,
    "generate": 0.7,
    "prefill": 0.8,
    "training": 0.6,
}


def sparse_goals(record="kerashub_models") -> str:
    """The least share of E/k over the families, beside what was aimed for."""
    shares = {}
    for backend, row in _rows(record):
        if row["of"] == "sparse":
            work = int(row["experts"]) / int(row["top_k"])
            share = 1 / float(row["/KerasHub"]) / work
            shares.setdefault((row["op"], backend), []).append(share)
    backends = sorted({backend for _, backend in shares})
    lines = []
    for op in dict.fromkeys(op for op, _ in shares):
        (aimed,) = (GOALS[name] for name in GOALS if op.startswith(name))
        line = {"operation": op, "aimed for": f"{aimed:.2f}"}
        for backend in backends:
            least = min(shares[op, backend])
            missed = " (missed)" if least < aimed else ""
            line[backend] = f"{least:.2f}{missed}"
        lines.append(line)
    return benchmarks.table(lines)


def kerashub_memory() -> str:
    """Peak memory of KerasHub's, sparse and quantised models."""
    lines = {}
    for record in ("kerashub_memory", "kerashub_loading"):
        for backend, row in _rows(record):
            line = lines.setdefault((row["op"], backend), {})
            line[row["of"]] = row["peak_extra_mib"]
    columns = ("KerasHub", "sparse", "afterwards", "int8", "int4")
    return benchmarks.table(
        [
            {"MiB": op, "backend": backend}
            | {name: line.get(name, "") for name in columns}
            for (op, backend), line in lines.items()
        ]
    )


def _exchanges(rows) -> str:
    """Memory and exchanges of a step, a line for each router and mesh."""
    columns = {
        "router": "router",
        "mesh": "data_x_expert",
        "state, MiB": "arguments_mib",
        "step, MiB": "temporary_mib",
    }
    kinds = ("all-to-all", "all-reduce", "all-gather")
    return benchmarks.table(
        [
            {
                head: row[name].replace("_", " ")
                for head, name in columns.items()
            }
            | {kind: f"{row[kind]}, {row[kind + '_mib']} MiB" for kind in kinds}
            for row in rows
        ]
    )


def _rows(record):
    """Pairs of a backend and a row of its table."""
    for path in sorted(RESULTS.glob(f"{record}-*.csv")):
        for row in benchmarks.read(path):
            yield path.stem.split("-")[1], row


def _by_backend(record, chosen, columns, figure):
    """A table with a line for each set of columns, and one column a backend."""
    lines = {}
    for path in sorted(RESULTS.glob(f"{record}-*.csv")):
        backend = path.stem.split("-")[1]
        for row in filter(chosen, benchmarks.read(path)):
            line = tuple(columns(row).items())
            lines.setdefault(line, {})[backend] = figure(row)
    if not lines:
        return "There is no record of this yet."
    backends = sorted({name for found in lines.values() for name in found})
    return benchmarks.table(
        [
            {**dict(line), **{name: found.get(name, "") for name in backends}}
            for line, found in lines.items()
        ]
    )


def upcycling_losses() -> str:
    """A table of guides/upcycling.json."""
    record = json.loads((ROOT / "guides" / "upcycling.json").read_text())
    rows = [
        {
            "model": name,
            "steps in total": str(model["steps"]),
            "loss at the start": f"{model['held_out_loss'][0]:.2f}",
            "loss at the end": f"{model['held_out_loss'][-1]:.2f}",
        }
        for name, model in record["models"].items()
    ]
    return benchmarks.table(rows)


def streaming() -> str:
    """A table of memory and time of soft routing at 16,384 tokens."""
    rows = []
    for path in sorted(RESULTS.glob("soft_routing_memory-*-cpu.csv")):
        backend = headlines.BACKENDS[path.stem.split("-")[1]]
        cells = {"backend": backend}
        table = benchmarks.read(path)
        for name in ("reference", "shared_exp", "streaming"):
            forward, both = (
                next(
                    row
                    for row in table
                    if (row["tokens"], row["of"], row["mode"])
                    == ("16384", name, mode)
                )
                for mode in ("F", "FB")
            )
            cells[f"`{name}`, MiB"] = " / ".join(
                f"{int(row['peak_extra_mib']):,}" for row in (forward, both)
            )
            cells[f"`{name}`, s"] = " / ".join(
                f"{float(row['seconds']):.1f}" for row in (forward, both)
            )
        rows.append(cells)
    return benchmarks.table(rows)


def recomputed() -> str:
    """Memory and time of training steps that recompute blocks or keep them."""
    lines = {}
    for backend, row in _rows("recomputed"):
        name = headlines.BACKENDS[backend]
        line = lines.setdefault(name, {"backend": name})
        line[f"{row['of']}, MiB"] = row["peak_extra_mib"]
        line[f"{row['of']}, s"] = f"{float(row['seconds']):.1f}"
    return benchmarks.table(list(lines.values()))


def on_page_markdown(markdown, page, config, files):
    if page.file.src_uri == "benchmarks.md":
        markdown = markdown.replace(
            "<!-- headlines -->", headlines.markdown(RESULTS)
        )
        markdown = markdown.replace("<!-- streaming -->", streaming())
        return f"{markdown}\n\n{benchmarks.chapters(RESULTS)[0]}\n"
    if page.file.src_uri == "models.md":
        return markdown.replace("<!-- recomputed -->", recomputed())
    if page.file.src_uri == "routers.md":
        return markdown.replace("<!-- selections -->", runs.selections_table())
    if page.file.src_uri == "value_network.md":
        return markdown.replace("<!-- returns -->", runs.values_table())
    if page.file.src_uri == "upcycling.md":
        markdown = markdown.replace("<!-- losses -->", upcycling_losses())
        return markdown.replace("<!-- transitions -->", transitions())
    if page.file.src_uri == "kerashub.md":
        for mark, made in (
            ("sparse models", sparse_models),
            ("sparse goals", sparse_goals),
            ("long models", lambda: sparse_models("kerashub_long")),
            ("long goals", lambda: sparse_goals("kerashub_long")),
            ("quantised experts", quantised_experts),
            ("memory", kerashub_memory),
        ):
            markdown = markdown.replace(f"<!-- {mark} -->", made())
        return markdown
    if page.file.src_uri == "devices.md":
        (path,) = RESULTS.glob("expert_parallel_compiled-*.csv")
        shown = benchmarks.transposed_table(benchmarks.read(path))
        markdown = markdown.replace("<!-- expert parallel -->", shown)
        (path,) = RESULTS.glob("expert_parallel_routers-*.csv")
        return markdown.replace(
            "<!-- routers in parallel -->", _exchanges(benchmarks.read(path))
        )
    return markdown
