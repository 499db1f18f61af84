"""What the fixed point of a secure sum costs by itself: the same updates, summed once more.

A run in the clear (``benchmarks/secure_sums.py --only clear``) has left the plants' updates of its
last round in their outboxes. They are summed again as fixed point of so many bits, as a secure sum
would; each plant then fits its head on that release as it did on the run's own, and test images are
judged. Nothing is trained in between, so a difference is the rounding's alone.

    python benchmarks/rounding.py --bits 8,16,20,24,28    # after secure_sums.py
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from secure_sums import score_of

from client.plant import Plant
from common.files import load_tensors, read_json
from common.orders import Kind, Order, Release, Reply
from common.secagg.encoding import Encoding, Packer, decode
from common.secagg.masks import add_masks
from server.engine.job import Job
from server.releases import Releases

OUTBOX = "outbox"


def resummed(home: Path, job: Job, *, bits: int) -> tuple[Release, float]:
    """Return the last release from updates summed with so many bits, and the bound's use.

    Returns
    -------
    release, and the largest value of an update.
    """
    releases = Releases(home)
    number = releases.numbers()[-1]
    before, sums = releases.read(number - 1), job.config.secure_aggregation
    schema = before.schema.subset(job.travelling)
    plants = sorted((home / "plants").iterdir())
    encoding = Encoding(
        size=schema.size,
        bits=bits,
        bound=sums.bound,
        max_weight=job.config.server.max_weight,
        plants=len(plants),
    )
    total, largest = np.zeros(encoding.words, np.uint64), 0.0
    for folder in plants:
        update, weight = sent(folder, f"{job.run}-{number:05d}-train")
        words = np.empty(encoding.words, np.uint64)
        add_masks(words, fill=Packer(update, weight=weight, encoding=encoding).fill)
        total += words
        largest = max(largest, float(np.abs(update).max()))
    summed = decode(total, encoding=encoding, survivors=len(plants))
    mean = (summed.vector / summed.weight).astype(np.float32)
    vector = before.vector.copy()
    values = before.schema.unflatten(vector)
    for name, change in schema.unflatten(mean).items():
        values[name] += change
    return replace(before, number=number, vector=vector), largest


def sent(folder: Path, key: str) -> tuple[np.ndarray, int]:
    """Return what a plant's outbox keeps of an update, and its weight."""
    tensors, metadata = load_tensors(folder / OUTBOX / f"{key}.safetensors")
    reply = Reply.of(metadata["head"], None)
    return np.frombuffer(tensors["update"].tobytes(), "<f4").copy(), reply.weight


def judge(home: Path, job: Job, release: Release, *, name: str) -> dict[str, Any]:
    """Let copies of the plants take a release over, and judge their test images."""
    copied = home.with_name(f"{home.name}-{name}")
    found: dict[str, Any] = {"scores": {}, "said": {}}
    plants = sorted(path.name for path in (home / "plants").iterdir())
    for plant in plants:
        folder = copied / "plants" / plant
        shutil.copytree(home / "plants" / plant, folder, ignore=shutil.ignore_patterns(OUTBOX))
        opened = Plant.open(folder)
        order = Order(
            run=job.run,
            round=job.config.rounds + 1,
            kind=Kind.ADOPT,
            release=release.hash,
            cohort=tuple(plants),
            deadline=3600.0,
            config=job.config,
        )
        reply = opened.answer(order, release)
        assert reply.outcome == "done", reply.reason
        version = [one for one in opened.store.versions() if one.kind == "federated"][-1]
        predicted = opened.test(version.number, config=job.config)
        found["scores"][plant] = score_of(predicted)
        found["said"][plant] = predicted.predicted.argmax(axis=1).tolist()
    shutil.rmtree(copied)
    return found


def table(rows: dict[str, dict[str, Any]], clear: dict[str, Any]) -> Iterator[str]:
    """Yield a row for each number of bits."""
    plants = list(clear["scores"])
    yield "| bits a value | " + " | ".join(plants) + " | mean | images called otherwise |"
    yield "|---" * (len(plants) + 3) + "|"
    for name, row in {"in the clear": clear, **rows}.items():
        scores = [row["scores"][plant] for plant in plants]
        other = sum(
            int(np.sum(np.asarray(row["said"][plant]) != np.asarray(clear["said"][plant])))
            for plant in plants
        )
        cells = " | ".join(f"{one:.4f}" for one in [*scores, float(np.mean(scores))])
        yield f"| {name} | {cells} | {other} |"


def main() -> None:
    """Judge every number of bits that has no result yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--home", type=Path, default=Path("out/secure-sums/clear"))
    parser.add_argument("--bits", default="8,16,20,24,28")
    given = parser.parse_args()
    job = Job.read(given.home)
    clear, rows = read_json(given.home.with_suffix(".json")), {}
    for text in given.bits.split(","):
        path = given.home.with_name(f"{given.home.name}-{text}.json")
        if not path.exists():
            release, largest = resummed(given.home, job, bits=int(text))
            own = Releases(given.home).latest().vector.astype(np.float64)
            found = judge(given.home, job, release, name=text)
            found["apart"] = float(np.abs(release.vector - own).max())
            found["largest"] = largest
            path.write_text(json.dumps(found))
        rows[text] = read_json(path)
    print("\n".join(table(rows, clear)))
    for name, row in rows.items():
        print(f"{name} bits: release apart by at most {row['apart']:.1e}")
    print(f"largest value of an update {next(iter(rows.values()))['largest']:.3g}")


if __name__ == "__main__":
    main()
