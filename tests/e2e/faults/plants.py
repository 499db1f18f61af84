"""Plants that are slow, hung, away, revoked or hostile: what a round makes of them.

Quorum 2 of 3, 150 s a round.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.e2e.faults.kills import STAGES
from tests.e2e.harness import wait_connected
from tests.e2e.moments import at
from tests.e2e.scene import Case, Scene

HOSTILE = Path(__file__).with_name("hostile_plant.py")
DEADLINE = 150.0


@contextmanager
def standing_still(scene: Scene, role: str) -> Iterator[None]:
    """Let a process of the plant stand still from its training on."""
    at(STAGES["training"](scene), what="training")
    found = scene.plant.processes(role)
    for process in found:
        process.suspend()
    yield
    for process in found:
        with suppress(psutil.NoSuchProcess):
            process.resume()


def hung(role: str) -> Case:
    """A process that stands still for the rest of the round."""

    def inject(scene: Scene) -> None:
        with standing_still(scene, role):
            scene.close(scene.round)

    what = {"worker": "training hangs", "daemon": "the daemon hangs"}[role]
    return Case(f"{what} for a whole round", inject, expect="committed, 2 of 3.*ash")


def recovered(after: str) -> Case:
    """The round after it."""
    return Case(f"the round after: {after}", lambda scene: None, expect="committed, 3 of 3")


def dies(scene: Scene) -> None:
    """Kill all of a plant at once, as when its machine loses power."""
    at(STAGES["training"](scene), what="training")
    scene.plant.kill_all()


def returns(scene: Scene) -> str:
    """Start the dead plant again."""
    scene.plant.start()
    return connected(scene)


def connected(scene: Scene) -> str:
    """Wait until all plants are: the link of one whose daemon hung has signed off."""
    wait_connected(scene.centre, sorted(scene.plants))
    return "connected"


def below_quorum(scene: Scene) -> None:
    """Stop two plants of three for a round, and start them again."""
    for name in ("elm", "oak"):
        scene.plants[name].stop()
    scene.close(scene.round)
    for name in ("elm", "oak"):
        scene.plants[name].start()


def spoiled(kind: str, what: str, expect: str) -> list[Case]:
    """A reply that is signed properly and must not be counted."""

    def inject(scene: Scene) -> None:
        oak = scene.plants["oak"]
        if str(HOSTILE) not in oak.program:
            oak.stop()
            oak.program = [sys.executable, str(HOSTILE)]
            oak.start()
            connected(scene)
            scene.next_round()
        (oak.folder / "spoil").write_text(kind)
        scene.close(scene.round)
        (oak.folder / "spoil").write_text("")

    return [Case(f"a reply with {what}", inject, expect=expect)]


def revoked(scene: Scene) -> None:
    """Revoke a plant while it trains, which takes longer than the command."""
    with standing_still(scene, "worker"):
        scene.centre.command("revoke", str(scene.centre.folder), "ash", "--reason", "a test")


def readmitted(scene: Scene) -> str:
    """Let the revoked plant join again, with a new link key."""
    plant, key = scene.plant, scene.plant.folder / "link/link.pub"
    before = key.read_text()
    plant.stop()
    token = scene.centre.ask("readmit", "ash")["token"]
    plant.command("join", "--token", token, "--dir", str(plant.folder), "--readmitted")
    plant.start()
    wait_connected(scene.centre, sorted(scene.plants))
    return "connected, new link key" if key.read_text() != before else "the same link key"


BAD = "committed, 2 of 3.*oak (rejected|failed)"
CASES = [
    hung("worker"),
    recovered("training hangs"),
    hung("daemon"),
    Case("the plant whose daemon hung is back", connected, expect="connected", alone=True),
    recovered("the daemon hangs"),
    Case("a plant's machine dies for good: training", dies, expect="committed, 2 of 3.*ash"),
    Case("the round after: a dead plant", lambda s: None, expect="^committed, 2 of 3 replies$"),
    Case("the dead plant is back", returns, expect="connected", alone=True),
    recovered("the dead plant is back"),
    Case("two of three plants away", below_quorum, expect="skipped, 1 of 3|skipped, 0 of 3"),
    *spoiled("nan", "NaN", BAD),
    *spoiled("form", "a value too few", BAD),
    *spoiled("names", "other tensors", BAD),
    *spoiled("negative", "a negative weight", BAD),
    *spoiled("huge", "a huge weight", f"{BAD}|committed, 3 of 3"),
    *spoiled("norm", "a huge norm", BAD),
    *spoiled("oversized", "forty times the values", "committed, 2 of 3.*oak failed size: "),
    *spoiled("other", "another plant's name", BAD),
    recovered("hostile replies"),
    Case("a plant is revoked while it trains", revoked, expect="committed, 2 of 3"),
    Case("the revoked plant is readmitted", readmitted, expect="connected, new", alone=True),
    recovered("readmission"),
]
