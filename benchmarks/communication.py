"""Bytes that a plant sends in a round against what the release is worth, on real images.

A cell is (form, seed); its result is one file in ``--out``, and a cell whose file is there is not
run again. The plants are four, with a fourth of neu_steel and a camera of its own each, because
there a release is worth something: `benchmarks.trial` with FedPer, 64 pixels, 20 labels a class, 8
rounds of 12 steps. The score is the mean balanced accuracy of the last release with each plant's
own head; differences to ``fp32`` are on the same images, with 95 % bootstrap intervals over images
(`client.tasks.metrics`). ``source`` is the release that all start from, with the heads of ``fp32``.

    python benchmarks/communication.py              # every cell that has no file
    python benchmarks/communication.py --cells 1    # at most one of them
    python benchmarks/communication.py --tables     # what is there, as Markdown
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # as a script, only its own folder is on the path

from benchmarks.tasks.federations import shown  # noqa: E402
from benchmarks.trial import hold, predict, run_missing, settings, sources  # noqa: E402
from client.tasks.metrics import Prediction, mean_interval, paired_mean_interval  # noqa: E402
from common.files import load_tensors, save_tensors  # noqa: E402
from server.state.store import history  # noqa: E402
from simulation.prepare import prepare  # noqa: E402
from simulation.split import split_product  # noqa: E402
from simulation.workers import Workers  # noqa: E402

ROUNDS = 8
SEEDS = 2
FOUR = ("plant-1", "plant-2", "plant-3", "plant-4")

#: Under masks 8 bits take 10.7 at four plants and 6 take 8, with room for the sum; bound and weight
#: fit the updates of this setting, so that bits are not spent on zeros.
MASKED = {"enabled": True, "bits": 8, "bound": 0.004}
FORMS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "masked coordinates, 37.5 %": {
        "update": {"form": "coordinates", "share": 0.375, "values": "fp32"},
        "secure_aggregation": MASKED,
        "server": {"max_weight": 128},
        "min_plants": 3,
    },
    "masked coordinates, 50 %, 6 bits": {
        "update": {"form": "coordinates", "share": 0.5, "values": "fp32"},
        "secure_aggregation": MASKED | {"bits": 6},
        "server": {"max_weight": 128},
        "min_plants": 3,
    },
    "top_k, 10 %": {"update": {"form": "top_k", "share": 0.1}},
    "coordinates, 25 %": {"update": {"form": "coordinates", "share": 0.25}},
    "int8": {"update": {"form": "int8"}},
    "low_rank, 4": {"update": {"form": "low_rank", "rank": 4}},
    "fp16": {"update": {"form": "fp16"}},
    "top_k, 3 %, int8": {"update": {"form": "top_k", "share": 0.03, "values": "int8"}},
    "coordinates, 10 %, int8": {"update": {"form": "coordinates", "share": 0.1, "values": "int8"}},
}
SOURCE = "source"


def cell_path(out: Path, form: str, seed: int) -> Path:
    """Return where the result of a cell is, or will be."""
    name = form.replace(" %", "").replace(", ", "-").replace(" ", "-")
    return out / "cells" / f"{name}-{seed}.safetensors"


def run_cell(form: str, seed: int, *, out: Path) -> None:
    """Run one cell and write its file."""
    started = time.process_time()
    home = out / "runs" / cell_path(out, form, seed).stem
    shutil.rmtree(home, ignore_errors=True)
    config = settings(
        rounds=ROUNDS, local_steps=12, test_per_class=150, seed=seed, plants={}, **FORMS[form]
    )
    with Workers(1) as workers:
        job = prepare(home, config=config, base=Path(), data=plants(out), workers=workers).job
    release = hold(home, job)
    rows = history(home)[:ROUNDS]
    sent = [reply["bytes_up"] for row in rows for reply in row["replies"].values()]
    metadata = {
        "outcomes": json.dumps([row["outcome"] for row in rows]),
        "bytes_up": str(np.mean(sent)),
        "cpu_seconds": f"{time.process_time() - started:.0f}",
    }
    save_tensors(cell_path(out, form, seed), _judged(home, release, job), metadata)
    if form == "fp32":
        metadata["bytes_up"] = "0"
        path = cell_path(out, SOURCE, seed)
        save_tensors(path, _judged(home, job.source, job), metadata)
    shutil.rmtree(home)


def plants(out: Path) -> dict[str, Path]:
    """Return the folders of four plants, cut from one product."""
    folder = out / "data"
    if not folder.is_dir():
        split_product(
            sources()["neu_steel"], folder, plants=len(FOUR), labels="iid", cameras=True, seed=0
        )
    return {name: folder / name for name in FOUR}


def _judged(home: Path, release: Any, job: Any) -> dict[str, Any]:
    tensors: dict[str, Any] = {}
    for name in FOUR:
        found = predict(home / "plants" / name, release, job.config)
        tensors[f"{name}/truth"] = found.truth.astype(np.int64)
        tensors[f"{name}/predicted"] = found.predicted.astype(np.float32)
    return tensors


def read(path: Path) -> tuple[list[Prediction], dict[str, str]]:
    """Return the predictions of each plant, and the facts of a cell."""
    tensors, metadata = load_tensors(path)
    found = []
    for name in FOUR:
        truth = tensors[f"{name}/truth"]
        names = tuple(str(number) for number in range(len(truth)))
        found.append(Prediction(truth=truth, predicted=tensors[f"{name}/predicted"], names=names))
    return found, metadata


def tables(out: Path) -> str:
    """Return what is there as Markdown; what was not run is named."""
    lines = [
        "| form | bytes a round and plant | part of fp32 | score | less fp32 | seeds |",
        "|---|---|---|---|---|---|",
    ]
    whole = {
        seed: read(cell_path(out, "fp32", seed))
        for seed in range(SEEDS)
        if cell_path(out, "fp32", seed).exists()
    }
    for form in (SOURCE, *FORMS):
        seeds = [seed for seed in whole if cell_path(out, form, seed).exists()]
        if not seeds:
            lines.append(f"| {form} | not run | | | | 0 of {SEEDS} |")
            continue
        cells = [read(cell_path(out, form, seed)) for seed in seeds]
        bytes_up = np.mean([float(facts["bytes_up"]) for _, facts in cells])
        part = bytes_up / np.mean([float(whole[seed][1]["bytes_up"]) for seed in seeds])
        ours = [list(runs) for runs in zip(*(found for found, _ in cells), strict=True)]
        theirs = [list(runs) for runs in zip(*(whole[seed][0] for seed in seeds), strict=True)]
        score = mean_interval(ours).value
        less = "" if form == "fp32" else shown(paired_mean_interval(ours, theirs), "+.3f")
        size = f"{bytes_up / 1e6:.2f} MB | {part:.3f}" if bytes_up else "nothing | "
        lines.append(f"| {form} | {size} | {score:.3f} | {less} | {len(seeds)} of {SEEDS} |")
        for seed, (_, facts) in zip(seeds, cells, strict=True):
            if any(outcome != "committed" for outcome in json.loads(facts["outcomes"])):
                lines[-1] += f" (seed {seed}: {facts['outcomes']})"
    return "\n".join(lines)


def main() -> None:
    """Run the cells that are missing, and print the table."""
    run_missing(
        __doc__,
        name="communication",
        cells=[(form, seed) for seed in range(SEEDS) for form in FORMS],
        path=cell_path,
        run=run_cell,
        tables=tables,
    )


if __name__ == "__main__":
    main()
