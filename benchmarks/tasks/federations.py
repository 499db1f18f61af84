"""What the cells of several kinds of data share: one run of a federation, and its table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from client.plant import Plant
from client.tasks.metrics import Interval, Prediction
from common.config import FederationConfig, PlantConfig, PlantSection
from common.tasks import KINDS
from simulation.collect import collect
from simulation.report import write_report
from simulation.run import Plan, run

VARIANTS = ("head_only", "local", "federated", "pooled", "deployed")


def federate(
    config: FederationConfig, *, data: Path, out: Path, plants: tuple[str, ...] = ()
) -> dict[str, dict[str, Prediction]]:
    """Run a federation, and return the test predictions by plant and variant."""
    plan = Plan(config=config, base=Path(), data=data, out=out, plants=plants, resume=True)
    runs = run(plan, watch=lambda *_: None)
    write_report(collect(plan, runs), out / "report.html")
    return {
        name: {variant: judged.predictions[variant] for variant in VARIANTS}
        for name, judged in runs[0].judged.items()
    }


def train_alone(
    config: FederationConfig, *, data: Path, out: Path, plants: tuple[str, ...]
) -> dict[str, Prediction]:
    """Let plants train alone, without rounds, and return the test predictions by plant."""
    plan = Plan(
        config=config,
        base=Path(),
        data=data,
        out=out,
        plants=plants,
        resume=True,
        alone=("local",),
        pooled=False,
        together=False,
    )
    judged = run(plan, watch=lambda *_: None)[0].judged
    return {name: one.predictions["local"] for name, one in judged.items()}


def plant_folder(out: Path, name: str, config: FederationConfig) -> Path:
    """Return a folder of a plant that is in no federation, to read its data as one would."""
    folder = out / "alone" / name
    section = config.plants.get(name, PlantSection())
    own = {KINDS[config.task].section: getattr(section, KINDS[config.task].section)}
    settings = PlantConfig(
        name=name,
        data=str((out / "data" / name).resolve()),
        classes=section.classes,
        labels_per_class=config.labels_per_class,
        seed=config.seed,
        device="cpu",
        **own,
    )
    Plant.create(folder, settings)
    return folder


def kept(prediction: Prediction) -> dict[str, Any]:
    """Return what a cell keeps of a prediction, for JSON: the class that was said."""
    return {
        "truth": prediction.truth.tolist(),
        "said": prediction.predicted.argmax(axis=1).tolist(),
        "classes": prediction.predicted.shape[1],
        "names": list(prediction.names),
    }


def restored(kept: Mapping[str, Any]) -> Prediction:
    """Return a prediction from what a cell kept of it."""
    return Prediction(
        truth=np.array(kept["truth"]),
        predicted=np.eye(kept["classes"])[kept["said"]],
        names=tuple(kept.get("names", ())),
    )


def shown(span: Interval, form: str = ".3f", *, factor: float = 1.0) -> str:
    """Return an interval as text: value (low to high)."""
    value, low, high = (format(factor * one, form) for one in figure(span))
    return f"{value} ({low} to {high})"


def figure(span: Interval) -> list[float]:
    """Return value, low and high, for JSON."""
    return [span.value, span.low, span.high]


def table(
    plants: Mapping[str, Mapping[str, Mapping[str, Any]]],
    *,
    score: str,
    factor: float = 1.0,
    digits: int = 2,
) -> str:
    """Return a row a variant and a column a plant, with 95 % intervals, and the mean."""
    names = list(plants)
    rows = [["", *names, "mean"], ["---"] * (len(names) + 2)]
    for variant in next(iter(plants.values())):
        spans = [plants[name][variant][score] for name in names]
        cells = [
            f"{factor * value:.{digits}f} ({factor * low:.{digits}f} to {factor * high:.{digits}f})"
            for value, low, high in spans
        ]
        mean = factor * sum(span[0] for span in spans) / len(spans)
        rows.append([variant.replace("_", " "), *cells, f"{mean:.{digits}f}"])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
