"""Run the parts item by item, within a time, and write their records.

A part is a module whose `items(chip)` lists what it does. An item that fails
stops no other.
"""

import contextlib
import tempfile
import time
import traceback

from tests.accelerator import chip as chips
from tests.accelerator import memory
from tests.accelerator import parity
from tests.accelerator import reads
from tests.accelerator import tables
from tests.benchmarks import timing

PARTS = {
    "parity": parity.items,
    "reads": reads.items,
    "memory": memory.items,
    "tables": tables.items,
}
# The share of all time when a part has to be done.
BY = {"parity": 0.4, "reads": 0.55, "memory": 0.7, "tables": 1.0}


def run(parts, out, minutes) -> int:
    """Run parts (`None`: what suits the device), and return an exit status."""
    chip, start = chips.found(), time.monotonic()
    on_cpu = chip.kind == "cpu"
    if on_cpu:
        print(f"No accelerator is here for {chips.BACKEND}: this is the CPU.")
    else:
        print(f"{chips.BACKEND} on {chip.name}, {chip.driver}.")
    parts = parts or (["parity"] if on_cpu else list(PARTS))
    if out is None and not on_cpu:
        out = timing.RESULTS
    failures, rows = [], {}
    with programs_kept():
        for part in parts:
            share = 1.0 if part == parts[-1] else BY[part]
            until = start + 60 * minutes * share
            failures += _part(part, chip, until, start + 60 * minutes, rows)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        for table, found in rows.items():
            op = f"accelerator_{table}"
            print(timing.save(op, found, chip.slug, out))
    for failure in failures:
        print(f"FAILED {failure}")
    took = (time.monotonic() - start) / 60
    made = sum(len(found) for found in rows.values())
    print(f"{made} rows, {len(failures)} failures, {took:.1f} minutes.")
    return 1 if failures else 0


@contextlib.contextmanager
def programs_kept():
    """On JAX, what one part has compiled serves the next: memory and tables."""
    if chips.BACKEND != "jax":
        yield
        return
    import jax

    before = jax.config.jax_compilation_cache_dir
    with tempfile.TemporaryDirectory() as folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        try:
            yield
        finally:
            jax.config.update("jax_compilation_cache_dir", before)


def _part(part, chip, until, end, rows):
    """Run the items of a part, add to `rows`, and return what failed."""
    try:
        items = list(PARTS[part](chip))
    except Exception as error:
        traceback.print_exc()
        return [f"{part}: {_line(error)}"]
    failures = []
    for number, item in enumerate(items, 1):
        left = (end - time.monotonic()) / 60
        if time.monotonic() > until:
            missed = ", ".join(i.label for i in items[number - 1 :])
            failures.append(f"{part}: not reached in the time: {missed}")
            break
        place = f"{part} {number}/{len(items)}"
        print(f"{place}: {item.label} ({left:.1f} minutes left)", flush=True)
        try:
            made = item.run()
        except Exception as error:
            traceback.print_exc()
            failures.append(f"{part}: {item.label}: {_line(error)}")
            continue
        where = rows.setdefault(item.table, [])
        where += [{**row, **chip.columns()} for row in made]
    return failures


def _line(error):
    """The error in a line."""
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said[:300]}"
