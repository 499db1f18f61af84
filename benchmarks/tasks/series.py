"""Fault diagnosis of bearings: CWRU, a plant a motor load, and what plain references say of it.

Plants are the loads 0 to 3 of the drive end's accelerometer: ten classes at load 0, nine at the
others (the data set's copy has `normal` at load 0 only). Windows of one recording are not
independent, so there are two tests:

- ``within``: each recording is cut in time, its last quarter is the plant's test.
- ``unseen``: the plants are three loads, the test is every window of the fourth, which no model has
  seen in any way. Windows are normalised one by one, so nothing is fitted there. Nine classes, and
  `fedavg`, so that the head is in the release.

A cell is a test, a network (or ``references``) and a seed. References see the same windows: the
logarithm of the spectrum with logistic regression, and MiniRocket of aeon. aeon wants numba, of
which only a beta resolves beside the pins here, so the benchmark makes an environment for it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.tasks.federations import kept, restored, shown
from client.fitting import network_for
from client.plant import open_plant
from client.tasks import task_of
from client.tasks.data import PlantData
from client.tasks.metrics import Prediction, interval, mean_interval
from client.tasks.series.transforms import FrontEnd
from client.training import Trainer
from common.backbone import write_tensors
from common.config import FederationConfig, PlantConfig, PlantSection
from common.files import load_tensors
from server.releases import Releases
from simulation.run import Plan, SeedRun
from simulation.run import run as simulate

Array = npt.NDArray[Any]

LOADS = ("load0", "load1", "load2", "load3")
#: Sorted, as the pooled model's classes are: heads of all models mean the same.
FAULTS = ("B_14", "B_21", "B_7", "IR_14", "IR_21", "IR_7", "OR@6_14", "OR@6_21", "OR@6_7")
#: By name of the backbone and front end; the ``spectrum`` is what logistic regression sees too.
NETWORKS = ("wdcnn", "wdcnn_spectrum", "resnet1d", "inception_time", "gru", "gru_spectrogram")
SEEDS = {"gru_spectrogram": 3}  #: of a network; one of the others
#: Less than half of the training, for the same reason.
SLOW = ("inception_time", "gru")
#: Labelled windows a class and load, a quarter of them for validation.
LABELS = 8
#: What aeon is asked for; another version may draw other kernels.
AEON = "aeon==1.6.0"
STRENGTHS = (0.001, 0.01, 0.1, 1.0)


def cells(*, quick: bool) -> list[str]:
    """Name the cells: the test, the network, the seed."""
    return [
        f"{test}-{what}-{seed}"
        for test in ("within", "unseen")
        for what in ("references", *NETWORKS)
        for seed in range(1 if quick else SEEDS.get(what, 1))
    ]


def run(cell: str, *, data: Path, out: Path, quick: bool) -> Mapping[str, Any]:
    """Measure one cell: what was said of every test window, by load and variant."""
    test, what, seed = cell.split("-")
    write_loads(data / "series", out / "data")
    config = settings(test, what, seed=int(seed), quick=quick)
    if what == "references":
        environment = out.parents[1] / "minirocket"
        found = references(test, config, out=out, python=make_environment(environment))
    elif test == "within":
        found = within(config, out)
    else:
        found = {held: unseen(held, config, out) for held in LOADS}
    shutil.rmtree(out)
    return {"plants": {name: {v: kept(p) for v, p in of.items()} for name, of in found.items()}}


def write_loads(source: Path, root: Path) -> None:
    """Write each load as the file that a plant would have."""
    for number, name in enumerate(LOADS):
        (root / name).mkdir(parents=True, exist_ok=True)
        with np.load(source / f"cwru_de_load{number}.npz") as given:
            arrays = {key: given[key] for key in ("X", "y", "classes", "offset")}
            np.savez(root / name / "windows.npz", rate=np.float64(12000), **arrays)


def settings(test: str, what: str, *, seed: int, quick: bool) -> FederationConfig:
    """Return federation.toml; both tests by the same recipe."""
    network = "wdcnn" if what == "references" else what
    backbone = network.removesuffix("_spectrum").removesuffix("_spectrogram")
    front = network.removeprefix(backbone).removeprefix("_") or "none"
    rounds = 1 if quick else 4 if what in SLOW else 10
    return FederationConfig.model_validate(
        {
            "name": "bearings",
            "task": "series-classification",
            "backbone": backbone,
            "method": "fedper" if test == "within" else "fedavg",
            "rounds": rounds,
            "local_epochs": 4,
            "labels_per_class": LABELS,
            "seed": seed,
            "device": "cpu",
            "series": {
                "channels": ["vibration"],
                "window": 1024,
                "normalise": "window",
                "front": front,
            },
            "training": {
                "batch_size": 16,
                "learning_rate": 2e-3,
                "round_learning_rate": 2e-3,
                "head_learning_rate": 3e-3,
                "head_epochs": 100,
                "batch_norm": "train",
                # A plant alone makes a few more passes than the rounds have together.
                "epochs": 5 * rounds,
                "patience": 5 * rounds,
            },
            "plants": {} if test == "within" else {n: {"classes": list(FAULTS)} for n in LOADS},
        }
    )


def within(config: FederationConfig, out: Path) -> dict[str, dict[str, Prediction]]:
    """Federate all loads; each is tested on the end of its own recordings."""
    found = _federate(config, data=out / "data", out=out / "run", plants=LOADS)
    return {name: dict(judged.predictions) for name, judged in found.judged.items()}


def unseen(held: str, config: FederationConfig, out: Path) -> dict[str, Prediction]:
    """Federate the other loads, and let every model that came of it judge the held-out one.

    Models of the plants alone are joined into one prediction, so that the score is their mean.
    """
    others = tuple(name for name in LOADS if name != held)
    three = config.model_copy(update={"plants": {name: config.plants[name] for name in others}})
    found = _federate(three, data=out / "data", out=out / held, plants=others)
    home = found.prepared.home
    judge = _Judge(held, config, out / "data")
    stores = [open_plant(found.prepared.folder(name)).store for name in others]
    alone = [s.model(v.number) for s in stores for v in s.versions() if v.kind == "local"]
    release = Releases(home).latest()
    return {
        "local": _joined([judge(tensors) for tensors in alone]),
        "federated": judge(release.schema.unflatten(release.vector)),
        "pooled": judge(load_tensors(home / "pooled" / "pooled.safetensors")[0]),
    }


class _Judge:
    """Lets a whole model judge every window of a load."""

    def __init__(self, name: str, config: FederationConfig, root: Path) -> None:
        self.data = read(root, name, config, labels=None)
        device = torch.device("cpu")
        self.network = network_for(config, self.data, device=device)
        task = task_of(config, PlantConfig(name=name, data="."))
        self.trainer = Trainer(task=task, data=self.data, config=config, device=device, seed=0)

    def __call__(self, tensors: Mapping[str, Array]) -> Prediction:
        write_tensors(self.network, tensors)
        every = torch.arange(len(self.data.targets))
        said = self.trainer.predict(self.network, every).numpy()
        return Prediction(truth=self.data.targets.numpy(), predicted=said)


def read(root: Path, name: str, config: FederationConfig, *, labels: int | None) -> PlantData:
    """Read a load as its plant does, with so many labelled windows a class."""
    section = config.plants.get(name, PlantSection())
    own = PlantConfig(
        name=name,
        data=str(root / name),
        classes=section.classes,
        labels_per_class=labels,
        seed=config.seed,
    )
    return task_of(config, own).load(root / name)


def _federate(
    config: FederationConfig, *, data: Path, out: Path, plants: tuple[str, ...]
) -> SeedRun:
    plan = Plan(
        config=config,
        base=Path(),
        data=data,
        out=out,
        plants=plants,
        alone=("local",),
        resume=True,
    )
    return simulate(plan, watch=lambda *_: None)[0]


# -- references ------------------------------------------------------------------------------------

_MINIROCKET = """
import sys
import numpy as np
from aeon.transformations.collection.convolution_based import MiniRocket
from sklearn.linear_model import RidgeClassifierCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

held, out = np.load(sys.argv[1]), {}
for job in sorted(name[:-6] for name in held.files if name.endswith("/train")):
    rocket = MiniRocket(random_state=int(sys.argv[3]))
    ridge = RidgeClassifierCV(np.logspace(-3, 3, 10))
    model = make_pipeline(rocket, StandardScaler(with_mean=False), ridge)
    model.fit(held[job + "/train"], held[job + "/labels"])
    out[job] = model.decision_function(held[job + "/test"])
np.savez(sys.argv[2], **out)
"""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A reference to fit: on some loads' labelled windows, judged on windows of one load."""

    sources: tuple[PlantData, ...]
    judged: PlantData
    rows: torch.Tensor

    def known(self, *parts: str) -> tuple[torch.Tensor, Array]:
        """Return raw windows and class names of sets of the sources."""
        windows = [data.inputs[getattr(data, part)] for data in self.sources for part in parts]
        labels = [
            np.array(data.classes)[data.targets[getattr(data, part)].numpy()]
            for data in self.sources
            for part in parts
        ]
        return torch.cat(windows), np.concatenate(labels)

    @property
    def test(self) -> torch.Tensor:
        return self.judged.inputs[self.rows]

    def prediction(self, scores: Array, classes: Sequence[str]) -> Prediction:
        """Return what was said, of the judged load's own classes only."""
        places = [list(classes).index(name) for name in self.judged.classes]
        return Prediction(truth=self.judged.targets[self.rows].numpy(), predicted=scores[:, places])


def references(
    test: str, config: FederationConfig, *, out: Path, python: Path
) -> dict[str, dict[str, Prediction]]:
    """Fit both references to each load alone and to all together; judge as the networks are."""
    few = {name: read(out / "data", name, config, labels=LABELS) for name in LOADS}
    whole = {name: read(out / "data", name, config, labels=None) for name in LOADS}
    jobs: dict[tuple[str, str], list[Job]] = {}
    for name in LOADS:
        others = [few[other] for other in LOADS if other != name]
        if test == "within":
            judged, rows, alone, together = few[name], few[name].test, [few[name]], [*few.values()]
        else:
            judged, alone, together = whole[name], others, others
            rows = torch.arange(len(judged.targets))
        jobs[name, "alone"] = [Job(sources=(one,), judged=judged, rows=rows) for one in alone]
        jobs[name, "pooled"] = [Job(sources=tuple(together), judged=judged, rows=rows)]
    every = [job for some in jobs.values() for job in some]
    said = {
        "spectrum": [_spectrum(job) for job in every],
        "minirocket": _minirocket(every, out=out, python=python, seed=config.seed),
    }
    found: dict[str, dict[str, Prediction]] = {name: {} for name in LOADS}
    for word, predictions in said.items():
        left = iter(predictions)
        for (name, what), some in jobs.items():
            found[name][f"{word}, {what}"] = _joined([next(left) for _ in some])
    return found


def _spectrum(job: Job) -> Prediction:
    """Choose the penalty on the validation windows, then fit on all labelled ones."""
    see = FrontEnd("spectrum", "window")

    def features(windows: torch.Tensor) -> Array:
        return see(windows).flatten(1).numpy()

    windows, labels = job.known("train")
    held, wanted = job.known("validation")

    def worth(strength: float) -> float:
        line = _line(strength).fit(features(windows), labels)
        return float((line.predict(features(held)) == wanted).mean())

    windows_all, labels_all = job.known("train", "validation")
    model = _line(max(STRENGTHS, key=worth)).fit(features(windows_all), labels_all)
    return job.prediction(model.predict_proba(features(job.test)), model.classes_.tolist())


def _line(strength: float) -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=300))


def _minirocket(jobs: Sequence[Job], *, out: Path, python: Path, seed: int) -> list[Prediction]:
    """Let aeon's MiniRocket say, in its own environment."""
    see = FrontEnd("none", "window")
    arrays: dict[str, Array] = {}
    for place, job in enumerate(jobs):
        windows, labels = job.known("train", "validation")
        arrays |= {
            f"{place:03}/train": see(windows).numpy(),
            f"{place:03}/labels": labels,
            f"{place:03}/test": see(job.test).numpy(),
        }
    held, answer = out / "held.npz", out / "answer.npz"
    np.savez(held, **arrays)  # type: ignore[arg-type]
    subprocess.run([str(python), "-c", _MINIROCKET, str(held), str(answer), str(seed)], check=True)
    with np.load(answer) as said:
        return [
            job.prediction(said[f"{place:03}"], np.unique(arrays[f"{place:03}/labels"]).tolist())
            for place, job in enumerate(jobs)
        ]


def make_environment(folder: Path) -> Path:
    """Make an environment with aeon, unless it is there; return its Python."""
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, AEON], check=True)
        (folder / "ready").touch()
    return python.absolute()


# -- tables ----------------------------------------------------------------------------------------


def tables(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a table a test: balanced accuracy in per cent by load."""
    titles = {
        "within": "### The end of each plant's own recordings",
        "unseen": "### A load that no model was trained on",
    }
    parts = []
    for test, title in titles.items():
        rows = [f"| | {' | '.join(LOADS)} | mean | seeds |", f"|---|{'---|' * (len(LOADS) + 2)}"]
        for what in ("references", *NETWORKS):
            seeds = [
                cell["plants"] for name, cell in found.items() if name.startswith(f"{test}-{what}-")
            ]
            rows += _rows(what, seeds) if seeds else [f"| {what} | not run |"]
        parts += [title, "", *rows, ""]
    return "\n".join(parts)


def _rows(what: str, seeds: Sequence[Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """Return a row a variant, over the seeds that were run."""
    rows, percent = [], partial(shown, form=".1f", factor=100)
    for variant in next(iter(seeds[0].values())):
        runs = {
            name: [restored(seed[name][variant]) for seed in seeds]
            for name in LOADS
            if name in seeds[0]
        }
        cells = [percent(interval(runs[name])) if name in runs else "not run" for name in LOADS]
        mean = percent(mean_interval(list(runs.values()))) if len(runs) == len(LOADS) else ""
        name = variant if what == "references" else f"{what.replace('_', ' ')}, {variant}"
        rows.append(f"| {name} | {' | '.join(cells)} | {mean} | {len(seeds)} |")
    return rows


def _joined(predictions: Sequence[Prediction]) -> Prediction:
    """Put predictions for the same windows below each other: their score is the mean."""
    return Prediction(
        truth=np.concatenate([one.truth for one in predictions]),
        predicted=np.concatenate([one.predicted for one in predictions]),
    )
