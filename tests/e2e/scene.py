"""One long run, disturbed round by round: what `benchmarks/faults.py` injects faults into.

Every case takes the next round. It injects its fault at a moment of that round and sees how the
round ends. Releases are a chain, so when all is over the hashes of all rounds are compared with
those of an undisturbed run at once: one bit lost in any of them would show in all that follow.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.harness import Centre, Plant
from tests.e2e.moments import at, round_closed
from tests.e2e.processes import wait_for

NAMES = ("ash", "elm", "oak")
ROUND = 1800.0  #: seconds that a round may take in all, faults included


@dataclass
class Scene:
    """A deployment with a run in progress.

    Attributes
    ----------
    round : that the case of the moment disturbs.
    """

    root: Path
    centre: Centre
    plants: dict[str, Plant]
    run: str
    round: int = 0

    @property
    def plant(self) -> Plant:
        """The plant that suffers."""
        return self.plants["ash"]

    def next_round(self) -> int:
        """Take the next round, once all that have begun are over."""
        events = self.centre.events(self.run)
        begun = max((e["round"] for e in events if e["event"] == "RoundStarted"), default=0)
        if begun:
            at(round_closed(self.centre, self.run, begun), what="end of round", seconds=ROUND)
        self.round = begun + 1
        return self.round

    def close(self, number: int) -> dict[str, Any]:
        """Wait until a round is over, and return how, with the replies as words by plant."""
        return wait_for(
            lambda: self.centre.rounds(self.run).get(number),
            what=f"end of round {number}",
            seconds=ROUND,
        )

    def whole(self, closed: dict[str, Any]) -> bool:
        """Return whether every reply was counted."""
        done = [plant for plant, how in closed["replies"].items() if how == "done"]
        return closed["outcome"] == "committed" and len(done) == len(self.plants)

    def words(self, closed: dict[str, Any]) -> str:
        """Return what became of a round, in words."""
        others = {plant: how for plant, how in closed["replies"].items() if how != "done"}
        done = len(closed["replies"]) - len(others)
        why = f" ({closed['reason']})" if closed["reason"] else ""
        counted = f"{closed['outcome']}, {done} of {len(self.plants)} replies{why}"
        return "; ".join([counted, *(f"{plant} {how}" for plant, how in sorted(others.items()))])


@dataclass(frozen=True)
class Case:
    """A fault.

    Attributes
    ----------
    name : as in the table, unique.
    inject : does it, in the round of the scene; returns once it is over, and may say what it saw.
    expect : what the words on the outcome must match; "" means that every reply was counted, so
        that the release is that of an undisturbed run.
    alone : it takes no round; ``inject`` says what was seen.
    """

    name: str
    inject: Callable[[Scene], str | None]
    expect: str = ""
    alone: bool = False


@dataclass(frozen=True)
class Seen:
    """What became of a case; ``release`` is the hash in force after its round."""

    name: str
    outcome: str
    seconds: float
    ok: bool
    round: int = 0
    release: str = ""


def play(scene: Scene, case: Case) -> Seen:
    """Inject a fault and say what was seen."""
    started = time.monotonic()
    if case.alone:
        said = case.inject(scene) or ""
        ok = bool(re.search(case.expect, said))
        return Seen(name=case.name, outcome=said, seconds=since(started), ok=ok)
    scene.next_round()
    said = case.inject(scene) or ""
    closed = scene.close(scene.round)
    outcome = f"{said}; {scene.words(closed)}" if said else scene.words(closed)
    ok = re.search(case.expect, outcome) if case.expect else scene.whole(closed)
    return Seen(
        name=case.name,
        outcome=outcome,
        seconds=since(started),
        ok=bool(ok),
        round=scene.round,
        release=closed["result"],
    )


def since(started: float) -> float:
    return round(time.monotonic() - started, 1)
