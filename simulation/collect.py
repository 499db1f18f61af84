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

from client.desk.spending import Spending
from client.plant import Plant
from client.tasks.metrics import (
    Prediction,
    interval,
    mean_interval,
    paired_interval,
    paired_mean_interval,
)
from common.tasks import measure_of
from common.version import program_version
from server.state.store import history
from simulation.results import VARIANTS, Results
from simulation.run import Judged, Plan, SeedRun
from simulation.scene import surest_mistakes

PICTURE = 112
#: Letters of a mistaken text that are shown.
LONGEST = 200


def collect(plan: Plan, runs: Sequence[SeedRun]) -> Results:
    """Put the seeds of a plan together."""
    config = runs[0].prepared.job.config
    plants = list(runs[0].judged)
    rows = {name: [run.judged[name] for run in runs] for name in plants}
    variants = [
        v for v in VARIANTS if all(v in j.predictions for row in rows.values() for j in row)
    ]
    measure = measure_of(config)
    predictions = {
        variant: [[judged.predictions[variant] for judged in rows[name]] for name in plants]
        for variant in variants
    }
    return Results.model_validate(
        {
            "transferline": program_version(),
            "name": config.name,
            "task": config.task,
            "metric": measure.name,
            "word": measure.word,
            "lower": measure.lower,
            "share": measure.share,
            "engine": plan.engine,
            "method": config.method,
            "seeds": [run.seed for run in runs],
            "config": config.model_dump(mode="json"),
            "mean": {
                v: asdict(mean_interval(predictions[v], metric=measure.name)) for v in variants
            },
            "gain": asdict(
                paired_mean_interval(
                    predictions["deployed"], predictions["local"], metric=measure.name
                )
            ),
            "plants": {
                name: _plant(name, runs, rows[name], metric=measure.name, variants=variants)
                for name in plants
            },
            "rounds": [entry for run in runs for entry in history(run.prepared.home)],
            "seconds": _seconds(runs),
        }
    )


def answers(runs: Sequence[SeedRun], variant: str) -> dict[str, Any]:
    """Return by plant what one variant answers where classes are learned; else nothing."""
    return {
        name: {
            "classes": described.classes,
            "confusion": _confusion([run.judged[name].scores[variant] for run in runs]),
            "mistakes": _mistakes(
                runs[0].judged[name].predictions[variant],
                described.classes,
                _data_folder(runs[0], name),
                runs[0].judged[name].views,
            ),
        }
        for name, described in runs[0].prepared.plants.items()
        if described.classes
    }


def _plant(
    name: str,
    runs: Sequence[SeedRun],
    judged: Sequence[Judged],
    *,
    metric: str,
    variants: Sequence[str],
) -> dict[str, Any]:
    described = runs[0].prepared.plants[name]
    folder = _data_folder(runs[0], name)
    by_variant = {v: [j.predictions[v] for j in judged] for v in variants}
    sources = Counter(j.source for j in judged)
    deployed = {
        **asdict(interval(by_variant["deployed"], metric=metric)),
        "source": sources.most_common(1)[0][0],
        "sources": dict(sources),
        "why": judged[0].why,
    }
    measured = {v: [j.scores[v] for j in judged] for v in variants}
    return {
        "classes": described.classes,
        "numbers": described.numbers,
        "good": described.good,
        "counts": described.counts,
        "notes": described.notes,
        "privacy": _privacy(name, runs),
        "skipped": [{"file": file, "why": why} for file, why in described.skipped],
        **{v: asdict(interval(by_variant[v], metric=metric)) for v in variants},
        "deployed": deployed,
        "gain": asdict(paired_interval(by_variant["deployed"], by_variant["local"], metric=metric)),
        "metrics": {v: _mean_metrics(measured[v]) for v in variants},
        **(
            _of_classes(measured, by_variant, described.classes, folder, judged[0].views)
            if described.classes
            else {}
        ),
        "pictures": [asdict(one) for one in judged[0].pictures],
    }


def _of_classes(
    measured: Mapping[str, Sequence[Mapping[str, Any]]],
    predictions: Mapping[str, Sequence[Prediction]],
    classes: Sequence[str],
    folder: Path,
    views: Mapping[str, str],
) -> dict[str, Any]:
    """Return recall, confusion and mistakes."""
    return {
        "recall": {
            v: {name: _mean([m["recall"][name] for m in many]) for name in classes}
            for v, many in measured.items()
        },
        "confusion": {v: _confusion(many) for v, many in measured.items()},
        "mistakes": {"deployed": _mistakes(predictions["deployed"][0], classes, folder, views)},
    }


def _confusion(measured: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Add up the seeds' confusion matrices."""
    total: list[list[int]] = np.sum([one["confusion"] for one in measured], axis=0).tolist()
    return total


def _privacy(plant: str, runs: Sequence[SeedRun]) -> dict[str, Any] | None:
    """Return what the rounds cost a plant, of the seed that cost most."""
    settings = runs[0].prepared.job.config.privacy
    spent = [
        one
        for run in runs
        for one in Spending(run.prepared.folder(plant)).summary(delta=settings.delta)
        if one.unit == settings.unit
    ]
    return max(spent, key=lambda one: one.epsilon.value).facts() if spent else None


def _mean_metrics(measured: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Return the mean over seeds of every score that is one number."""
    flat = [key for key, value in measured[0].items() if not isinstance(value, dict | list)]
    return {key: _mean([one[key] for one in measured]) for key in flat}


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of what is known; None if nothing is."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _mistakes(
    prediction: Prediction, classes: Sequence[str], folder: Path, views: Mapping[str, str]
) -> list[dict[str, object]]:
    """Return the wrong answers that the model was surest of, with their pictures."""
    return [
        {
            "file": name,
            "text": prediction.texts[i][:LONGEST] if prediction.texts else "",
            "truth": classes[prediction.truth[i]],
            "predicted": classes[prediction.predicted[i].argmax()],
            "confidence": float(prediction.predicted[i].max()),
            "picture": "" if prediction.texts else views.get(name) or _picture(folder / name),
        }
        for i in surest_mistakes(prediction)
        for name in (prediction.names[i],)
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
