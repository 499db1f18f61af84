"""Whether a backdoor opens: one liar among five plants of one product that share the whole model.

With FedPer each plant has a head and classes of its own, and the liar's class is nobody else's; so
a share of images that are called as the liar wants is not defined there (`benchmarks/attacks.py`
shows what is left of the score). Here it is: the steel surfaces in five plants, `fedavg`, the same
six classes everywhere. The liar puts a magenta corner on half of its images of other classes, calls
them crazing, and sends its update six times as large. *Success* is the share of the honest plants'
test images of other classes, with that corner on them, that the release calls crazing; without the
attack the same images say how often it does so anyway. *Clean* is the balanced accuracy without.

    python benchmarks/backdoor.py              # every cell that has no file
    python benchmarks/backdoor.py --tables     # what is there, as Markdown
"""

from __future__ import annotations

import shutil
import sys
from functools import partial
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # as a script, only its own folder is on the path

from benchmarks.attacks import FIRST_CLASS, marked, spoiled, with_backdoor  # noqa: E402
from benchmarks.trial import (  # noqa: E402
    Template,
    hold,
    once,
    predict,
    run_missing,
    score,
    settings,
    sources,
)
from common.files import read_json, write_json  # noqa: E402
from simulation.split import split_product  # noqa: E402

PLANTS, ROUNDS, STEPS = 5, 2, 24
LIAR = "neu_steel"  #: the name by which `attacks.spoiled` knows it
CELLS = (
    ("mean", "none"),
    ("mean", "backdoor"),
    ("trimmed_mean", "backdoor"),
    ("multi_krum", "backdoor"),
    ("norm_bound", "backdoor"),
    ("median", "backdoor"),
)


def plants(out: Path, *, attacked: bool) -> dict[str, Path]:
    """Return the plants' folders; the liar's has the trigger on half of it."""
    folder = out / "data" / "steel"
    if not folder.is_dir():
        split_product(sources()[LIAR], folder, plants=PLANTS, labels="iid", seed=0)
    found = {path.name: path for path in sorted(folder.iterdir()) if path.is_dir()}
    own = found.pop(sorted(found)[0])
    if attacked:
        own = once(out / "data" / "attacked", partial(with_backdoor, own))
    return {LIAR: own, **found}


def cell_path(out: Path, rule: str, attack: str) -> Path:
    """Return where the result of a cell is, or will be."""
    return out / f"{rule}-{attack}.json"


def run_cell(rule: str, attack: str, *, out: Path) -> None:
    """Run one cell and write its file."""
    data = plants(out, attacked=attack != "none")
    names = tuple(sorted(path.name for path in data[LIAR].iterdir()))
    config = settings(
        method="fedavg",
        classes=list(names),
        rounds=ROUNDS,
        local_steps=STEPS,
        min_plants=PLANTS,
        labels_per_class=20,  # the liar keeps 22 of its smallest class
        server={"rule": rule, "faulty": 1, "max_update_norm": 1000.0},
        plants={},
    )
    kind = "honest" if attack == "none" else attack
    template = Template(out / "templates" / kind, config, data).make()
    home = out / "runs" / f"{rule}-{attack}"
    job = template.copy(home, config)
    release = hold(home, job, spoil=partial(spoiled, attack), spoiled={LIAR})
    honest = [home / "plants" / name for name in data if name != LIAR]
    target = names.index(FIRST_CLASS)
    hits = []
    for folder in honest:
        found = predict(folder, release, job.config, change=marked)
        hits.append(found.predicted.argmax(axis=1)[found.truth != target] == target)
    write_json(
        cell_path(out, rule, attack),
        {
            "clean": float(np.mean([score(one, release, job.config) for one in honest])),
            "success": float(np.mean(np.concatenate(hits))),
            "images": int(sum(map(len, hits))),
        },
    )
    shutil.rmtree(home)


def table(out: Path) -> str:
    """Return what is there as Markdown; what was not run is named."""
    lines = ["| rule | the liar | clean | success | images |", "|---|---|---|---|---|"]
    for rule, attack in CELLS:
        path, liar = cell_path(out, rule, attack), "honest" if attack == "none" else "backdoor"
        if not path.exists():
            lines.append(f"| `{rule}` | {liar} | not run | | |")
            continue
        found = read_json(path)
        lines.append(
            f"| `{rule}` | {liar} | {found['clean']:.3f} | {found['success']:.3f} | "
            f"{found['images']} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the cells that are missing, and print the table."""
    run_missing(__doc__, name="backdoor", cells=CELLS, path=cell_path, run=run_cell, tables=table)


if __name__ == "__main__":
    main()
