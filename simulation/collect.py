"""From test predictions to results: intervals, metrics, confusion, the most confident mistakes."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from client.plant import Plant
from client.tasks.metrics import (
    Prediction,
    interval,
    mean_interval,
    paired_interval,
    paired_mean_interval,
    scores,
)
from common.config import FederationConfig
from server.releases import program_version
from server.state.store import history
from simulation.results import VARIANTS, Results
from simulation.run import Judged, Plan, SeedRun

MISTAKES = 6
PICTURE = 112


def collect(plan: Plan, runs: Sequence[SeedRun]) -> Results:
    """Put the seeds of a plan together."""
    config = runs[0].prepared.job.config
    plants = list(runs[0].judged)
    rows = {name: [run.judged[name] for run in runs] for name in plants}
    variants = [
        v for v in VARIANTS if all(v in j.predictions for row in rows.values() for j in row)
    ]
    predictions = {
        variant: [[judged.predictions[variant] for judged in rows[name]] for name in plants]
        for variant in variants
    }
    return Results.model_validate(
        {
            "transferline": program_version(),
            "name": config.name,
            "engine": plan.engine,
            "method": config.method,
            "seeds": [run.seed for run in runs],
            "config": config.model_dump(mode="json"),
            "mean": {v: asdict(mean_interval(predictions[v])) for v in variants},
            "gain": asdict(paired_mean_interval(predictions["deployed"], predictions["local"])),
            "plants": {
                name: _plant(name, runs, rows[name], config=config, variants=variants)
                for name in plants
            },
            "rounds": [entry for run in runs for entry in history(run.prepared.home)],
            "seconds": _seconds(runs),
        }
    )


def _plant(
    name: str,
    runs: Sequence[SeedRun],
    judged: Sequence[Judged],
    *,
    config: FederationConfig,
    variants: Sequence[str],
) -> dict[str, Any]:
    described = runs[0].prepared.plants[name]
    folder = _data_folder(runs[0], name)
    by_variant = {v: [j.predictions[v] for j in judged] for v in variants}
    sources = Counter(j.source for j in judged)
    deployed = {
        **asdict(interval(by_variant["deployed"])),
        "source": sources.most_common(1)[0][0],
        "sources": dict(sources),
        "why": judged[0].why,
    }
    measured = {
        v: [
            scores(
                p.probabilities,
                p.truth,
                classes=described.classes,
                good=described.good,
                false_reject_budget=config.false_reject_budget,
            )
            for p in by_variant[v]
        ]
        for v in variants
    }
    return {
        "classes": described.classes,
        "good": described.good,
        "counts": described.counts,
        "notes": described.notes,
        "skipped": [{"file": file, "why": why} for file, why in described.skipped],
        **{v: asdict(interval(by_variant[v])) for v in variants},
        "deployed": deployed,
        "gain": asdict(paired_interval(by_variant["deployed"], by_variant["local"])),
        "metrics": {v: _mean_metrics(measured[v]) for v in variants},
        "confusion": {
            v: np.sum([m["confusion"] for m in measured[v]], axis=0).tolist() for v in variants
        },
        "mistakes": {"deployed": _mistakes(by_variant["deployed"][0], described.classes, folder)},
    }


def _mean_metrics(measured: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean over seeds; None where a seed has none."""

    def mean(values: list[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else None

    flat = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "escape_rate")
    return {
        **{key: mean([m[key] for m in measured]) for key in flat},
        "recall": {
            name: mean([m["recall"][name] for m in measured]) for name in measured[0]["recall"]
        },
    }


def _mistakes(
    prediction: Prediction, classes: Sequence[str], folder: Path
) -> list[dict[str, object]]:
    """Return the wrong answers that the model was surest of, with their pictures."""
    said = prediction.probabilities.argmax(axis=1)
    sure = prediction.probabilities.max(axis=1)
    wrong = np.flatnonzero(said != prediction.truth)
    worst = wrong[np.argsort(-sure[wrong], kind="stable")][:MISTAKES]
    return [
        {
            "file": prediction.files[i],
            "truth": classes[prediction.truth[i]],
            "predicted": classes[said[i]],
            "confidence": float(sure[i]),
            "picture": _picture(folder / prediction.files[i]),
        }
        for i in worst.tolist()
    ]


def _picture(path: Path) -> str:
    """Return a small JPEG as a data URI; empty if the file is gone since the run."""
    try:
        with Image.open(path) as image:
            small = image.convert("RGB")
    except OSError:
        return ""
    small.thumbnail((PICTURE, PICTURE))
    data = io.BytesIO()
    small.save(data, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()


def _data_folder(run: SeedRun, plant: str) -> Path:
    folder = run.prepared.folder(plant)
    return folder / Plant.open(folder).settings.data


def _seconds(runs: Sequence[SeedRun]) -> dict[str, float]:
    """Sum over seeds, by phase."""
    total: Counter[str] = Counter()
    for run in runs:
        total.update(run.seconds)
    return {phase: round(seconds, 3) for phase, seconds in total.items()}
