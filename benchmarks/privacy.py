"""What privacy costs: scores against epsilon on real plants, and the speed of private steps.

    python benchmarks/privacy.py            # both tables, into out/privacy too
    python benchmarks/privacy.py --quick    # one cell of each kind, two rounds
    python benchmarks/privacy.py --speed    # private steps against plain ones and opacus, ratios

Five plants, one product: steel surfaces, cut by ``transferline-sim split`` with a camera for each.
What is judged is what the plants share: a new head on features of the last release, against one on
features of the source weights. Training at the plant needs no noise, so a fine-tuned model would
hide what noise does to the release. One seed; a cell whose file is there is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from client import dpsgd
from client.desk.spending import Spending
from client.tasks.metrics import mean_interval, paired_mean_interval
from common.backbone import build
from common.config import FederationConfig
from common.files import read_json, write_json
from common.noise import Noise
from server.releases import Releases
from simulation.run import Plan, run
from simulation.split import split_product

DATA = Path(os.environ.get("TRANSFERLINE_DATA", "../shared/data"))
PLANTS, LABELS, SIDE, ROUNDS, STEPS = 5, 40, 64, 4, 12
METRIC = "balanced_accuracy"


@dataclass(frozen=True, kw_only=True)
class Case:
    """Settings of one row.

    Attributes
    ----------
    tables : of federation.toml, over those that all rows have.
    """

    title: str
    tables: dict[str, Any] = field(default_factory=dict)


def record(noise: float, *, until: str = "") -> dict[str, Any]:
    """Return settings of record-level privacy; the head moves faster, as nothing fits it before."""
    return {
        "privacy": {"unit": "record", "noise_multiplier": noise, "clip": 0.5, "sample_rate": 0.15},
        "training": {"head_learning_rate": 0.01, "freeze_until": until},
    }


def plant(noise: float, *, summed: bool) -> dict[str, Any]:
    """Return settings of plant-level privacy; the clip is about the length of an update."""
    own: dict[str, Any] = {
        "privacy": {"unit": "plant", "noise_multiplier": noise, "clip": 1.0},
        "server": {"max_update_norm": 1e5},
    }
    if summed:
        own["secure_aggregation"] = {"enabled": True, "bits": 20, "bound": 1.0 + 6 * noise}
    return own


CASES = {
    "open": Case(title="no noise"),
    "record-0.4": Case(title="record, noise 0.4", tables=record(0.4)),
    "record-1": Case(title="record, noise 1", tables=record(1.0)),
    "record-1-late": Case(
        title="record, noise 1, last stages only", tables=record(1.0, until="features.17")
    ),
    "record-3": Case(title="record, noise 3", tables=record(3.0)),
    "plant-1": Case(title="plant, noise 1, at each plant", tables=plant(1.0, summed=False)),
    "plant-sum-1": Case(title="plant, noise 1, in the secure sum", tables=plant(1.0, summed=True)),
    "plant-sum-0.01": Case(
        title="plant, noise 0.01, in the secure sum", tables=plant(0.01, summed=True)
    ),
}


def settings(case: Case, *, rounds: int) -> FederationConfig:
    """Return the configuration of a row."""
    weights = (DATA / "weights" / "mobilenet_v2_imagenet.safetensors").resolve()
    tables: dict[str, Any] = {key: dict(value) for key, value in case.tables.items()}
    tables.setdefault("privacy", {})["steps"] = STEPS
    return FederationConfig.model_validate(
        {
            "name": "privacy",
            "weights": str(weights),
            "image_size": SIDE,
            "labels_per_class": LABELS,
            "rounds": rounds,
            "local_epochs": 1,
            "local_steps": STEPS,
            "min_plants": PLANTS,
            "device": "cpu",
            "methods": {"personal_fine_tune": False, "local_first": False},
            **tables,
        }
    )


def run_case(name: str, *, out: Path, rounds: int) -> dict[str, Any]:
    """Run one row, or read what it gave."""
    path = out / f"{name}.json"
    if path.exists():
        return dict(read_json(path))
    data = out / "steel"
    if not data.is_dir():
        steel = DATA / "images" / "neu_steel"
        split_product(steel, data, plants=PLANTS, labels="iid", cameras=True, seed=0)
    home, started = out / "runs" / name, time.process_time()
    shutil.rmtree(home, ignore_errors=True)
    config = settings(CASES[name], rounds=rounds)
    plan = Plan(config=config, base=Path(), data=data, out=home, alone=("head_only",), pooled=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the run warns of is what this benchmark shows
        found = run(plan, watch=lambda *_: None)[0]
    judged = [row.predictions for row in found.judged.values()]
    source = [[row["head_only"]] for row in judged]
    release = [[row["federated"]] for row in judged]
    releases = Releases(home)
    first, last = (releases.read(n).vector.astype(np.float64) for n in (0, max(releases.numbers())))
    spent = [
        one
        for folder in found.prepared.folders
        for one in Spending(folder).summary(delta=config.privacy.delta)
        if one.unit == config.privacy.unit
    ]
    row = {
        "title": CASES[name].title,
        "source": asdict(mean_interval(source, metric=METRIC)),
        "release": asdict(mean_interval(release, metric=METRIC)),
        "gain": asdict(paired_mean_interval(release, source, metric=METRIC)),
        "epsilon": max((one.epsilon.value for one in spent), default=None),
        "rdp": max((one.epsilon.rdp for one in spent), default=None),
        "delta": config.privacy.delta,
        "rounds": rounds,
        "moved": float(np.linalg.norm(last - first)),
        "seconds": round(time.process_time() - started, 1),
    }
    write_json(path, row)
    shutil.rmtree(home)
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """Return rows as Markdown."""
    lines = [
        f"| {rows[0]['rounds']} rounds of {STEPS} steps, {PLANTS} plants | epsilon (by RDP) | "
        "source features | release features | gain, points | release moved by |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        spent = "-" if row["epsilon"] is None else f"{row['epsilon']:.3g} ({row['rdp']:.3g})"
        gain = row["gain"]
        points = " ".join(f"{100 * gain[key]:+.1f}" for key in ("value", "low", "high"))
        value, low, high = points.split()
        lines.append(
            f"| {row['title']} | {spent} | {row['source']['value']:.3f} | "
            f"{row['release']['value']:.3f} | {value} ({low} to {high}) | {row['moved']:.2f} |"
        )
    return "\n".join(lines)


# -- speed -----------------------------------------------------------------------------------------


def speed(*, images: int = 16, side: int = 64, repeats: int = 3) -> dict[str, float]:
    """Return seconds of one step on MobileNetV2, by way; they take turns, medians count."""
    network = build("mobilenet_v2", classes=6, image_size=side)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(False)  # opacus has no rule for them
    network.eval()
    inputs, targets = torch.randn(images, 3, side, side), torch.arange(images) % 6

    def plain() -> None:
        network.zero_grad()
        F.cross_entropy(network(inputs), targets).backward()

    def private() -> None:
        sums, _ = dpsgd.clipped_sum(network, inputs, targets, clip=1.0)
        noise = Noise()
        for part in sums.values():
            part += torch.from_numpy(noise.normal(part.numel(), scale=1.0)).view_as(part)

    ways: dict[str, Callable[[], None]] = {"plain": plain, "private": private}
    hooks = _opacus(network, inputs, targets)
    if hooks is not None:
        ways["opacus hooks"] = hooks
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            if turn:  # the first is warming up
                taken[name].append(time.perf_counter() - started)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def _opacus(
    network: nn.Module, inputs: torch.Tensor, targets: torch.Tensor
) -> Callable[[], None] | None:
    try:
        from opacus.grad_sample import GradSampleHooks  # noqa: PLC0415  for comparison only
    except ImportError:
        return None

    def step() -> None:
        for module in network.modules():
            module.training = not isinstance(module, nn.BatchNorm2d | nn.Dropout)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            hooks = GradSampleHooks(network, strict=False, loss_reduction="sum")
            F.cross_entropy(network(inputs), targets, reduction="sum").backward()
        moving = [p for p in network.parameters() if p.requires_grad]
        norms = torch.stack([p.grad_sample.flatten(1).norm(dim=1) for p in moving]).norm(dim=0)
        factors = (1.0 / norms).clamp(max=1)
        for parameter in moving:
            summed = torch.einsum("n,n...->...", factors, parameter.grad_sample)
            parameter.grad = summed + torch.randn_like(summed)
        hooks.remove_hooks()
        for parameter in moving:
            del parameter.grad_sample
        network.eval()

    return step


def main() -> None:
    """Run what was asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/privacy"))
    parser.add_argument("--quick", action="store_true", help="three rows of two rounds, and speed")
    parser.add_argument("--speed", action="store_true", help="speed alone")
    parser.add_argument("--cells", help="names of rows, comma-separated")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if not args.speed:
        out = args.out / "quick" if args.quick else args.out
        names = ("open", "record-1", "plant-sum-1") if args.quick else tuple(CASES)
        names = tuple(args.cells.split(",")) if args.cells else names
        out.mkdir(parents=True, exist_ok=True)
        rows = []
        for name in names:
            rows.append(run_case(name, out=out, rounds=2 if args.quick else ROUNDS))
            print(json.dumps(rows[-1]), flush=True)
        print("\n" + table(rows) + "\n")
    if args.speed or args.quick or not args.cells:
        seconds = speed()
        for name, taken in seconds.items():
            print(f"{name}: {taken / seconds['plain']:.1f} times a plain step")


if __name__ == "__main__":
    main()
