"""Remaining useful life on C-MAPSS, and forecasts of a steel works' energy.

Plants of the first are FD001 to FD004: engines under one or six operating conditions, with one or
two kinds of fault; NASA's own test engines are the test, each judged at its last cycle. Training
engines are dealt out whole: a fifth of them validates, and chooses the epoch.

Plants of the second are the four quarters of a year of one works, 15 minutes a row: the season is
what differs. Each quarter's first 55 % train, the next 20 % validate, the last 25 % test.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.tasks.federations import federate, figure, plant_folder, table, train_alone
from client.plant import open_plant
from client.tasks import PlantData
from client.tasks.metrics import Prediction, interval
from client.tasks.series.life import nasa_score
from common.config import FederationConfig
from common.tasks import MAE, RMSE

Array = npt.NDArray[Any]

SENSORS = (
    "s2", "s3", "s4", "s7", "s8", "s9", "s11", "s12", "s13", "s14", "s15", "s17", "s20", "s21",
)  # fmt: skip
SETS = ("FD001", "FD002", "FD003", "FD004")
#: Li, Ding and Sun 2018: RMSE of each set, a network each.
PUBLISHED = {"FD001": 12.61, "FD002": 22.36, "FD003": 12.64, "FD004": 23.31}
#: The windows of each set there: the shortest test engine's cycles, nearly.
PUBLISHED_WINDOWS = {"FD001": 30, "FD002": 20, "FD003": 30, "FD004": 15}
CAP = 125.0
#: Sets under one condition, small enough to federate on every window.
WHOLE = ("FD001", "FD003")

ENERGY = "Usage_kWh"
QUARTERS = ("q1", "q2", "q3", "q4")
HOUR, DAY, WEEK = 4, 96, 672


def cells(*, quick: bool) -> list[str]:
    """Name the cells."""
    return ["life-gru", "life-dcnn", "life-linear", "life-whole", "life-published", "hour", "day"]


def run(cell: str, *, data: Path, out: Path, quick: bool) -> Mapping[str, Any]:
    """Measure one cell."""
    if cell.startswith("life"):
        write_engines(data / "series", out / "data")
        if cell == "life-linear":
            return linear(out)
        if cell == "life-whole":
            return lives(whole_settings(quick=quick), out, plants=WHOLE)
        if cell == "life-published":
            return published(out, quick=quick)
        return lives(life_settings(cell.removeprefix("life-"), quick=quick), out)
    write_energy(data / "tabular" / "steel_industry_energy.csv.gz", out / "data")
    return forecasts(HOUR if cell == "hour" else DAY, out, quick=quick)


def life_settings(backbone: str, *, quick: bool) -> dict[str, Any]:
    """Return federation.toml of the engines."""
    return {
        "name": "remaining useful life",
        "task": "series-regression",
        "backbone": backbone,
        "rounds": 2 if quick else 10,
        "local_epochs": 1 if quick else 2,
        "device": "cpu",
        "series": {
            "channels": SENSORS,
            # The longest history that most test engines have; shorter ones repeat their start.
            "window": 70 if backbone == "gru" else 30,
            "stride": 20 if quick else 5,
            "settings": ["set1", "set2", "set3"],
            "unit": "unit",
            "target": "rul",
            "cap": CAP,
            "judge_end": True,
            "short": "repeat",
        },
        "training": {
            "batch_size": 128,
            "learning_rate": 2e-3,
            "round_learning_rate": 1e-3,
            "head_learning_rate": 2e-3,
            "weight_decay": 1e-2,
            "head_epochs": 50,
            "batch_norm": "train",
            "epochs": 2 if quick else 14,
            "patience": 14,
        },
        "plants": {name: {"series": {"conditions": 6}} for name in ("FD002", "FD004")},
    }


def whole_settings(*, quick: bool) -> dict[str, Any]:
    """Return the settings of the published network with every window."""
    settings = life_settings("dcnn", quick=quick)
    if not quick:
        settings |= {"rounds": 8, "local_epochs": 3}
        settings["series"]["stride"] = 1
        settings["training"] |= {"epochs": 24, "patience": 24}
    return settings | {"plants": {}}


def write_engines(source: Path, root: Path) -> None:
    """Write each set as the files that a plant would have: train.npz and test.npz."""
    for name in SETS:
        folder = root / name
        if (folder / "test.npz").exists():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        with np.load(source / f"cmapss_{name}.npz") as given:
            scale = 10.0 ** given["decimals"][:, None]
            for part in ("train", "test"):
                unit = given[f"{part}_unit"].astype(np.int64)
                cycle = given[f"{part}_cycle"].astype(np.int64)
                last = np.bincount(unit, weights=None, minlength=int(unit.max()) + 1)
                beyond = np.zeros(len(last), dtype=np.int64)
                if part == "test":
                    beyond[np.unique(unit)] = given["test_rul"]
                columns = dict(zip(given["features"].tolist(), given[part] / scale, strict=True))
                life = (last + beyond)[unit] - cycle
                np.savez(folder / f"{part}.npz", unit=unit, rul=life, **columns)


def lives(
    settings: Mapping[str, Any], out: Path, *, plants: tuple[str, ...] = SETS
) -> dict[str, Any]:
    """Federate sets of engines."""
    config = FederationConfig.model_validate(settings)
    judged = federate(config, data=out / "data", out=out / "run", plants=plants)
    return {
        "plants": {
            name: {
                variant: _life(said, given=_given(out / "data" / name, said))
                for variant, said in of.items()
            }
            for name, of in judged.items()
        }
    }


def published(out: Path, *, quick: bool) -> dict[str, Any]:
    """Train the published network alone as published, which tells what its figures were against.

    Every window of the lengths published, and each channel normalised over a whole set, whatever
    the operating condition. Only a fifth of the engines is held out here, to choose the epoch.
    """
    found = {}
    for name, window in PUBLISHED_WINDOWS.items():
        settings = whole_settings(quick=quick) | {"min_plants": 1}
        settings["series"] |= {"window": window}
        config = FederationConfig.model_validate(settings)
        said = train_alone(config, data=out / "data", out=out / name, plants=(name,))[name]
        found[name] = {"local": _life(said, given=_given(out / "data" / name, said))}
    return {"plants": found}


def _given(folder: Path, said: Prediction) -> Array:
    """Return the test engines' lives as NASA gives them, beyond the cap too, shape (engines, 1)."""
    with np.load(folder / "test.npz") as given:
        ends = np.flatnonzero(np.append(np.diff(given["unit"]) != 0, True))
        lives = dict(zip(given["unit"][ends].tolist(), given["rul"][ends].tolist(), strict=True))
    units = [int(name.partition(", unit ")[2].partition(" @ ")[0]) for name in said.names]
    found = np.array([[lives[unit]] for unit in units], dtype=np.float64)
    np.testing.assert_allclose(found.clip(None, CAP), said.truth)
    return found


def _life(said: Prediction, *, given: Array) -> dict[str, Any]:
    """Score against lives that are capped, as they were learned, and as they are given."""
    whole = replace(said, truth=given)
    return {
        "given_rmse": figure(interval([whole], metric=RMSE.name)),
        "rmse": figure(interval([said], metric=RMSE.name)),
        "mae": figure(interval([said], metric=MAE.name)),
        "score": _score(said),
        "given_score": _score(whole),
    }


def _score(said: Prediction) -> list[float]:
    """Return the NASA score and its 95 % interval over engines drawn again."""
    rng = np.random.default_rng(0)
    count = len(said.truth)
    drawn = [
        nasa_score(said.predicted[rows], said.truth[rows])
        for rows in rng.integers(0, count, (1000, count))
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return [nasa_score(said.predicted, said.truth), float(low), float(high)]


def linear(out: Path) -> dict[str, Any]:
    """Ridge regression on each channel's mean, end and slope in a window; alone and pooled."""
    from sklearn.linear_model import RidgeCV  # noqa: PLC0415 - a reference, not needed to federate

    config = FederationConfig.model_validate(life_settings("gru", quick=False))
    plants = {name: _data(out, name, config) for name in SETS}
    features = {name: _moments(data.inputs.numpy()) for name, data in plants.items()}
    targets = {name: data.targets.numpy() for name, data in plants.items()}
    known = {n: np.concatenate([d.train, d.validation]) for n, d in plants.items()}
    every = RidgeCV(np.logspace(-2, 4, 13)).fit(
        np.concatenate([features[n][known[n]] for n in SETS]),
        np.concatenate([targets[n][known[n]] for n in SETS]),
    )
    found: dict[str, Any] = {}
    for name, data in plants.items():
        alone = RidgeCV(np.logspace(-2, 4, 13)).fit(
            features[name][known[name]], targets[name][known[name]]
        )
        test = data.test.numpy()
        found[name] = {}
        for variant, model in (("local", alone), ("pooled", every)):
            said = Prediction(
                truth=targets[name][test],
                predicted=model.predict(features[name][test]).reshape(-1, 1).clip(0, CAP),
                names=tuple(data.names[place] for place in test.tolist()),
            )
            found[name][variant] = _life(said, given=_given(out / "data" / name, said))
    return {"plants": found}


def _data(out: Path, name: str, config: FederationConfig) -> PlantData:
    return open_plant(plant_folder(out, name, config)).data(config)


def _moments(windows: Array) -> Array:
    """Return mean, end and slope of each channel, shape (windows, 3 × channels)."""
    time = np.linspace(-1, 1, windows.shape[2])
    slope = (windows * time).mean(axis=2)
    return np.concatenate([windows.mean(axis=2), windows[:, :, -8:].mean(axis=2), slope], axis=1)


def forecast_settings(horizon: int, *, quick: bool) -> dict[str, Any]:
    """Return federation.toml of the energy."""
    return {
        "name": f"energy, next {horizon} values",
        "task": "series-regression",
        "backbone": "gru",
        "rounds": 2 if quick else 8,
        "local_epochs": 1 if quick else 3,
        "device": "cpu",
        "series": {
            "channels": [ENERGY, "lagging", "leading", "sin", "cos", "monday", "weekend"],
            "window": WEEK if horizon == DAY else DAY,
            "stride": 16 if quick else 8 if horizon == DAY else 4,
            "target": ENERGY,
            "horizon": horizon,
        },
        "training": {
            "batch_size": 64,
            "learning_rate": 2e-3,
            "round_learning_rate": 1e-3,
            "head_learning_rate": 2e-3,
            "head_epochs": 50,
            "epochs": 2 if quick else 16,
            "patience": 8,
            "augment": 0.25,
        },
    }


def write_energy(source: Path, root: Path) -> None:
    """Cut the year into quarters, and say the time of day and the day as numbers."""
    with gzip.open(source, "rt", encoding="utf-8", newline="") as text:
        rows = list(csv.DictReader(text))
    for place, quarter in enumerate(QUARTERS):
        folder = root / quarter
        folder.mkdir(parents=True, exist_ok=True)
        mine = [row for row in rows if (int(row["date"][3:5]) - 1) // 3 == place]
        seconds = np.array([float(row["NSM"]) for row in mine])
        turn = 2 * np.pi * seconds / 86400
        day = np.array([row["Day_of_week"] for row in mine])
        np.savez(
            folder / "energy.npz",
            **{ENERGY: np.array([float(row[ENERGY]) for row in mine])},
            lagging=np.array([float(r["Lagging_Current_Reactive_Power_kVarh"]) for r in mine]),
            leading=np.array([float(r["Leading_Current_Reactive_Power_kVarh"]) for r in mine]),
            sin=np.sin(turn),
            cos=np.cos(turn),
            monday=(day == "Monday").astype(float),
            weekend=np.isin(day, ["Saturday", "Sunday"]).astype(float),
        )


def forecasts(horizon: int, out: Path, *, quick: bool) -> dict[str, Any]:
    """Federate the quarters, and set simple forecasts beside them."""
    config = FederationConfig.model_validate(forecast_settings(horizon, quick=quick))
    judged = federate(config, data=out / "data", out=out / "run")
    found: dict[str, Any] = {}
    for name, of in judged.items():
        some = of["deployed"]
        with np.load(out / "data" / name / "energy.npz") as given:
            energy = given[ENERGY]
        ends = np.array([int(n.rsplit(" ", 1)[1]) for n in some.names])
        ahead = ends[:, None] + np.arange(horizon)
        np.testing.assert_allclose(energy[ahead], some.truth, rtol=1e-5)
        simple = {
            "persistence": energy[ends - 1][:, None].repeat(horizon, axis=1),
            "same time yesterday": energy[ahead - DAY],
            "same time last week": energy[ahead - WEEK],
        }
        said = of | {
            word: Prediction(truth=some.truth, predicted=p, names=some.names, groups=some.groups)
            for word, p in simple.items()
        }
        found[name] = {
            word: {
                "rmse": figure(interval([one], metric=RMSE.name)),
                "mae": figure(interval([one], metric=MAE.name)),
            }
            for word, one in said.items()
        }
    return {"plants": found}


def tables(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the tables of what is there."""
    parts: list[str] = []
    for cell, word in (
        ("life-gru", "GRU"),
        ("life-dcnn", "DCNN of Li et al."),
        ("life-whole", "DCNN of Li et al., every window"),
    ):
        if cell in found:
            parts.append(f"### Remaining useful life, {word}\n")
            parts.append(_life_tables(found, cell))
    if "life-published" in found:
        plants = found["life-published"]["plants"]
        parts += [
            "### Remaining useful life, DCNN of Li et al. trained as published\n",
            "RMSE in cycles of each set's network alone against lives capped at 125:\n",
            table(plants, score="rmse") + _published(plants),
            "RMSE against the lives as NASA gives them:\n",
            table(plants, score="given_rmse") + _published(plants),
        ]
    for cell, word in (("hour", "next hour"), ("day", "next day")):
        if cell in found:
            parts.append(f"### Energy of the {word}: RMSE in kWh a quarter of an hour\n")
            parts.append(table(found[cell]["plants"], score="rmse"))
    return "\n".join(parts)


def _life_tables(found: Mapping[str, Mapping[str, Any]], cell: str) -> str:
    plants = dict(found[cell]["plants"])
    settings = (
        "8 rounds of 3 epochs, 24 alone and pooled, windows of 30 cycles. "
        if cell == "life-whole"
        else ""
    )
    if cell == "life-gru" and "life-linear" in found:  # the same windows
        linear = found["life-linear"]["plants"]
        for name in plants:
            plants[name] = plants[name] | {
                "linear, alone": linear[name]["local"],
                "linear, pooled": linear[name]["pooled"],
            }
    return "\n".join(
        [
            f"{settings}RMSE in cycles against lives capped at {CAP:g} cycles, as they were "
            "learned:\n",
            table(plants, score="rmse") + _published(plants),
            "RMSE against the lives as NASA gives them:\n",
            table(plants, score="given_rmse"),
            "MAE against capped lives:\n",
            table(plants, score="mae"),
            "NASA score (the sum over test engines) against capped lives:\n",
            table(plants, score="score", digits=0),
            "NASA score against the lives as given:\n",
            table(plants, score="given_score", digits=0),
        ]
    )


def _published(plants: Mapping[str, Any]) -> str:
    figures = [PUBLISHED[name] for name in plants]
    cells = ["published, Li et al. 2018", *(f"{f:.2f}" for f in [*figures, np.mean(figures)])]
    return f"| {' | '.join(cells)} |\n"
