"""Only good parts, on real plants: what a backbone that learned from good parts is worth.

Cells are (what, seed). ``federated`` has the source's features, the rounds, and in its first seed
the pooled bound; ``tuned`` is each plant's backbone trained at the plant alone; ``anomalib`` is
PatchCore by its well-kept implementation, on the same features, images and split, in an environment
of its own whose Python is named by ``ANOMALIB_PYTHON``::

    python -m venv ref && ref/bin/pip install anomalib torch torchvision
    ANOMALIB_PYTHON=ref/bin/python python benchmarks/real_tasks.py --task anomaly

Settings are small for two cores: 96 pixels, 150 good parts a plant, 100 test parts a class.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.tasks.federations import shown
from client.adoption import judge
from client.optimise.ensemble import rank_correlation
from client.plant import open_plant
from client.tasks.anomaly import AnomalyTask
from client.tasks.metrics import Prediction, mean_interval, paired_mean_interval
from common.backbone import build_for
from common.config import FederationConfig
from simulation.run import Plan, SeedRun
from simulation.run import run as simulate

Array = npt.NDArray[Any]

ELPV = {"classes": ["functional", "defective"], "good": "functional"}
PLANTS: dict[str, dict[str, Any]] = {
    "deeppcb": {"good": "good"},
    "elpv_mono": ELPV,
    "elpv_poly": ELPV,
    "magnetic_tile": {"good": "free"},
}
SEEDS = 3
#: Real defective parts that judge in the second half of the rule's table, and how often drawn.
JUDGES, DRAWS = 20, 100
#: Kinds of made-up defects (`client.anomaly.synthetic`).
MADE_UP = 4

NAMES = {
    "head_only": "ImageNet features",
    "tuned": "trained alone",
    "federated": "federated",
    "pooled": "pooled",
    "deployed": "deployed",
}


def cells(*, quick: bool) -> list[str]:
    """Name the cells, seed by seed."""
    seeds = range(1 if quick else SEEDS)
    return [f"{what}-{seed}" for seed in seeds for what in ("federated", "tuned", "anomalib")]


def run(cell: str, *, data: Path, out: Path, quick: bool) -> Mapping[str, Any]:
    """Measure one cell."""
    what, _, seed = cell.rpartition("-")
    config = settings(data, seed=int(seed), tuned=what == "tuned", quick=quick)
    if what == "anomalib":
        return _anomalib(config, data=data, out=out)
    together = what == "federated"
    plan = Plan(
        config=config,
        base=Path(),
        data=data / "images",
        out=out,
        plants=tuple(PLANTS),
        resume=True,
        pooled=together and int(seed) == 0,
        alone=("head_only", "local") if together else ("local",),
        together=together,
    )
    found = simulate(plan, watch=lambda *_: None)[0]
    result = {"plants": {name: _plant(name, found) for name in PLANTS}}
    shutil.rmtree(out)
    return result


def settings(data: Path, *, seed: int, tuned: bool, quick: bool) -> FederationConfig:
    """Return the settings of a cell."""
    weights = (data / "weights" / "mobilenet_v2_imagenet.safetensors").resolve()
    rounds = 1 if quick else 8
    return FederationConfig.model_validate(
        {
            "name": "only good parts",
            "task": "image-anomaly",
            "backbone": "mobilenet_v2",
            "weights": str(weights),
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "image_size": 96,
            "method": "fedper",
            "rounds": rounds,
            "local_epochs": 1,
            "local_steps": 12,
            "labels_per_class": 60 if quick else 150,
            "test_per_class": 20 if quick else 100,
            "seed": seed,
            "device": "cpu",
            "training": {
                "batch_size": 8,
                "round_learning_rate": 5e-4,
                "learning_rate": 5e-4,
                "head_learning_rate": 1e-2,
                # As many passes as the rounds have together.
                "epochs": rounds,
            },
            "anomaly": {"memory": 200 if quick else 1000, "fine_tune": tuned},
            "plants": PLANTS,
        }
    )


def _plant(name: str, found: SeedRun) -> dict[str, Any]:
    """Return what every model said of the test parts, and what the rule saw."""
    judged = found.judged[name]
    plant = open_plant(found.prepared.folder(name))
    data = plant.data(found.prepared.job.config)
    held = data.validation
    evidence = {
        version.kind: plant.store.evidence(version)[: len(held), 1].tolist()
        for version in plant.store.versions()
        if version.kind in ("local", "federated")
    }
    first = next(iter(judged.predictions.values()))
    return {
        "names": first.names,
        "truth": first.truth.tolist(),
        "said": {v: p.predicted[:, 1].tolist() for v, p in judged.predictions.items()},
        "source": judged.source,
        "held": data.targets[held].tolist(),
        "evidence": evidence,
        "calibration": len(data.extra),
    }


# -- the reference ---------------------------------------------------------------------------------

_REFERENCE = """
import json, sys
import numpy as np, torch
from torchvision.models import mobilenet_v2
from torchvision.models.feature_extraction import create_feature_extractor
from anomalib.models.image.patchcore.torch_model import PatchcoreModel

torch.set_num_threads(1)
torch.manual_seed(0)
held = np.load(sys.argv[1])
net = mobilenet_v2()
state = {n[6:]: torch.from_numpy(held[n]) for n in held.files if n.startswith("model.")}
net.load_state_dict(state, strict=False)
layers = ["features.6", "features.13"]
out = {}
for plant in json.loads(sys.argv[2]):
    model = PatchcoreModel(layers=layers, backbone="mobilenetv2_100", pre_trained=False)
    model.feature_extractor = create_feature_extractor(net, {n: n for n in layers}).eval()
    scale = lambda images: (torch.from_numpy(images).float() / 255 - 0.5) / 0.5
    train, test = scale(held[plant + "/train"]), scale(held[plant + "/test"])
    model.train()
    model.feature_extractor.eval()
    for batch in torch.split(train, 64):
        model(batch)
    model.subsample_embedding(float(sys.argv[3]) / (len(train) * 144))
    model.eval()
    scores = torch.cat([model(batch).pred_score for batch in torch.split(test, 64)])
    out[plant] = scores.tolist()
print(json.dumps(out))
"""


def _anomalib(config: FederationConfig, *, data: Path, out: Path) -> dict[str, Any]:
    """Let anomalib's PatchCore judge the same parts by the same source weights."""
    python = os.environ.get("ANOMALIB_PYTHON", "")
    if not python:
        return {"plants": {}, "why": "ANOMALIB_PYTHON names no environment with anomalib"}
    tensors: dict[str, Array] = {}
    for name, own in PLANTS.items():
        loaded = _task(config, own).load(data / "images" / name)
        tensors[f"{name}/train"] = loaded.inputs[loaded.train].numpy()
        tensors[f"{name}/test"] = loaded.inputs[loaded.test].numpy()
    network = build_for(config, outputs=2)
    from common.backbones import FAMILIES  # noqa: PLC0415

    FAMILIES["patches"].fill(config, network.backbone, base=Path())
    for key, value in network.backbone.state_dict().items():
        tensors[f"model.{key.removeprefix('trunk.')}"] = value.numpy()
    out.mkdir(parents=True, exist_ok=True)
    held = out / "held.npz"
    np.savez(held, **tensors)  # type: ignore[arg-type]
    done = subprocess.run(
        [python, "-c", _REFERENCE, str(held), json.dumps(list(PLANTS)), str(config.anomaly.memory)],
        capture_output=True,
        text=True,
        check=False,
    )
    shutil.rmtree(out)
    if done.returncode:
        return {"plants": {}, "why": done.stderr.strip().splitlines()[-1]}
    return {"plants": json.loads(done.stdout.splitlines()[-1])}


def _task(config: FederationConfig, own: Mapping[str, Any]) -> AnomalyTask:
    from common.config import PlantConfig  # noqa: PLC0415

    plant = PlantConfig.model_validate(
        {
            "name": "plant",
            "data": ".",
            "labels_per_class": config.labels_per_class,
            "test_per_class": config.test_per_class,
            "seed": config.seed,
            **own,
        }
    )
    return AnomalyTask.of(config, plant)


# -- tables ----------------------------------------------------------------------------------------


def tables(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return Markdown: areas, rates at the threshold, and what the no-harm rule saw."""
    runs = [found[name] for name in found if name.startswith("federated-")]
    if not runs:
        return "no federated cell yet"
    seeds = [name.rpartition("-")[2] for name in found if name.startswith("federated-")]
    known = [_variants(found, seed) for seed in seeds]
    return "\n\n".join([_areas(known, found, seeds), _rates(known, runs), _rule(known, runs)])


def _variants(
    found: Mapping[str, Mapping[str, Any]], seed: str
) -> dict[str, dict[str, Prediction]]:
    """Return predictions of one seed by plant and model."""
    rows: dict[str, dict[str, Prediction]] = {}
    for plant, one in found[f"federated-{seed}"]["plants"].items():
        truth = np.array(one["truth"])
        said = dict(one["said"])
        tuned = found.get(f"tuned-{seed}", {}).get("plants", {}).get(plant)
        if tuned:
            said["tuned"] = tuned["said"]["local"]
        reference = found.get(f"anomalib-{seed}", {}).get("plants", {}).get(plant)
        if reference:
            said["anomalib"] = reference
        rows[plant] = {name: _prediction(scores, truth) for name, scores in said.items()}
    return rows


def _prediction(scores: Sequence[float], truth: Array) -> Prediction:
    high = np.array(scores)
    return Prediction(truth=truth, predicted=np.column_stack([1 - high, high]))


def _areas(
    known: Sequence[Mapping[str, Mapping[str, Prediction]]],
    found: Mapping[str, Mapping[str, Any]],
    seeds: Sequence[str],
) -> str:
    names = {"anomalib": "anomalib's PatchCore", **NAMES}
    lines = [
        f"AUROC on test parts, mean of {len(seeds)} seeds (pooled: one), 95 % intervals.",
        "",
        f"| plant | {' | '.join(names.values())} | federated minus ImageNet |",
        "|---|" + "---|" * (len(names) + 1),
    ]
    for plant in [*PLANTS, "mean"]:
        chosen = list(PLANTS) if plant == "mean" else [plant]
        cells = []
        for variant in names:
            rows = [[seed[p][variant] for seed in known if variant in seed[p]] for p in chosen]
            whole = mean_interval(rows, metric="auroc") if all(rows) else None
            cells.append(shown(whole, ".1f", factor=100) if whole else "not run")
        gain = paired_mean_interval(
            [[seed[p]["federated"] for seed in known] for p in chosen],
            [[seed[p]["head_only"] for seed in known] for p in chosen],
            metric="auroc",
        )
        lines.append(f"| {plant} | {' | '.join(cells)} | {shown(gain, '+.1f', factor=100)} |")
    if why := {found[n]["why"] for n in found if found[n].get("why")}:
        lines += ["", f"anomalib: {'; '.join(sorted(why))}"]
    return "\n".join(lines)


def _rates(
    known: Sequence[Mapping[str, Mapping[str, Prediction]]], runs: Sequence[Mapping[str, Any]]
) -> str:
    lines = [
        "At each plant's own threshold, calibrated on good parts alone for a budget of 5 %: "
        "rejected good parts and escaped defective ones, per cent of all seeds' test parts, with "
        "Wilson intervals.",
        "",
        "| plant | calibrated on | rejected, ImageNet | rejected, federated | escaped, ImageNet "
        "| escaped, federated |",
        "|---|---|---|---|---|---|",
    ]
    for plant in PLANTS:
        cells = [str(runs[0]["plants"][plant]["calibration"])]
        for good in (True, False):
            for variant in ("head_only", "federated"):
                ones = [seed[plant][variant] for seed in known]
                hits = sum(_hits(one, good=good) for one in ones)
                tries = sum(int((one.truth == (0 if good else 1)).sum()) for one in ones)
                cells.append(_wilson(hits, tries))
        lines.append(f"| {plant} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _hits(one: Prediction, *, good: bool) -> int:
    rejected = one.predicted[:, 1] > 0.5
    return int((rejected[one.truth == 0] if good else ~rejected[one.truth == 1]).sum())


def _rule(
    known: Sequence[Mapping[str, Mapping[str, Prediction]]], runs: Sequence[Mapping[str, Any]]
) -> str:
    lines = [
        "What the no-harm rule saw and what it should have seen: AUROC of the federated backbone "
        "minus that of ImageNet's, on made-up defects and on the test's real ones; seeds in which "
        f"it adopted; and the same where {JUDGES} real defective parts judge instead, in "
        f"{DRAWS} draws from the test's (which then has the others).",
        "",
        "| plant | made-up | real | adopted | adopted by real ones | deployed minus ImageNet |",
        "|---|---|---|---|---|---|",
    ]
    for plant in PLANTS:
        seen, real, adopted, by_real, gains = [], [], 0, [], []
        for seed, one in zip(known, runs, strict=True):
            facts = one["plants"][plant]
            held = np.array(facts["held"])
            before, after = (_area(facts["evidence"][k], held) for k in ("local", "federated"))
            seen.append(after - before)
            old, new = seed[plant]["local"], seed[plant]["federated"]
            real.append(_auroc(new) - _auroc(old))
            adopted += facts["source"] == "federated"
            found = [_by_real(facts, old, new, draw=draw) for draw in range(DRAWS)]
            by_real += [adopt for adopt, _ in found]
            gains += [gain for _, gain in found]
        lines.append(
            f"| {plant} | {100 * np.mean(seen):+.1f} | {100 * np.mean(real):+.1f} | {adopted} of "
            f"{len(runs)} | {np.mean(by_real):.0%} | {100 * np.mean(gains):+.1f} |"
        )
    return "\n".join([*lines, "", _vouching(known, runs)])


def _vouching(
    known: Sequence[Mapping[str, Mapping[str, Prediction]]], runs: Sequence[Mapping[str, Any]]
) -> str:
    """Say how far the differences on made-up defects rank those on real ones."""
    rows = []
    for seed, one in zip(known, runs, strict=True):
        for plant in PLANTS:
            facts = one["plants"][plant]
            real = _auroc(seed[plant]["federated"]) - _auroc(seed[plant]["local"])
            kinds = [_seen(facts, kind) for kind in range(MADE_UP)]
            rows.append((plant, _seen(facts), min(kinds), real))

    def ranks(column: int, *, without: str = "") -> str:
        chosen = [row for row in rows if row[0] != without]
        seen = np.array([row[column] for row in chosen])
        return f"{rank_correlation(seen, np.array([row[3] for row in chosen])):.2f}"

    return (
        f"Rank correlation of the made-up with the real difference, over {len(rows)} plants and "
        f"seeds: {ranks(1)}; without deeppcb {ranks(1, without='deeppcb')}; of the worst kind of "
        f"made-up defect {ranks(2)}."
    )


def _seen(facts: Mapping[str, Any], kind: int | None = None) -> float:
    """Return the difference on made-up defects, of all kinds or of one: they take turns."""
    held = np.array(facts["held"])
    bad = np.flatnonzero(held == 1)
    chosen = bad if kind is None else bad[kind::MADE_UP]
    rows = np.r_[np.flatnonzero(held == 0), chosen]
    before, after = (
        _area(np.array(facts["evidence"][one])[rows], held[rows]) for one in ("local", "federated")
    )
    return after - before


def _by_real(
    facts: Mapping[str, Any], old: Prediction, new: Prediction, *, draw: int
) -> tuple[bool, float]:
    """Apply the rule with some of the test's defective parts; return verdict and real gain."""
    rng = np.random.default_rng(draw)
    bad = np.flatnonzero(old.truth == 1)
    judges = rng.choice(bad, size=min(JUDGES, len(bad) // 2), replace=False)
    held = np.array(facts["held"])
    truth = np.r_[np.zeros(int((held == 0).sum()), int), np.ones(len(judges), int)]
    worth = []
    for kind, one in (("local", old), ("federated", new)):
        good = np.array(facts["evidence"][kind])[held == 0]
        worth.append(_worth(np.r_[good, one.predicted[judges, 1]], truth))
    adopt = judge(worth[1] - worth[0], truth, margin=0.0).adopt
    rest = np.setdiff1d(np.arange(len(old.truth)), judges)
    gain = _area(new.predicted[rest, 1], new.truth[rest]) - _area(
        old.predicted[rest, 1], old.truth[rest]
    )
    return adopt, gain if adopt else 0.0


def _worth(scores: Array, truth: Array) -> Array:
    from client.tasks.ranks import placements  # noqa: PLC0415

    placed = placements(scores, truth)
    area = placed[truth == 1].mean()
    return np.asarray(area + 2 * (placed - area))


def _auroc(one: Prediction) -> float:
    return _area(one.predicted[:, 1], one.truth)


def _area(scores: Sequence[float] | Array, truth: Array) -> float:
    from client.tasks.ranks import placements  # noqa: PLC0415

    return float(placements(np.asarray(scores), truth)[truth == 1].mean())


def _wilson(hits: int, tries: int) -> str:
    """Return a share in per cent with its 95 % interval (Wilson 1927)."""
    z, share = 1.96, hits / tries
    middle = (share + z * z / (2 * tries)) / (1 + z * z / tries)
    half = z * np.sqrt(share * (1 - share) / tries + z * z / (4 * tries**2)) / (1 + z * z / tries)
    return f"{100 * share:.1f} ({100 * (middle - half):.1f} to {100 * (middle + half):.1f})"
