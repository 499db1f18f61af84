"""What federation gives real plants: the tables of docs/results/images.md, cell by cell.

A cell is (case, method, seed). Its result is one file in ``--out``; a cell whose file is there is
not run again, so the benchmark continues where it stopped. A file that was made with other settings
than today's is refused. Run folders of methods are deleted once their cell is written; those of
plants alone stay, because every method starts from them.

    python benchmarks/real_plants.py --quick            # every case, one seed
    python benchmarks/real_plants.py --case six-20 --seeds 5 --jobs 2
    python benchmarks/real_plants.py --tables           # what is there, as Markdown
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from client.adoption import CONFIDENCE, TWINS, judge
from client.plant import open_plant
from client.tasks.metrics import (
    Interval,
    Prediction,
    interval,
    mean_interval,
    paired_interval,
    paired_mean_interval,
)
from client.tasks.split import FEW_LABELS
from common.config import FederationConfig, PlantSection
from common.errors import DataError, StateError, TransferlineError
from common.files import load_tensors, read_json, save_tensors, write_json
from server.state.store import history
from server.state.tenure import differences
from simulation.onboard import onboard
from simulation.run import Plan, SeedRun, run
from simulation.split import split_product

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script has its own folder only

from benchmarks.tasks.federations import shown
from benchmarks.trial import DATA, ELPV, SIX


@dataclass(frozen=True, kw_only=True)
class Case:
    """One set of plants.

    Attributes
    ----------
    split : arguments of ``transferline-sim split``; empty where the plants are products.
    methods : the methods that the full benchmark runs; the first one is the headline.
    seeds : how many seeds the full benchmark runs.
    """

    title: str
    labels: int
    methods: tuple[str, ...]
    seeds: int
    plants: tuple[str, ...] = ()
    split: tuple[int, str] | None = None


CASES = {
    "six-20": Case(
        title="six products, 20 labels a class",
        labels=20,
        methods=("fedper", "fedrep", "fedbn", "ditto"),
        seeds=5,
        plants=SIX,
    ),
    "six-5": Case(
        title="six products, 5 labels a class", labels=5, methods=("fedper",), seeds=3, plants=SIX
    ),
    "elpv-20": Case(
        title="elpv mono beside poly, 20 labels a class",
        labels=20,
        methods=("fedavg",),
        seeds=5,
        plants=("elpv_mono", "elpv_poly"),
    ),
    **{
        f"steel{plants}-{short}-{labels}": Case(
            title=f"neu_steel in {plants} plants, {text}, own cameras, {labels} labels a class",
            labels=labels,
            methods=(method,),
            seeds=3,
            split=(plants, text),
        )
        for plants in (4, 8)
        for short, text, method in (
            ("iid", "iid", "fedavg"),
            ("skew", "dirichlet:0.3", "fedper"),
        )
        for labels in (5, 20)
    },
}


def config(case: Case, *, method: str, seed: int) -> FederationConfig:
    """Return the settings of a cell; everything else is at its default."""
    weights = (DATA / "weights" / "mobilenet_v2_imagenet.safetensors").resolve()
    return FederationConfig.model_validate(
        {
            "name": "real plants",
            "backbone": "mobilenet_v2",
            "weights": str(weights),
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "image_size": 96,
            "method": method,
            "labels_per_class": case.labels,
            "test_per_class": 150,
            "seed": seed,
            "device": "cpu",
            "plants": {name: ELPV for name in case.plants if name.startswith("elpv")},
        }
    )


def run_cell(name: str, method: str, seed: int, *, out: Path) -> None:
    """Run one cell and write its file; ``alone`` is the cell that the others start from."""
    case = CASES[name]
    place = out / "runs" / name / str(seed)
    alone = method == "alone"
    data = _data(case, out)
    settings = config(case, method="fedper" if alone else method, seed=seed)
    plan = Plan(
        config=settings.model_copy(update={"plants": settings.plants | _rare(case, data)}),
        base=Path(),
        data=data,
        out=place / method,
        plants=case.plants,
        resume=True,
        alone=("head_only", "local"),
        together=not alone,
        # The bound costs as much as all plants alone; one seed shows it.
        pooled=seed == 0,
        start=None if alone else place / "alone",
    )
    started = time.monotonic()
    found = run(plan, watch=lambda *_: None)[0]
    seconds = time.monotonic() - started
    _write(cell_path(out, name, method, seed), found, split=case.split, seconds=seconds)
    if not alone:
        shutil.rmtree(place / method)


def cell_path(out: Path, name: str, method: str, seed: int) -> Path:
    """Return where the result of a cell is, or will be."""
    return out / "cells" / name / f"{method}-{seed}.safetensors"


def there(out: Path, name: str, method: str, seed: int) -> bool:
    """Say whether a cell has its file.

    Raises
    ------
    StateError
        If it has one that was made with other settings than today's.
    """
    path, case = cell_path(out, name, method, seed), CASES[name]
    if not path.exists():
        return False
    metadata = load_tensors(path)[1]
    asked = config(case, method="fedper" if method == "alone" else method, seed=seed)
    split = json.loads(metadata.get("split", json.dumps(case.split)))
    _refuse_others(path, _settings(metadata["config"], split), _settings(asked, case.split))
    return True


def joined(out: Path, plant: str, seed: int) -> bool:
    """Say whether a late joiner has its file, as `there` does."""
    path = joining_path(out, plant, seed)
    if not path.exists():
        return False
    asked = _settings(config(CASES["six-20"], method="fedper", seed=seed), None)
    _refuse_others(path, read_json(path).get("config", {}), asked)
    return True


def _settings(found: FederationConfig | str, split: Sequence[object] | None) -> dict[str, Any]:
    """Return what a result rests on; "" where stored settings are none that there are today.

    Where the weights lie, and the classes that a run finds in its data, make no difference.
    """
    if isinstance(found, str):
        try:
            found = FederationConfig.model_validate_json(found)
        except ValidationError:
            return {}
    kept = found.model_dump(mode="json", exclude={"classes", "plants"} if split else {"classes"})
    return {**kept, "weights": Path(found.weights).name, "split": list(split) if split else None}


def _refuse_others(path: Path, held: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    changed = list(differences(held, asked)) if held else ["settings are unknown today"]
    if changed:
        raise StateError(
            f"{path} is of another configuration: {'; '.join(changed)}; move it away or use "
            "another --out"
        )


def _data(case: Case, out: Path) -> Path:
    if case.split is None:
        return DATA / "images"
    plants, labels = case.split
    folder = out / "data" / f"steel{plants}-{labels.replace(':', '-')}"
    if not folder.is_dir():
        whole = DATA / "images" / "neu_steel"
        split_product(whole, folder, plants=plants, labels=labels, cameras=True, seed=0)
    return folder


def _rare(case: Case, data: Path) -> dict[str, PlantSection]:
    """Leave out, at each plant of a split, the classes that have no image beside the labelled."""
    if case.split is None:
        return {}
    found = {}
    for plant in (folder for folder in sorted(data.iterdir()) if folder.is_dir()):
        sizes = {one.name: len(list(one.iterdir())) for one in sorted(plant.iterdir())}
        enough = tuple(name for name, size in sizes.items() if size > case.labels)
        if len(enough) < len(sizes):
            found[plant.name] = PlantSection(classes=enough)
    return found


def _write(path: Path, found: SeedRun, *, split: tuple[int, str] | None, seconds: float) -> None:
    tensors, files, deployed = {}, {}, {}
    for plant, judged in found.judged.items():
        files[plant] = judged.predictions["local"].names
        deployed[plant] = judged.source
        for variant, prediction in judged.predictions.items():
            key = f"{plant}/{variant}"
            tensors[f"{key}/truth"] = prediction.truth.astype(np.int64)
            tensors[f"{key}/probabilities"] = prediction.predicted.astype(np.float32)
        if "federated" in judged.predictions:
            tensors |= _evidence(plant, found)
    rounds = history(found.prepared.home) if "rounds" in found.seconds else []
    sent = sum(reply["bytes_up"] for entry in rounds for reply in entry["replies"].values())
    save_tensors(
        path,
        tensors,
        {
            "files": json.dumps(files),
            "deployed": json.dumps(deployed),
            "seconds": json.dumps({**found.seconds, "all": seconds}),
            "bytes_up": str(sent),
            "config": found.prepared.job.config.model_dump_json(),
            "split": json.dumps(split),
        },
    )


def _evidence(plant: str, found: SeedRun) -> dict[str, npt.NDArray[np.generic]]:
    """Return what the no-harm rule saw, so that the tables can apply the rule of today to it."""
    opened = open_plant(found.prepared.folder(plant))
    data = opened.data(found.prepared.job.config)
    truth = data.targets[data.validation].cpu().numpy()
    kept = {f"{plant}/evidence/truth": truth}
    for version in opened.store.versions():
        if version.kind in ("local", "federated"):
            seen = opened.store.evidence(version)[: len(truth)]
            kept[f"{plant}/evidence/{version.kind}"] = seen
    return kept


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell's file, read."""

    predictions: Mapping[str, Mapping[str, Prediction]]
    deployed: Mapping[str, str]
    bytes_up: int


def read_cell(path: Path) -> Cell:
    """Read predictions by plant and variant."""
    tensors, metadata = load_tensors(path)
    files = json.loads(metadata["files"])
    predictions: dict[str, dict[str, Prediction]] = defaultdict(dict)
    deployed = json.loads(metadata["deployed"])
    labels = json.loads(metadata["config"])["labels_per_class"]
    few = labels is not None and labels < FEW_LABELS
    for key in tensors:
        plant, variant, kind = key.rsplit("/", 2)
        if variant == "evidence":
            continue
        if kind == "truth":
            predictions[plant][variant] = Prediction(
                truth=tensors[key],
                predicted=tensors[f"{plant}/{variant}/probabilities"],
                names=tuple(files[plant]),
            )
    for plant, variants in predictions.items():
        if f"{plant}/evidence/truth" in tensors:
            truth, local, federated = (
                tensors[f"{plant}/evidence/{name}"] for name in ("truth", "local", "federated")
            )
            # As in `client.adoption`: below ten labels a class twins are judged.
            confidence = TWINS if few else CONFIDENCE
            adopt = judge(
                _worth(federated, truth) - _worth(local, truth),
                truth,
                margin=0.0,
                confidence=confidence,
            ).adopt
            deployed[plant] = "federated" if adopt else "local"
            variants["deployed"] = variants[deployed[plant]]
    return Cell(
        predictions=predictions,
        deployed=deployed,
        bytes_up=int(metadata["bytes_up"]),
    )


Array = npt.NDArray[np.float64]


def _worth(
    evidence: npt.NDArray[np.float32], truth: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Return the probability of the truth, as `client.tasks.classes` has it."""
    return evidence[np.arange(len(truth)), truth].astype(np.float64)


# -- a plant that joins late -----------------------------------------------------------------------

JOINING = ("source", "release", "gain")


def run_joining(plant: str, seed: int, *, out: Path) -> None:
    """Federate the other five at 20 labels a class, then let this one join with 5."""
    place = out / "runs" / "joining" / f"{plant}-{seed}"
    others = tuple(name for name in SIX if name != plant)
    case = CASES["six-20"]
    settings = config(case, method="fedper", seed=seed)
    settings = settings.model_copy(
        update={
            "plants": {name: own for name, own in settings.plants.items() if name != plant},
            # The five need no models of their own here.
            "methods": settings.methods.model_copy(
                update={"personal_fine_tune": False, "local_first": False}
            ),
        }
    )
    plan = Plan(
        config=settings,
        base=Path(),
        data=DATA / "images",
        out=place,
        plants=others,
        resume=True,
        pooled=False,
        alone=("head_only",),
    )
    run(plan, watch=lambda *_: None)
    release = place / "releases" / str(settings.rounds)
    joining = config(case, method="fedper", seed=seed)
    rows = onboard(
        joining,
        base=Path(),
        release=release,
        data=DATA / "images" / plant,
        labels=[5],
        seeds=3,
        out=place / "onboard",
        watch=lambda *_: None,
    )
    row = rows[0]
    if row.problem:
        raise DataError(row.problem)
    write_json(
        joining_path(out, plant, seed),
        {
            "config": _settings(joining, None),
            **{name: asdict(row)[name] for name in JOINING},
        },
    )
    shutil.rmtree(place)


def joining_path(out: Path, plant: str, seed: int) -> Path:
    """Return where the result of a late joiner is, or will be."""
    return out / "cells" / "joining" / f"{plant}-{seed}.json"


# -- what is there, as Markdown --------------------------------------------------------------------


def tables(out: Path) -> str:
    """Every table that has a cell; what was not run is named."""
    there = [name for name in CASES if (out / "cells" / name).is_dir()]
    missing = "; ".join(case.title for name, case in CASES.items() if name not in there)
    return "\n".join(
        [
            *(_table(name, out) for name in there),
            f"Not run: {missing or 'nothing'}.\n",
            _joining_table(out),
        ]
    )


def _table(name: str, out: Path) -> str:
    case = CASES[name]
    lines = [f"### {case.title}", ""]
    for method in case.methods:
        seeds = [s for s in range(case.seeds) if there(out, name, method, s)]
        if not seeds:
            lines += [f"`{method}`: not run.", ""]
            continue
        lines += [f"`{method}`, {len(seeds)} of {case.seeds} seeds", ""]
        lines += [*_rows([read_cell(cell_path(out, name, method, seed)) for seed in seeds]), ""]
    return "\n".join(lines)


VARIANTS = ("head_only", "local", "pooled", "federated", "deployed")


def _rows(cells: Sequence[Cell]) -> Iterator[str]:
    plants = list(cells[0].predictions)
    yield f"| plant | {' | '.join(VARIANTS)} | deployed - local | adopted |"
    yield "|---" * (len(VARIANTS) + 3) + "|"
    for plant in plants:
        found = {v: _of(cells, plant, v) for v in VARIANTS}
        figures = " | ".join(f"{interval(f).value:.3f}" if f else "not run" for f in found.values())
        adopted = sum(cell.deployed[plant] == "federated" for cell in cells)
        gain = paired_interval(found["deployed"], found["local"])
        yield f"| {plant} | {figures} | {shown(gain, '+.3f')} | {adopted} of {len(cells)} |"
    every = {v: [_of(cells, plant, v) for plant in plants] for v in VARIANTS}
    means = " | ".join(shown(mean_interval(e)) if all(e) else "" for e in every.values())
    gain = paired_mean_interval(every["deployed"], every["local"])
    yield f"| **mean** | {means} | **{shown(gain, '+.3f')}** | |"
    raw = paired_mean_interval(every["federated"], every["local"])
    yield ""
    sent = np.mean([cell.bytes_up for cell in cells]) / 1e6
    yield (
        f"Federated minus local, before the no-harm rule: {shown(raw, '+.3f')}. "
        f"Pooled: seed 0 only. Sent by the plants: {sent:.0f} MB a run."
    )


def _of(cells: Sequence[Cell], plant: str, variant: str) -> list[Prediction]:
    """Return the predictions of the seeds that have this variant; `pooled` is of one seed."""
    found = [cell.predictions[plant] for cell in cells]
    return [predictions[variant] for predictions in found if variant in predictions]


def _joining_table(out: Path) -> str:
    lines = ["### A sixth plant joins five with 5 labels a class (3 draws of the labels)", ""]
    lines += [
        "| plant | from ImageNet | from the release of the other five | gain |",
        "|---" * 4 + "|",
    ]
    for plant in SIX:
        if not joined(out, plant, 0):
            lines.append(f"| {plant} | not run | | |")
            continue
        kept = read_json(joining_path(out, plant, 0))
        row = {name: Interval(**kept[name]) for name in JOINING}
        cells = f"{shown(row['source'])} | {shown(row['release'])} | {shown(row['gain'], '+.3f')}"
        lines.append(f"| {plant} | {cells} |")
    return "\n".join(lines)


# -- many cells ------------------------------------------------------------------------------------


def wanted(cases: Sequence[str], seeds: int | None, out: Path) -> Iterator[list[str]]:
    """Command-line arguments of each cell that has no file, plants alone first."""
    for seed in range(max(seeds or case.seeds for case in CASES.values())):
        for name in cases:
            if name == "joining":
                for plant in SIX if seed == 0 else ():
                    if not joined(out, plant, seed):
                        yield ["joining", plant, str(seed)]
            elif seed < (seeds or CASES[name].seeds):
                methods = CASES[name].methods
                todo = [m for m in methods if not there(out, name, m, seed)]
                if seed > 0:
                    todo = [m for m in todo if m == methods[0]]
                if todo:
                    yield [name, ",".join(todo), str(seed)]


def run_all(cells: Sequence[list[str]], *, out: Path, jobs: int) -> None:
    """Run cells in processes of their own, ``jobs`` at a time; one line each."""
    waiting, running = list(cells), dict[subprocess.Popen[bytes], tuple[str, float]]()
    while waiting or running:
        while waiting and len(running) < jobs:
            cell = waiting.pop(0)
            command = [sys.executable, __file__, "--out", str(out), "--cell", *cell]
            running[subprocess.Popen(command)] = (" ".join(cell), time.monotonic())
        time.sleep(0.5)
        for process in [p for p in running if p.poll() is not None]:
            name, started = running.pop(process)
            verdict = "done" if process.returncode == 0 else f"failed ({process.returncode})"
            print(f"{name}: {verdict} after {time.monotonic() - started:.0f} s", flush=True)


def main() -> None:
    """Run the command line; an error is one line."""
    try:
        _main()
    except TransferlineError as error:
        sys.exit(str(error))


def _main() -> None:
    """Run what is asked for, or what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    parser.add_argument("--quick", action="store_true", help="one seed")
    parser.add_argument("--case", action="append", choices=[*CASES, "joining"])
    parser.add_argument("--seeds", type=int, help="this many instead of each case's own")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--tables", action="store_true", help="print what is there, run nothing")
    parser.add_argument("--cell", nargs=3, metavar=("CASE", "METHODS", "SEED"))
    given = parser.parse_args()
    if not (DATA / "images").is_dir():
        sys.exit(f"no real data in {DATA}; set TRANSFERLINE_DATA")
    if given.cell:
        name, what, seed = given.cell
        if name == "joining":
            run_joining(what, int(seed), out=given.out)
        else:
            for method in ("alone", *what.split(",")):
                if not there(given.out, name, method, int(seed)):
                    run_cell(name, method, int(seed), out=given.out)
        return
    if not given.tables:
        cases = given.case or [*CASES, "joining"]
        seeds = 1 if given.quick else given.seeds
        run_all(list(wanted(cases, seeds, given.out)), out=given.out, jobs=given.jobs)
    print(tables(given.out))


if __name__ == "__main__":
    main()
