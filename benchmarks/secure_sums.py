"""Six real plants with secure aggregation and without: the same scores, and what it costs.

Three runs of the same seed over the same images: in the clear, under masks on the ``local`` engine,
under masks on Flower. The two under masks must give the same releases bit for bit; the one in the
clear differs from them by rounding alone (fixed point of so many bits for a value, instead of
64-bit sums of float32), and so may its scores, by a test image here and there.

    python benchmarks/secure_sums.py --rounds 2 --steps 8 --tests 50    # as in docs/results.md
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from client.tasks.metrics import Prediction
from common.config import FederationConfig
from server.releases import Releases
from server.state.store import history
from simulation.run import Plan, run

DATA = Path(os.environ.get("TRANSFERLINE_DATA", "../shared/data"))
ELPV = {"classes": ["functional", "defective"], "good": "functional"}
Engine = Literal["local", "flower"]
RUNS: dict[str, tuple[Engine, bool]] = {
    "in the clear": ("local", False),
    "secure, local": ("local", True),
    "secure, flower": ("flower", True),
}


def config(*, secure: bool, rounds: int, steps: int, tests: int) -> FederationConfig:
    """Return the settings of docs/results.md, with fewer rounds and no fine-tuning at the end."""
    weights = (DATA / "weights" / "mobilenet_v2_imagenet.safetensors").resolve()
    return FederationConfig.model_validate(
        {
            "name": "six real plants",
            "weights": str(weights),
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "rounds": rounds,
            "local_steps": steps,
            "min_plants": 3,
            "labels_per_class": 20,
            "test_per_class": tests,
            "device": "cpu",
            "plants": {"elpv_mono": ELPV, "elpv_poly": ELPV},
            # Only what the rounds give is compared.
            "methods": {"local_first": False, "personal_fine_tune": False},
            "secure_aggregation": {"enabled": secure},
        }
    )


def cell(name: str, out: Path, *, rounds: int, steps: int, tests: int) -> Path:
    """Run one of the three, unless its result is there; return the file."""
    engine, secure = RUNS[name]
    home = out / name.replace(", ", "-").replace(" ", "-")
    path = home.with_suffix(".json")
    if path.exists():
        return path
    started = time.monotonic()
    plan = Plan(
        config=config(secure=secure, rounds=rounds, steps=steps, tests=tests),
        base=Path(),
        data=DATA / "images",
        out=home,
        plants=("deeppcb", "elpv_mono", "elpv_poly", "magnetic_tile", "neu_steel", "wood_board"),
        engine=engine,
        workers=1 if engine == "local" else 2,
        resume=True,
        pooled=False,
        alone=(),
    )
    found = run(plan, watch=lambda *_: None)[0]
    releases = Releases(home)
    held = [row for row in history(home) if row["outcome"] == "committed"]
    result = {
        "scores": {
            plant: _score(judged.predictions["federated"]) for plant, judged in found.judged.items()
        },
        "releases": [releases.manifest(number).hash for number in releases.numbers()],
        "last": str(home / "releases" / str(releases.numbers()[-1])),
        "bytes_up": sum(r["bytes_up"] for row in held for r in row["replies"].values()) / len(held),
        "seconds": round(time.monotonic() - started),
    }
    path.write_text(json.dumps(result, indent=1))
    return path


def _score(found: Prediction) -> float:
    """Return balanced accuracy on the test images."""
    right = found.predicted.argmax(axis=1) == found.truth
    return float(np.mean([right[found.truth == one].mean() for one in np.unique(found.truth)]))


def table(out: Path, found: dict[str, dict[str, object]]) -> Iterator[str]:
    """Yield the table as Markdown, and what is the same."""
    plants = list(found["in the clear"]["scores"])  # type: ignore[call-overload]
    yield "| plant | " + " | ".join(found) + " |"
    yield "|---" * (len(found) + 1) + "|"
    scores = {name: one["scores"] for name, one in found.items()}
    for plant in plants:
        cells = (f"{scores[name][plant]:.4f}" for name in found)  # type: ignore[index]
        yield f"| {plant} | " + " | ".join(cells) + " |"
    means = (f"{np.mean(list(scores[name].values())):.4f}" for name in found)  # type: ignore[attr-defined]
    yield "| mean | " + " | ".join(means) + " |"
    sizes = (f"{float(one['bytes_up']) / 1e6:.1f}" for one in found.values())  # type: ignore[arg-type]
    yield "| MB up a round, six plants | " + " | ".join(sizes) + " |"
    yield ""
    plain, *others = (
        Releases(Path(str(one["last"])).parent.parent).read(int(Path(str(one["last"])).name))
        for one in found.values()
    )
    for name, other in zip(list(found)[1:], others, strict=True):
        gap = float(np.abs(plain.vector - other.vector).max())
        moved = float(np.abs(plain.vector).max())
        yield f"{name}: the last release differs from that in the clear by at most {gap:.1e}, "
        yield f"where the largest value is {moved:.1f}"
    if len(others) == 2:
        same = found["secure, local"]["releases"] == found["secure, flower"]["releases"]
        yield f"releases of both engines under masks are {'the same' if same else 'NOT the same'}"


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/secure-sums"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=16, help="gradient steps in a round, at least")
    parser.add_argument("--tests", type=int, default=150, help="test images a class, at most")
    parser.add_argument("--only", choices=list(RUNS), action="append")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    found = {}
    for name in given.only or RUNS:
        path = cell(name, given.out, rounds=given.rounds, steps=given.steps, tests=given.tests)
        found[name] = json.loads(path.read_text())
    print("\n".join(table(given.out, found)))


if __name__ == "__main__":
    main()
