"""Damaged files: releases, personal models, database pages. Backups are put back afterwards."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.faults.kills import STAGES
from tests.e2e.harness import Side
from tests.e2e.moments import at
from tests.e2e.scene import Case, Scene


@contextmanager
def damaged(path: Path, *, size: int = 1) -> Iterator[None]:
    """Overwrite bytes in the middle of a file; put the file back at the end."""
    backup = path.with_name(f".{path.name}.backup")
    shutil.copy2(path, backup)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2 // 4096 * 4096
    for place in range(middle, min(middle + size, len(content))):
        content[place] ^= 0x5A
    path.write_bytes(content)
    try:
        yield
    finally:
        backup.replace(path)


def newest(folder: Path, name: str) -> Path:
    """Return a file of the newest numbered folder."""
    return max(folder.glob(f"*/{name}"), key=lambda path: int(path.parent.name))


def said(side: Side, since: int, *, seconds: float = 240) -> str:
    """Return the last line with trouble that `up` has printed since, in so many seconds at most."""
    end = time.monotonic() + seconds
    words = ("damaged", "error", "malformed", "must be", "cannot")
    while time.monotonic() < end:
        running = side.is_up()
        lines = [
            line
            for line in side.output()[since:].splitlines()
            if any(word in line for word in words)
        ]
        if lines or not running:
            return lines[-1].strip()[:200] if lines else "nothing was said"
        time.sleep(0.5)
    return "nothing was said"


def release(scene: Scene) -> str:
    """Flip a byte of the release in force while the centre is down."""
    centre = scene.centre
    at(STAGES["between rounds"](scene), what="end of round")
    centre.stop()
    path = newest(centre.folder / "releases", "backbone.safetensors")
    with damaged(path):
        verified = centre.try_command("releases", str(centre.folder), "verify")
        since = len(centre.output())
        centre.start()
        heard = said(centre, since)
        centre.stop()
    centre.up()
    return f"verify ends with {verified.returncode}: {verified.stderr.strip()[:160]}; up: {heard}"


def state(scene: Scene) -> str:
    """Overwrite a page of state.db while the centre is down."""
    centre = scene.centre
    at(STAGES["between rounds"](scene), what="end of round")
    centre.stop()
    with damaged(centre.folder / "state.db", size=4096):
        since = len(centre.output())
        centre.start()
        heard = said(centre, since)
        if centre.is_up():
            centre.stop()
    centre.up()
    return f"up: {heard}"


def personal(scene: Scene) -> str:
    """Flip a byte of the plant's newest personal part, and of its copy in no cache."""
    plant = scene.plant
    at(STAGES["order sent"](scene), what="order")
    scene.close(scene.round)
    plant.stop()
    path = newest(plant.folder / "personal", "personal.safetensors")
    with damaged(path):
        since = len(plant.output())
        plant.start()
        number = scene.next_round()
        told = scene.close(number)["replies"]["ash"]
        heard = said(plant, since, seconds=2)
        plant.stop()
    plant.start()
    return f"the next round: ash {told}; up: {heard}"


def ledger(scene: Scene) -> str:
    """Overwrite a page of ledger.db while the plant is down."""
    plant = scene.plant
    scene.close(scene.round)
    plant.stop()
    with damaged(plant.folder / "ledger.db", size=4096):
        since = len(plant.output())
        plant.start()
        heard = said(plant, since)
        if plant.is_up():
            plant.stop()
    plant.start()
    return f"up: {heard}"


def outbox(scene: Scene) -> None:
    """Damage the filed answer before it is sent: the daemon is killed in between."""
    plant = scene.plant
    before = plant.filed()
    at(STAGES["reply filed"](scene), what="reply")
    plant.kill("daemon")
    for name in plant.filed() - before:
        path = plant.folder / "outbox" / name
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0x5A
        path.write_bytes(content)
    plant.start()


CASES = [
    Case("a filed reply damaged before it was sent", outbox),
    Case("the release in force damaged, centre down", release, expect="ends with 1: .+up: .*rel"),
    Case("a page of state.db damaged, centre down", state, expect="up: .*(state|database|malf)"),
    Case("a page of ledger.db damaged, plant down", ledger, expect="up: .*(ledger|database|malf)"),
    Case("a personal part damaged, plant down", personal, expect="ash done; up: .*damaged"),
    Case("the round after: damage", lambda scene: None, expect="committed, 3 of 3"),
]
