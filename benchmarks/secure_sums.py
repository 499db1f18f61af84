"""Six real plants with secure aggregation and without: what masks change, and what rounding does.

Runs of the same seed over the same images, that differ in one thing each:

- in the clear: 64-bit sums of weighted float32 updates;
- in the clear, from source weights that are moved by their last bit: what any difference that is
  too small to mean anything becomes, because training amplifies it;
- fixed point without masks (`simulation.unmasked`), the sum that a secure one must equal;
- secure, on the ``local`` engine and on Flower.

A secure run must have the releases of the fixed point without masks bit for bit, so scores cannot
differ. From the run in the clear it differs by rounding, and then by what training makes of it.

    python benchmarks/secure_sums.py --rounds 2 --steps 8 --tests 50   # docs/results/secure-sums.md
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from client.tasks.metrics import Prediction
from common.config import FederationConfig
from common.files import load_tensors, save_tensors
from server.releases import Releases
from server.state.store import history
from simulation.run import Plan, run
from simulation.unmasked import unmasked

DATA = Path(os.environ.get("TRANSFERLINE_DATA", "../shared/data"))
WEIGHTS = DATA / "weights" / "mobilenet_v2_imagenet.safetensors"
PLANTS = ("deeppcb", "elpv_mono", "elpv_poly", "magnetic_tile", "neu_steel", "wood_board")
ELPV = {"classes": ["functional", "defective"], "good": "functional"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run.

    Attributes
    ----------
    bits : of the fixed point; 0 sums in the clear.
    masks : whether the fixed point is summed under masks.
    moved : whether the source weights are moved by their last bit.
    """

    title: str
    engine: Literal["local", "flower"] = "local"
    bits: int = 0
    masks: bool = True
    moved: bool = False


BITS = 28  #: of a value, the default of federation.toml
CASES = {
    "clear": Case(title="in the clear"),
    "clear-moved": Case(title="in the clear, source moved by its last bit", moved=True),
    "fixed": Case(title="28 bits, no masks", bits=BITS, masks=False),
    "secure": Case(title="28 bits, secure, `local`", bits=BITS),
    "secure-flower": Case(title="28 bits, secure, `flower`", bits=BITS, engine="flower"),
}


def config(case: Case, *, given: argparse.Namespace) -> FederationConfig:
    """Return the settings of six-20, with fewer rounds and no fine-tuning at the end."""
    weights = moved(given.out) if case.moved else WEIGHTS
    return FederationConfig.model_validate(
        {
            "name": "six real plants",
            "weights": str(weights.resolve()),
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "rounds": given.rounds,
            "local_steps": given.steps,
            "min_plants": 3,
            "labels_per_class": 20,
            "test_per_class": given.tests,
            "device": "cpu",
            "plants": {"elpv_mono": ELPV, "elpv_poly": ELPV},
            # Only what the rounds give is compared.
            "methods": {"local_first": False, "personal_fine_tune": False},
            "secure_aggregation": {"enabled": bool(case.bits), "bits": case.bits or BITS},
        }
    )


def moved(out: Path) -> Path:
    """Write the source weights with each value moved to the next float32, up or down by lot."""
    path = out / "moved.safetensors"
    if not path.exists():
        draws = np.random.default_rng(0)
        tensors, metadata = load_tensors(WEIGHTS)
        for name, values in tensors.items():
            if values.dtype == np.float32 and values.size > 1:
                towards = np.where(draws.random(values.shape) < 0.5, -np.inf, np.inf)
                tensors[name] = np.nextafter(values, towards.astype(np.float32))
        save_tensors(path, tensors, metadata)
    return path


def cell(name: str, given: argparse.Namespace) -> Path:
    """Run one case, unless its result is there; return the file."""
    case = CASES[name]
    home = given.out / name
    path: Path = home.with_suffix(".json")
    if path.exists():
        return path
    started = time.monotonic()
    plan = Plan(
        config=config(case, given=given),
        base=Path(),
        data=DATA / "images",
        out=home,
        plants=PLANTS,
        engine=case.engine,
        workers=1 if case.engine == "local" else 2,
        resume=True,
        pooled=False,
        alone=(),
    )
    with nullcontext() if case.masks else unmasked():
        found = run(plan, watch=lambda *_: None)[0]
    releases = Releases(home)
    held = [row for row in history(home) if row["outcome"] == "committed"]
    judged = {plant: one.predictions["federated"] for plant, one in found.judged.items()}
    result = {
        "scores": {plant: score_of(one) for plant, one in judged.items()},
        "said": {plant: one.predicted.argmax(axis=1).tolist() for plant, one in judged.items()},
        "sure": {plant: one.predicted.max(axis=1).tolist() for plant, one in judged.items()},
        "releases": [releases.manifest(number).hash for number in releases.numbers()],
        "home": str(home),
        "bytes_up": sum(r["bytes_up"] for row in held for r in row["replies"].values()) / len(held),
        "seconds": round(time.monotonic() - started),
    }
    path.write_text(json.dumps(result, indent=1))
    return path


def score_of(found: Prediction) -> float:
    """Return balanced accuracy on the test images."""
    right = found.predicted.argmax(axis=1) == found.truth
    return float(np.mean([right[found.truth == one].mean() for one in np.unique(found.truth)]))


def table(found: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Yield a row a plant, then what differs from the run in the clear."""
    yield "| plant | " + " | ".join(CASES[name].title for name in found) + " |"
    yield "|---" * (len(found) + 1) + "|"
    for plant in PLANTS:
        cells = (f"{one['scores'][plant]:.4f}" for one in found.values())
        yield f"| {plant} | " + " | ".join(cells) + " |"
    means = (f"{np.mean(list(one['scores'].values())):.4f}" for one in found.values())
    yield "| mean | " + " | ".join(means) + " |"
    base = found["clear"]
    other = [_others(base, one) for one in found.values()]
    total = sum(map(len, base["said"].values()))
    yield f"| test images of {total} called otherwise | " + " | ".join(map(str, other)) + " |"
    for number in range(1, len(base["releases"])):
        gaps = (f"{_gap(base, one, number):.1e}" for one in found.values())
        yield f"| release {number}, length of the difference | " + " | ".join(gaps) + " |"
    sizes = (f"{one['bytes_up'] / 1e6:.1f}" for one in found.values())
    yield "| MB up a round, six plants | " + " | ".join(sizes) + " |"
    yield ""
    step = _step(base)
    yield f"a round moves the release by {step[0]:.2g} to {step[1]:.2g} (Euclidean length)"
    for one, two in pairwise(name for name in found if CASES[name].bits):
        same = found[one]["releases"] == found[two]["releases"]
        yield f"releases of {one} and {two}: {'the same bits' if same else 'NOT the same'}"


def _others(one: dict[str, Any], two: dict[str, Any]) -> int:
    return sum(
        int(np.sum(np.asarray(one["said"][plant]) != np.asarray(two["said"][plant])))
        for plant in PLANTS
    )


def _read(one: dict[str, Any], number: int) -> Any:
    return Releases(Path(one["home"])).read(number).vector.astype(np.float64)


def _gap(one: dict[str, Any], two: dict[str, Any], number: int) -> float:
    return float(np.linalg.norm(_read(one, number) - _read(two, number)))


def _step(one: dict[str, Any]) -> tuple[float, float]:
    vectors = [_read(one, number) for number in range(len(one["releases"]))]
    steps = [float(np.linalg.norm(after - before)) for before, after in pairwise(vectors)]
    return min(steps), max(steps)


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/secure-sums"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=16, help="gradient steps in a round, at least")
    parser.add_argument("--tests", type=int, default=150, help="test images a class, at most")
    parser.add_argument("--only", choices=list(CASES), action="append")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    found = {name: json.loads(cell(name, given).read_text()) for name in given.only or CASES}
    if "clear" in found:
        print("\n".join(table(found)))


if __name__ == "__main__":
    main()
