"""A full disk at the centre and at a plant: each folder is a small tmpfs."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.faults.kills import STAGES
from tests.e2e.harness import Side
from tests.e2e.moments import at
from tests.e2e.scene import Case, Scene

SIZES = {"centre": "160m", "ash": "64m"}
FULL = 40.0  #: seconds


@contextmanager
def small_disks(root: Path) -> Iterator[None]:
    """Mount a tmpfs for the centre and one for a plant; root only."""
    for name, size in SIZES.items():
        (root / name).mkdir()
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(root / name)], check=True
        )
    try:
        yield
    finally:
        for name in SIZES:
            subprocess.run(["umount", "--lazy", str(root / name)], check=True)


def fill(folder: Path) -> Path:
    """Fill the disk of a folder to the last byte, and return the file that does."""
    path = folder / "filling"
    with path.open("wb", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            try:
                while True:
                    file.write(os.urandom(size))
            except OSError:
                continue
    return path


def full(side: str, stage: str, *, expect: str = "") -> Case:
    """A disk that is full for a while."""

    def inject(scene: Scene) -> str:
        target: Side = scene.centre if side == "centre" else scene.plant
        at(STAGES[stage](scene), what=stage)
        filling = fill(target.folder)
        time.sleep(FULL)
        filling.unlink()
        return ""

    whose = "the centre's" if side == "centre" else "a plant's"
    return Case(f"{whose} disk full for {FULL:.0f} s: {stage}", inject, expect=expect)


CASES = [
    full("centre", "training"),
    full("centre", "order sent"),
    full("plant", "training", expect="(committed, 3|skipped, 2|committed, 2)"),
    Case("the round after: a plant's disk full", lambda scene: None, expect="committed, 3 of 3"),
]
