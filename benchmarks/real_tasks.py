"""What federation gives other data than images: the tables of docs/results/, cell by cell.

A thin driver: each kind of data is a module of `benchmarks.tasks`, which says what its cells are
and how their tables look. A cell's result is one JSON file in ``OUT/TASK``; a cell whose file is
there is not run again, so the benchmark continues where it stopped.

    python benchmarks/real_tasks.py --task tables --quick    # every cell, capped
    python benchmarks/real_tasks.py --task tables            # as in docs/results/
    python benchmarks/real_tasks.py --task tables --tables   # what is there, as Markdown
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # as a script, only its own folder is on the path

from common.files import read_json, write_json  # noqa: E402

#: Modules of `benchmarks.tasks` by the word after ``--task``.
TASKS = ("tables", "series", "rul", "text", "anomaly")
DATA = Path(os.environ.get("TRANSFERLINE_DATA", ROOT / "../shared/data"))


class Cells(Protocol):
    """What a module of `benchmarks.tasks` has."""

    def cells(self, *, quick: bool) -> list[str]:
        """Name the cells, in the order in which they run; a name is a file name."""
        ...

    def run(self, cell: str, *, data: Path, out: Path, quick: bool) -> Mapping[str, Any]:
        """Measure one cell; ``out`` is a folder of its own for what it leaves behind."""
        ...

    def tables(self, found: Mapping[str, Mapping[str, Any]]) -> str:
        """Return Markdown from the cells that are there; names those that were not run."""
        ...


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--cell", action="append", help="only this one; may be repeated")
    parser.add_argument("--quick", action="store_true", help="capped: to see that all works")
    parser.add_argument("--tables", action="store_true", help="print what is there, run nothing")
    parser.add_argument("--out", type=Path, default=Path("out/real_tasks"))
    asked = parser.parse_args()
    module: Cells = importlib.import_module(f"benchmarks.tasks.{asked.task}")  # type: ignore[assignment]
    out = asked.out / (f"{asked.task}-quick" if asked.quick else asked.task)
    known = module.cells(quick=asked.quick)
    if unknown := set(asked.cell or ()) - set(known):
        parser.error(f"--cell must be among {', '.join(known)}, got {', '.join(unknown)}")
    for cell in [] if asked.tables else asked.cell or known:
        path = out / f"{cell}.json"
        if path.exists():
            continue
        began = time.monotonic()
        found = dict(module.run(cell, data=DATA, out=out / "runs" / cell, quick=asked.quick))
        found["seconds"] = round(time.monotonic() - began, 1)
        write_json(path, found)
        print(f"{cell}: {found['seconds']} s", file=sys.stderr, flush=True)
    there = {
        cell: read_json(out / f"{cell}.json") for cell in known if (out / f"{cell}.json").exists()
    }
    print(module.tables(there))
    if missing := [cell for cell in known if cell not in there]:
        print(f"\nnot run: {', '.join(missing)}")


if __name__ == "__main__":
    main()
