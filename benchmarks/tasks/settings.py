"""Whether proposed settings hold on concrete mixes that were measured and never seen.

A proposal cannot be cast here, so the held-out mixes of a plant take its place: the model ranks
them, says which way to go from each to a supported neighbour of the same age (waiting is no
recipe), and picks five to try. What was measured then says how good that was, beside going or
picking at random.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from client.optimise.ensemble import rank_correlation, train
from client.optimise.support import Support
from client.plant import open_plant
from common.config import FederationConfig

PICKED = 5
DRAWS = 2000


def judge(folder: Path, config: FederationConfig, *, members: int = 8) -> dict[str, float]:
    """Judge a plant's ensemble on its held-out rows; strengths in MPa."""
    plant = open_plant(folder)
    data = plant.data(config)
    ensemble = train(plant, config, members=members)
    support = Support.of(data, config)
    rows = data.inputs.numpy()[data.test.numpy()]
    truth = data.targets.numpy()[data.test.numpy(), 0].astype(float)
    mean, deviation = ensemble.predict(rows)
    deviation *= [max(1.0, support.distance(row) / support.middle) for row in rows]
    rng = np.random.default_rng(0)
    picked = np.argsort(-(mean - deviation))[:PICKED]
    drawn = [truth[rng.choice(len(truth), PICKED, replace=False)].max() for _ in range(DRAWS)]
    gained, blind = [], []
    ages = rows[:, list(config.table.shared).index("age")]
    for start, row in enumerate(rows):
        apart = np.sqrt(np.square((rows - row) / support.spread.clip(1e-9)).mean(axis=1))
        near = np.flatnonzero((apart <= support.reach) & (apart > 0) & (ages == ages[start]))
        if len(near) < 2:
            continue
        best = near[np.argmax((mean - deviation)[near])]
        if mean[best] > mean[start]:
            gained.append(truth[best] - truth[start])
            blind.append(float(np.mean(truth[near] - truth[start])))
    assert ensemble.factor is not None, ensemble.doubt
    inside = np.abs(truth - mean) <= ensemble.factor * deviation
    return {
        "held_out": float(len(truth)),
        "correlation": rank_correlation(mean, truth),
        "inside": float(inside.mean()),
        "directions": float(len(gained)),
        "better": float(np.mean(np.array(gained) > 0)),
        "gain": float(np.mean(gained)),
        "blind": float(np.mean(blind)),
        "regret": float(truth.max() - truth[picked].max()),
        "random_regret": float(truth.max() - np.mean(drawn)),
    }


def table(found: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Return the figures as Markdown, mean over seeds."""
    lines = [
        "| plant | held-out mixes | rank correlation | inside 90 % interval | proposed directions "
        "that raised the strength | mean change, MPa | a random neighbour, MPa | regret of 5 "
        "picks, MPa | of 5 random picks, MPa |",
        f"|{'---|' * 9}",
    ]
    for name, seeds in found.items():
        one = {key: float(np.mean([seed[key] for seed in seeds])) for key in seeds[0]}
        lines.append(
            f"| {name} | {one['held_out']:.0f} | {one['correlation']:.2f} | {one['inside']:.0%} | "
            f"{one['better']:.0%} of {one['directions']:.0f} | {one['gain']:+.1f} | "
            f"{one['blind']:+.1f} | {one['regret']:.1f} | {one['random_regret']:.1f} |"
        )
    return "\n".join(lines)


def run(home: Path, *, quick: bool) -> dict[str, Any]:
    """Judge every plant of a run folder and its further seeds."""
    from server.engine.job import Job  # noqa: PLC0415  for this cell alone

    found: dict[str, list[dict[str, float]]] = {}
    for folder in [home, *sorted((home / "seeds").glob("*"))]:
        config = Job.read(folder).config
        for plant in sorted((folder / "plants").iterdir()):
            members = 2 if quick else 8
            found.setdefault(plant.name, []).append(judge(plant, config, members=members))
    return {"plants": found, "seeds": len(next(iter(found.values())))}
