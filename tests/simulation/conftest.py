"""Made-up but realistic results, to draw and to read back."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from simulation.results import (
    VARIANTS,
    Comparison,
    Interval,
    Results,
)

PRODUCTS: dict[str, tuple[str, ...]] = {
    "neu_steel": ("crazing", "inclusion", "patches", "pitted", "rolled_in_scale", "scratches"),
    "magnetic_tile": ("blowhole", "break", "crack", "fray", "free", "uneven"),
    "deeppcb": ("mousebite", "open", "pin_hole", "short", "spur", "spurious_copper"),
    "wood_board": (
        "blue_stain",
        "crack",
        "dead_knot",
        "knot_missing",
        "knot_with_crack",
        "live_knot",
        "marrow",
        "quartzity",
        "resin",
        "sound",
        "overgrown_knot_with_resin",
        "dry_knot",
        "wane",
    ),
    "elpv_mono": ("defective", "functional"),
    "elpv_poly": ("defective", "functional"),
}
GAINS = (0.031, 0.012, 0.024, 0.0, -0.004, 0.018)


def around(value: float, half: float) -> dict[str, float]:
    return {"value": value, "low": max(0.0, value - half), "high": min(1.0, value + half * 0.9)}


def difference(value: float, half: float) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half}


def picture(rng: np.random.Generator) -> str:
    pixels = rng.normal(120, 60, (48, 48)).clip(0, 255).astype(np.uint8)
    image = Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(2)).resize((96, 96))
    file = io.BytesIO()
    image.save(file, "JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def plant_results(index: int, classes: tuple[str, ...], *, seeds: int, pooled: bool) -> Any:
    rng = np.random.default_rng(index)
    size, gain = len(classes), GAINS[index % len(GAINS)]
    local = 0.86 - 0.035 * (index % 6)
    scores = {
        "head_only": local - 0.09,
        "local": local,
        "federated": local + (gain or -0.021),
        "pooled": local + 0.02,
        "deployed": local + gain,
    }
    confusion, metrics, recalls = {}, {}, {}
    for name, score in scores.items():
        wrong = rng.dirichlet(np.full(size, 0.4), size=size)
        matrix = (150 * seeds * ((1 - score) * wrong)).astype(int)
        matrix[np.arange(size), np.arange(size)] += int(150 * seeds * score)
        confusion[name] = matrix.tolist()
        recall = matrix.diagonal() / matrix.sum(axis=1)
        recalls[name] = dict(zip(classes, recall.tolist(), strict=True))
        metrics[name] = {
            "accuracy": score,
            "balanced_accuracy": score,
            "macro_f1": score - 0.01,
            "auroc": score + 0.05 if size == 2 else None,
            "escape_rate": 0.4 - 0.3 * score if size == 2 else None,
        }
    mistakes = [
        {
            "file": f"{classes[0]}/part_{number:04d}.jpg",
            "truth": classes[0],
            "predicted": classes[-1],
            "confidence": 0.99 - 0.02 * number,
            "picture": picture(rng) if number < 7 else "",
        }
        for number in range(8)
    ]
    kept = gain == 0
    return {
        "classes": classes,
        "good": "functional" if size == 2 else "",
        "counts": {"train": 15 * size, "validation": 5 * size, "test": 150 * size},
        "notes": [f"class {classes[0]} leaves 7 test images"] if index == 1 else [],
        "skipped": [{"file": f"{classes[0]}/torn.jpg", "why": "truncated"}] * (12 * (index == 3)),
        **{name: around(scores[name], 0.024) for name in VARIANTS[:3]},
        "pooled": around(scores["pooled"], 0.02) if pooled else None,
        "deployed": {
            **around(scores["deployed"], 0.022),
            "source": "local" if kept else "federated",
            "sources": {"local": seeds} if kept else {"federated": seeds - 1, "local": 1},
            "why": "The release was worse on validation by 1.9 points, more than the margin."
            if kept
            else "At least as good as local on validation in all but one seed.",
        },
        "gain": difference(gain, 0.0 if kept else 0.013),
        "metrics": metrics,
        "recall": recalls,
        "confusion": confusion,
        "mistakes": {"deployed": mistakes if index else []},
    }


def round_results(number: int, seed: int, plants: dict[str, Any]) -> dict[str, Any]:
    replies = {}
    for name, plant in plants.items():
        reached = plant["local"]["value"] - 0.25 * np.exp(-number / 3) + 0.004 * seed
        replies[name] = {
            "outcome": "done",
            "weight": plant["counts"]["train"],
            "scores": {
                "local": {"balanced_accuracy": plant["local"]["value"], "loss": 0.8},
                "incoming": {"balanced_accuracy": reached - 0.03, "loss": 0.9},
                "trained": {"balanced_accuracy": reached, "loss": 0.7},
            },
            "seconds": {"evaluate": 1.0, "train": 9.0},
            "bytes_up": 8_900_000,
            "bytes_down": 8_900_000,
        }
    if number == 3 and seed == 0:
        last = next(reversed(replies))
        replies[last] = {"outcome": "failed", "reason": "loss is not finite"}
    skipped = {"outcome": "skipped", "reason": "1 of 2 plants replied", "seconds": 3600.0}
    done = {"outcome": "committed", "release": f"{number:064x}", "seconds": 12.5}
    return {
        "seed": seed,
        "round": number,
        "replies": replies,
        **(skipped if number == 7 and seed == 1 else done),
    }


def build(
    *,
    products: dict[str, tuple[str, ...]] = PRODUCTS,
    seeds: int = 5,
    rounds: int = 10,
    pooled: bool = True,
    method: str = "fedper",
) -> Results:
    plants = {
        name: plant_results(index, classes, seeds=seeds, pooled=pooled)
        for index, (name, classes) in enumerate(products.items())
    }

    def mean(name: str) -> dict[str, float] | None:
        rows = [plant[name] for plant in plants.values() if plant[name]]
        keys = ("value", "low", "high")
        return {key: float(np.mean([row[key] for row in rows])) for key in keys} if rows else None

    return Results.model_validate(
        {
            "transferline": "0.1.0",
            "name": "six real plants",
            "engine": "local",
            "method": method,
            "seeds": list(range(seeds)),
            "config": {"backbone": "mobilenet_v2", "rounds": rounds, "image_size": 96},
            "mean": {name: mean(name) for name in VARIANTS},
            "gain": mean("gain"),
            "plants": plants,
            "rounds": [
                round_results(number, seed, plants)
                for seed in range(seeds)
                for number in range(1, rounds + 1)
            ],
            "seconds": {
                "baselines": 812.0,
                "rounds": 1430.5,
                "adoption": 96.0,
                "pooled": 311.0,
                "report": 4.2,
            },
        }
    )


def answers(run: Results, variant: str) -> dict[str, Any]:
    return {
        name: {
            "classes": plant.classes,
            "confusion": plant.confusion[variant],
            "mistakes": plant.mistakes["deployed"],
        }
        for name, plant in run.plants.items()
    }


def build_comparison(runs: dict[str, Results]) -> Comparison:
    first = next(iter(runs.values()))
    methods: dict[str, Any] = {
        "local": {
            "plants": {name: plant.local for name, plant in first.plants.items()},
            "mean": first.mean.local,
            "answers": answers(first, "local"),
            "seconds": {"training alone": 655.0},
        }
    }
    for method, run in runs.items():
        methods[method] = {
            "plants": {name: plant.federated for name, plant in run.plants.items()},
            "mean": run.mean.federated,
            "answers": answers(run, "federated"),
            "seconds": run.seconds,
            "deployed": {
                "plants": {
                    name: Interval(**plant.deployed.model_dump(include={"value", "low", "high"}))
                    for name, plant in run.plants.items()
                },
                "mean": run.mean.deployed,
            },
        }
    return Comparison(
        name=first.name,
        seeds=first.seeds,
        methods=methods,
        runs={method: f"runs/{method}/results.json" for method in runs},
    )


@pytest.fixture(scope="session")
def made_up_results() -> Callable[..., Results]:
    """Return the builder: ``made_up_results(products=, seeds=, rounds=, pooled=, method=)``."""
    return build


@pytest.fixture(scope="session")
def made_up_comparison() -> Callable[[dict[str, Results]], Comparison]:
    return build_comparison
