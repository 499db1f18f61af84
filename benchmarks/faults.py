"""Injects every fault of a list into a real deployment and writes down what was seen.

    python benchmarks/faults.py                       # all groups; continues where it stopped
    python benchmarks/faults.py --group processes     # one group
    python benchmarks/faults.py --case SuperLink      # cases whose name matches, once more
    python benchmarks/faults.py --report              # only write docs/reliability.md again

A centre and three plants run as real processes, each plant behind a TCP proxy of its own, with a
long run of rounds in progress; every case disturbs a round. See `tests.e2e.scene`. What was seen is
kept in ``out/benchmarks/faults/<group>.json`` after each case, so groups may run side by side.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))

from common.files import write_atomic  # noqa: E402
from tests.e2e.faults import clocks, damage, disk, identity, kills, network, plants  # noqa: E402
from tests.e2e.harness import deployment  # noqa: E402
from tests.e2e.made_up import write_plants  # noqa: E402
from tests.e2e.moments import at, round_closed  # noqa: E402
from tests.e2e.processes import LateError  # noqa: E402
from tests.e2e.scene import NAMES, Case, Scene, Seen, play  # noqa: E402
from tests.e2e.undisturbed import settings, undisturbed  # noqa: E402

TEMPORARY = re.compile(r"/\S*/tl-\w+/")  #: folder of a deployment
OUT = HERE.parent / "out/benchmarks/faults"
EXPECTED = OUT / "undisturbed.json"
DOCS = HERE.parent / "docs/reliability.md"
MANY = 500  #: rounds of the run, which is stopped when the cases are over
STEPS = 30
PATIENCE = 36_000.0  #: seconds of a round that nothing disturbs, however busy the machine


@dataclass(frozen=True)
class Group:
    """Cases that share a deployment.

    Attributes
    ----------
    plants, deadline : quorum, and seconds of a round.
    same : rounds in which every reply was counted are compared with the undisturbed run's.
    small_disks : centre and one plant get a small tmpfs.
    """

    title: str
    cases: Sequence[Case]
    plants: int = 3
    deadline: float = 900.0
    same: bool = True
    small_disks: bool = False


GROUPS = {
    "processes": Group("Processes killed", kills.CASES),
    "network": Group("Network", network.CASES),
    "plants": Group("Plants", plants.CASES, plants=2, deadline=plants.DEADLINE, same=False),
    "disk": Group("Full disks", disk.CASES, plants=2, deadline=300.0, same=False, small_disks=True),
    "damage": Group("Damaged files", damage.CASES, plants=2, deadline=300.0, same=False),
    "clocks": Group("Clocks", clocks.CASES),
    "identity": Group("Identity", identity.CASES, same=False),
}


def main() -> None:
    """Play what is left, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--group", choices=GROUPS, help="only this group")
    parser.add_argument("--case", default="", help="only cases whose name matches this, again")
    parser.add_argument("--report", action="store_true", help="only write the page")
    parser.add_argument("--keep", type=Path, help="folder for the deployments, which is kept")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped; start again to continue"))
    seen = read()
    for name, group in GROUPS.items():
        if given.report or given.group not in (None, name):
            continue
        chosen = [case for case in group.cases if re.search(given.case, case.name)]
        left = chosen if given.case else [c for c in chosen if c.name not in seen.get(name, {})]
        if left:
            play_group(name, group, left, keep=given.keep)
    seen = read()  # other groups may have been played meanwhile
    compare(seen)
    DOCS.write_text(page(seen))
    print(f"written to {DOCS}")


def play_group(name: str, group: Group, cases: Sequence[Case], *, keep: Path | None) -> None:
    """Play cases in one deployment; one that got stuck ends it."""
    with staged(group, keep=keep and keep / name) as scene:
        for number, case in enumerate(cases, start=1):
            print(f"{name} {number}/{len(cases)}: {case.name} ...", file=sys.stderr, flush=True)
            try:
                found = play(scene, case)
            except (LateError, AssertionError, OSError) as error:
                text = " ".join(str(error).split())[:300]
                found = Seen(name=case.name, outcome=f"STUCK: {text}", seconds=0.0, ok=False)
            beside = {"day": time.strftime("%Y-%m-%d"), "chain": scene.run}
            keep_row(name, case, asdict(found) | beside)
            print(f"    {found.outcome} ({found.seconds} s)", file=sys.stderr, flush=True)
            if found.outcome.startswith("STUCK"):
                return


@contextmanager
def staged(group: Group, *, keep: Path | None) -> Iterator[Scene]:
    """Start a deployment with a run in progress; end it."""
    with ExitStack() as stack:
        if keep is None:
            root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tl-")))
        else:
            root = keep.absolute()
            root.mkdir(parents=True)
        write_plants(root / "data")
        if group.small_disks:
            stack.enter_context(disk.small_disks(root))
        federation = settings(
            rounds=MANY, steps=STEPS, plants=group.plants, deadline=group.deadline
        )
        centre, found = stack.enter_context(
            deployment(root, federation=federation, data=root / "data", names=NAMES)
        )
        if group.small_disks:
            found["ash"].replace(r"^disk_free = .*$", "disk_free = 0.0")
        scene = Scene(root=root, centre=centre, plants=found, run=centre.run())
        at(round_closed(centre, scene.run, 1), what="end of round 1")
        yield scene


def compare(seen: dict[str, Any]) -> None:
    """Compare the releases with those of a run that nothing disturbs, as many rounds as it takes.

    A release depends on seed, round and the releases before it, so one run serves all deployments
    in which every reply of every round was counted; after a round that was not, none is compared.
    """
    compared = [name for name, group in GROUPS.items() if group.same]
    chains = [one for name in compared for one in seen.get(name, {}).values()]
    last = max((one["round"] for one in chains), default=0)
    known = json.loads(EXPECTED.read_text()) if EXPECTED.exists() else {}
    if str(last) not in known and last:
        print(f"{last} rounds undisturbed ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix="tl-") as place:
            write_plants(Path(place) / "data")
            federation = settings(rounds=last, steps=STEPS, deadline=PATIENCE)
            known = undisturbed(
                Path(place) / "run", federation=federation, data=Path(place) / "data", names=NAMES
            )
        EXPECTED.write_text(json.dumps(known, indent=2) + "\n")
    expected = {int(number): release for number, release in known.items()}
    broken = {
        one.get("chain", ""): one["round"] for one in chains if one["release"] and not one["ok"]
    }
    for one in chains:
        if one["release"] and one["round"] < broken.get(one.get("chain", ""), one["round"] + 1):
            one["same"] = expected.get(one["round"]) == one["release"]


def read() -> dict[str, Any]:
    """Return what was seen so far, by group."""
    files = {name: OUT / f"{name}.json" for name in GROUPS}
    return {name: json.loads(path.read_text()) for name, path in files.items() if path.exists()}


def keep_row(name: str, case: Case, row: dict[str, Any]) -> None:
    """Keep what was seen of a case beside what others may have kept meanwhile."""
    rows = read().get(name, {}) | {case.name: row}
    write_atomic(OUT / f"{name}.json", f"{json.dumps(rows, indent=2)}\n".encode())


HEAD = """\
# Reliability

## What holds

- **Any process may be killed at any moment**, at the centre or at a plant, and the run goes on by
  itself. Only `up` needs somebody to start it again: systemd, a container's restart policy. Meant
  for every process and moment; tried for those in the table, with one plant's processes at a time.
- **The result is the same.** A round in which every plant's reply was counted ends with the same
  release, bit for bit, as if nothing had happened (on CPU, for a fixed `threads`).
- **Nothing is counted twice and nothing is lost.** The same order again gets the filed answer; a
  round is committed in one transaction or not at all; a personal model is never overwritten.
- **No round waits for ever.** A plant that is slow, hung or hostile costs the round its own reply
  and no more; below the quorum the round is skipped, with the model unchanged, and says why.
- **A plant that is gone costs one round some minutes.** The centre notices within a minute, keeps
  its place for six more, and asks only who is there from the next round on. A link whose daemon is
  silent for two minutes signs off by itself. Who comes back takes part in the next round.
- **A line may be away for five minutes** without costing anybody a round, at the plant or at the
  centre (tried: cut for five minutes, swallowing everything for one).
- **Damage is named, not used**: a file whose hash is wrong is refused in one line that says what to
  restore; in place of a plant's part of the last round that before it is used, and a filed answer
  is trained again.
- **A bad reply never ends a round**: wrong values, shapes, names, sizes, weights and senders are
  refused and counted with their reason.

Not covered: a disk that dies with the folder on it (back up the centre's folder and each plant's;
docs/deployment.md), and a machine whose clock is off by more than the tolerance of certificates.

## How it was tried

The tables below are written by `benchmarks/faults.py`: a centre and three plants as real processes
on one machine of two cores (SuperLink, nginx, ServerApp; daemon, training process, link, SuperNode,
bridge), TLS, enrolment and node authentication, each plant behind a TCP proxy of its own. A run of
rounds is in progress; each case disturbs one round. The plants are made up (`tests/e2e/made_up.py`:
14 drawn images of 32 by 32 pixels a class), so that a round takes seconds: what is tried here is
processes and lines, not learning; the same kills on images of three real products are
`tests/e2e/test_deployment.py`, under masks on four of them `tests/e2e/test_secure_sums.py`.
`up` is started again after a kill, as systemd would; everything else must come back by itself.

*The centre's network* is that of all plants at once, before its edge; there is no proxy between the
edge and SuperLink, which are on one machine. *A reply cut in the middle* was played at one plant.

*Certificates*: the rows of the last table show a plant's own daemon, which reads its certificate
when it starts. That the centre refuses such certificates is shown by unit tests: on replies
(`test_server_seals.py::test_a_reply_that_is_not_the_plants_does_not_count`, ended, foreign and of
before a new enrolment), on renewal (`test_server_renewal.py`:
`test_an_expired_certificate_is_not_renewed_not_even_a_little`,
`test_a_foreign_or_misused_certificate_is_not_renewed`), and of who was revoked
(`test_server_seals.py::test_who_was_revoked_meanwhile_does_not_count`). *Replays*: orders here, as
they were recorded between link and daemon; replies in `test_server_replay.py` and
`test_server_bounds.py::test_a_recorded_upload_is_worth_nothing_a_second_time`.

*Same release* compares the hash of the release after the round with that of the local simulation of
the same seed, which nothing disturbed; empty where replies may be missing by design, and after a
round of the same run that was not as expected. Seconds are from the case's begin to the end of its
round, on a machine that other work kept busy: the quickest round took {normal:.0f}. {count} cases,
{odd} not as expected, {missing} not run.

Not played: a kill of enrolment or metrics alone (they live in `up`), of the plant's processes at
*commit* and *between rounds*, of several plants' processes at once (but see *two of three plants
away*), and of PostgreSQL.

*SuperExec* is what Flower starts bridges and ServerApps by, the *nursery* the process that bridges
are forked from, a *keeper* stands between `up` and each program that it keeps running.

The named moments: *order sent* (the round's order goes out), *training* (the daemon has handed it
to the training process), *reply filed* (the answer is in the plant's outbox), *reply on its way*
(200 kB of 1.4 MB are up), *commit* (the release's file is there, its row may not be), *between
rounds*.
"""


def page(seen: dict[str, Any]) -> str:
    """Return docs/reliability.md."""
    known = {case.name for group in GROUPS.values() for case in group.cases}
    rows = [one for group in seen.values() for name, one in group.items() if name in known]
    quick = [one["seconds"] for one in rows if one["release"]]
    odd = sum(not one["ok"] for one in rows)
    parts = [
        HEAD.format(
            normal=min(quick, default=0.0),
            count=len(known),
            odd=odd or "none",
            missing=len(known) - len(rows) or "none",
        )
    ]
    for name, group in GROUPS.items():
        rows = seen.get(name, {})
        parts.append(f"\n## {group.title}\n\n")
        if not rows:
            parts.append("Not run yet.\n")
            continue
        parts.append("| injected | seen | seconds | same release | on |\n|---|---|---:|---|---|\n")
        for case in group.cases:
            if (one := rows.get(case.name)) is not None:
                same = {True: "yes", False: "**no**", None: ""}[one.get("same")]
                mark = "" if one["ok"] else "**not as expected:** "
                text = TEMPORARY.sub("", one["outcome"]).replace("|", "\\|")
                figures = f"{one['seconds']:.0f} | {same} | {one['day']}"
                parts.append(f"| {case.name} | {mark}{text} | {figures} |\n")
        left = [case.name for case in group.cases if case.name not in rows]
        if left:
            parts.append(f"\nNot run yet: {'; '.join(left)}.\n")
    return "".join(parts)


if __name__ == "__main__":
    main()
