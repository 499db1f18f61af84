"""Tables: concrete, power plant and steelworks, each cut into plants by a natural key.

- concrete (Yeh 1998), by age at the test: up to 14 days, 28 days, later. Learns the strength; rows
  of one mix stay on one side of the split.
- ccpp (Tufekci 2014), by season, that is by quarters of the ambient temperature, as the rows have
  no dates. Learns the electrical output.
- steel (Sathishkumar 2021), by load type. Learns the energy of a quarter of an hour; rows of one
  day stay on one side of the split, and CO2, which follows from the energy, is left out.

Of each plant 100 rows are labelled (20 a fifth of the target) and up to 300 are for the test.
References see the same rows: gradient-boosted trees and ridge of scikit-learn, alone and pooled.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from benchmarks.tasks import settings
from client.plant import open_plant
from client.tasks.data import PlantData
from client.tasks.metrics import Prediction, interval, mean_interval
from common.config import FederationConfig
from simulation.run import Plan, SeedRun
from simulation.run import run as simulate

Array = npt.NDArray[Any]

CONCRETE = ("cement", "slag", "fly_ash", "water", "superplasticizer", "coarse", "fine", "age")
RANGES: dict[str, dict[str, list[Any]]] = {
    "concrete": {
        "cement": [100, 550],
        "slag": [0, 360],
        "fly_ash": [0, 200],
        "water": [120, 250],
        "superplasticizer": [0, 33],
        "coarse": [800, 1150],
        "fine": [590, 1000],
        "age": [1, 3, 7, 14, 28, 56, 90, 180, 365],
    },
    "ccpp": {"AT": [0, 40], "V": [25, 82], "AP": [990, 1035], "RH": [25, 101]},
    "steel": {
        "Lagging_Current_Reactive_Power_kVarh": [0, 100],
        "Leading_Current_Reactive_Power_kVarh": [0, 28],
        "Lagging_Current_Power_Factor": [0, 100],
        "Leading_Current_Power_Factor": [0, 100],
        "NSM": [0, 86400],
        "WeekStatus": ["Weekday", "Weekend"],
    },
}
TARGETS = {"concrete": "strength", "ccpp": "EP", "steel": "Usage_kWh"}
REFERENCES = ("trees", "ridge", "trees pooled", "ridge pooled")
VARIANTS = ("local", "federated", "deployed", "pooled")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One federation.

    Attributes
    ----------
    sources : data sets whose plants take part.
    shared : whether plants share the columns (``table.shared``), or each has a stem of its own.
    settings : further keys of federation.toml.
    """

    title: str
    sources: tuple[str, ...]
    shared: bool
    settings: dict[str, Any] = field(default_factory=dict)


CASES = {
    "concrete": Case(title="concrete, columns shared", sources=("concrete",), shared=True),
    "concrete-stems": Case(title="concrete, own stems", sources=("concrete",), shared=False),
    "concrete-fedavg": Case(
        title="concrete, columns shared, `fedavg`",
        sources=("concrete",),
        shared=True,
        settings={"method": "fedavg"},
    ),
    "concrete-ft": Case(
        title="concrete, columns shared, `ft_transformer`",
        sources=("concrete",),
        shared=True,
        settings={"backbone": "ft_transformer", "table": {"width": 64, "blocks": 2}},
    ),
    "ccpp": Case(title="power plant, columns shared", sources=("ccpp",), shared=True),
    "steel": Case(title="steelworks, columns shared", sources=("steel",), shared=True),
    "mixed": Case(
        title="all ten plants, different columns and targets",
        sources=("concrete", "ccpp", "steel"),
        shared=False,
    ),
}


def cells(*, quick: bool) -> list[str]:
    """Name the cases, and proposed settings, which rest on the first one."""
    return [*CASES, "settings"]


def run(cell: str, *, data: Path, out: Path, quick: bool) -> Mapping[str, Any]:
    """Run one federation and the references on the same rows."""
    if cell == "settings":
        return settings.run(out.parent / "concrete" / "run", quick=quick)
    case = CASES[cell]
    folder = out / "data"
    own: dict[str, Any] = {}
    for source in case.sources:
        for plant in write_plants(source, data=data, out=folder):
            own[plant] = {"table": _own(source)}
    plan = Plan(
        config=config(case, plants=own, quick=quick),
        base=out,
        data=folder,
        out=out / "run",
        seeds=1 if quick else 2,
        alone=("local",),
        pooled=len(case.sources) == 1,
        resume=True,
    )
    found = simulate(plan, watch=lambda *_: None)
    plants = list(found[0].judged)
    told = {name: _variants(found, name) for name in plants}
    for name, references in _references(found, pooled=plan.pooled).items():
        told[name] |= references
    kinds = [kind for kind in (*VARIANTS, *REFERENCES) if all(kind in told[p] for p in plants)]
    return {
        "title": case.title,
        "plants": {
            name: {kind: asdict(interval(told[name][kind], metric="r2")) for kind in kinds}
            for name in plants
        },
        "mean": {
            kind: asdict(mean_interval([told[name][kind] for name in plants], metric="r2"))
            for kind in kinds
        },
        "adopted": {name: [run.judged[name].source for run in found] for name in plants},
        "counts": {name: dict(found[0].prepared.plants[name].counts) for name in plants},
        "seeds": len(found),
    }


def config(case: Case, *, plants: Mapping[str, Any], quick: bool) -> FederationConfig:
    """Return the federation's settings."""
    table: dict[str, Any] = dict(case.settings.get("table", {}))
    if case.shared:
        table["shared"] = RANGES[case.sources[0]]
    others = {key: value for key, value in case.settings.items() if key != "table"}
    return FederationConfig.model_validate(
        {
            "name": case.title.replace("`", ""),
            "task": "tabular",
            "rounds": 2 if quick else 10,
            "local_epochs": 8,
            "labels_per_class": 20,
            "test_per_class": 60,
            "table": table,
            "training": {"batch_size": 16, "epochs": 10 if quick else 60},
            "plants": plants,
            **others,
        }
    )


def tables(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return R² of every plant and case as Markdown; the best of a row is bold."""
    parts = [_table(cell) for name, cell in found.items() if name != "settings"]
    if "settings" in found:
        told = f"### Proposed settings on held-out concrete, {found['settings']['seeds']} seeds"
        parts += [told, settings.table(found["settings"]["plants"])]
    return "\n\n".join(parts)


def _table(cell: Mapping[str, Any]) -> str:
    kinds = list(cell["mean"])
    lines = [
        f"### {cell['title']}",
        "",
        f"{cell['seeds']} seed{'s' if cell['seeds'] > 1 else ''}; R² on test rows",
        "",
        f"| plant | {' | '.join(kinds)} | adopted |",
        f"|---|{'---|' * (len(kinds) + 1)}",
    ]
    for name, row in cell["plants"].items():
        adopted = sum(source == "federated" for source in cell["adopted"][name])
        lines.append(f"| {name} | {_row(row, kinds)} | {adopted} of {cell['seeds']} |")
    lines.append(f"| **mean** | {_row(cell['mean'], kinds, spans=True)} | |")
    return "\n".join(lines)


def _row(row: Mapping[str, Any], kinds: Sequence[str], *, spans: bool = False) -> str:
    best = max(kinds, key=lambda kind: row[kind]["value"])
    figures = []
    for kind in kinds:
        one = row[kind]
        figure = f"{one['value']:.3f}"
        figure = f"**{figure}**" if kind == best else figure
        figures.append(f"{figure} ({one['low']:.3f} to {one['high']:.3f})" if spans else figure)
    return " | ".join(figures)


# -- plants ----------------------------------------------------------------------------------------


def write_plants(source: str, *, data: Path, out: Path) -> list[str]:
    """Cut one data set into plants' folders; return their names."""
    file = {"concrete": "concrete_strength", "ccpp": "ccpp", "steel": "steel_industry_energy"}
    with gzip.open(data / "tabular" / f"{file[source]}.csv.gz", "rt", newline="") as opened:
        rows = list(csv.reader(opened))
    header, rows = rows[0], rows[1:]
    if source == "concrete":
        # One mix is tested at several ages: its rows are not independent.
        header = [*CONCRETE, "strength", "mix"]
        rows = [[*row, " ".join(row[: CONCRETE.index("age")])] for row in rows]
    if source == "steel":  # rows of one day are not independent
        header = [*header, "day"]
        rows = [[*row, row[0].split()[0]] for row in rows]
    keys = [_key(source, dict(zip(header, row, strict=True))) for row in rows]
    names = sorted(set(keys))
    for name in names:
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "rows.csv").open("w", newline="") as file_out:
            writer = csv.writer(file_out)
            writer.writerow(header)
            writer.writerows(row for row, key in zip(rows, keys, strict=True) if key == name)
    return names


def _key(source: str, row: Mapping[str, str]) -> str:
    if source == "concrete":
        age = float(row["age"])
        return f"concrete-{'early' if age <= 14 else '28d' if age <= 28 else 'late'}"
    if source == "steel":
        return f"steel-{row['Load_Type'].split('_')[0].lower()}"
    # Quarters of the ambient temperature: 13.5, 20.3 and 25.7 degrees.
    heat = float(row["AT"])
    season = "winter" if heat < 13.51 else "spring" if heat < 20.345 else "autumn"
    return f"ccpp-{season if heat < 25.72 else 'summer'}"


def _own(source: str) -> dict[str, Any]:
    own: dict[str, Any] = {"target": TARGETS[source]}
    if source == "concrete":
        own |= {"group": "mix"}
    if source == "steel":
        own |= {"group": "day", "drop": ["date", "CO2(tCO2)", "Load_Type"]}
    return own


# -- references ------------------------------------------------------------------------------------


def _variants(found: Sequence[SeedRun], name: str) -> dict[str, list[Prediction]]:
    known = [v for v in VARIANTS if v in found[0].judged[name].predictions]
    return {v: [run.judged[name].predictions[v] for run in found] for v in known}


def _references(
    found: Sequence[SeedRun], *, pooled: bool
) -> dict[str, dict[str, list[Prediction]]]:
    """Fit trees and ridge to the labelled rows of each plant, and of all, seed by seed."""
    told: dict[str, dict[str, list[Prediction]]] = {}
    for one in found:
        config = one.prepared.job.config
        opened = {name: open_plant(one.prepared.folder(name)) for name in one.judged}
        data = {name: plant.data(config) for name, plant in opened.items()}
        for name, own in data.items():
            kept = told.setdefault(name, {kind: [] for kind in REFERENCES[: 4 if pooled else 2]})
            shared = len(config.table.shared)
            places = _categories(own, shared, config)
            x, y = _labelled(own)
            for kind in ("trees", "ridge"):
                model = fit(kind, x, y, categories=places)
                kept[kind].append(_predicted(model, own))
        if pooled:
            task = next(iter(opened.values())).task(config)
            every = task.pool(list(data.values()))
            x, y = _labelled(every)
            places = _categories(every, len(config.table.shared), config)
            for kind in ("trees", "ridge"):
                model = fit(kind, x, y, categories=places)
                start = 0
                for name, own in data.items():
                    rows = every.inputs[start : start + len(own.targets)]
                    told[name][f"{kind} pooled"].append(_predicted(model, own, rows=rows))
                    start += len(own.targets)
    return told


def fit(kind: str, x: Array, y: Array, *, categories: Sequence[int]) -> Any:
    """Fit a reference; of trees the size of leaves and the step by three folds."""
    if kind == "trees":
        trees = HistGradientBoostingRegressor(
            categorical_features=list(categories) or None, max_iter=200, random_state=0
        )
        grid = {"min_samples_leaf": [5, 20], "learning_rate": [0.05, 0.1]}
        return GridSearchCV(trees, grid, cv=3).fit(x, y)
    numbers = [place for place in range(x.shape[1]) if place not in categories]
    prepared = make_column_transformer(
        (make_pipeline(SimpleImputer(), StandardScaler()), numbers),
        (
            make_pipeline(
                SimpleImputer(strategy="constant", fill_value=-1),
                OneHotEncoder(handle_unknown="ignore"),
            ),
            list(categories),
        ),
    )
    return make_pipeline(prepared, RidgeCV(np.logspace(-3, 3, 13))).fit(x, y)


def _labelled(data: PlantData) -> tuple[Array, Array]:
    rows = np.concatenate([data.train.numpy(), data.validation.numpy()])
    return data.inputs.numpy()[rows], data.targets.numpy()[rows, 0]


def _categories(data: PlantData, shared: int, config: FederationConfig) -> list[int]:
    """Return the places of categories among the inputs."""
    front = [
        place for place, told in enumerate(config.table.shared.values()) if isinstance(told[0], str)
    ]
    first = shared + len(data.columns.numbers)
    return front + list(range(first, first + len(data.columns.categories)))


def _predicted(model: Any, data: PlantData, *, rows: Any = None) -> Prediction:
    inputs = (data.inputs if rows is None else rows).numpy()[data.test.numpy()]
    return Prediction(
        truth=data.targets.numpy()[data.test.numpy()],
        predicted=model.predict(inputs)[:, None],
        names=tuple(data.names[place] for place in data.test.tolist()),
    )
