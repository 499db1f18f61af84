"""Seconds from order to reply of a 45 MB model at three plants, apart from training.

    python benchmarks/deployment.py                 # ours and plain Flower, in turns
    python benchmarks/deployment.py --memory 50     # memory of the daemons over 50 rounds
    python benchmarks/deployment.py --quick         # a 5 MB model, one round each: does it run?

All on loopback, over TLS, with SuperNode authentication, the same edge, one centre and three nodes.
*plain* is plain Flower with a client that does next to nothing, 62 arrays, its own entry points and
polls (`benchmarks/plain_flower.py`); *plain, lean* the same with an entry point without needless
imports. *transferline* is the product as installed: signatures, bridge, daemon, ledger, outbox;
*transferline, stock* the same, but its link starts Flower's own SuperExec and ``flwr-clientapp``.

All four are up at the same time, and hold their rounds in turns, so that each has met the same
machine. Seconds are what each ServerApp measures, from before it sends to when the last reply is
read. Ours trains, one step on a few small images; its seconds are taken off, as the plant measured
them. Ratios are of medians over the turns. Processor seconds are of all processes of a system, by a
control group of its own (only as root, where there is one); what ours trains is in there.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))

from benchmarks.plain_flower import Reference, plain_flower  # noqa: E402  the checkout, see above
from tests.e2e.harness import Centre, Plant, deployment, wait_connected  # noqa: E402
from tests.e2e.processes import wait_for  # noqa: E402

PLANTS = ("ash", "elm", "oak")
LOOK = 0.03  #: seconds between two looks at what happens

FEDERATION = """\
name = "acme"
backbone = "{backbone}"
weights = "none"
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
image_size = 32
method = "fedper"
rounds = {rounds}
local_epochs = 1
local_steps = 1
min_plants = 3
round_deadline = 900.0
device = "cpu"
threads = 1

[training]
epochs = 1
head_epochs = 1
"""

#: Where the seconds of a reply go, in this order.
PARTS = (
    "poll",  # order out, until the SuperNode begins to receive: to SuperLink, SuperNode's poll
    "down",  # until the bridge's process is started: edge to SuperNode, SuperExec's poll
    "start",  # until the daemon has the order: process start, SuperNode to bridge, socket
    "daemon",  # in the daemon, but for training: seal, ledger, worker, personal store, outbox
    "back",  # until the SuperNode begins to send: socket, bridge to SuperNode
    "up",  # until the reply is counted at the centre: edge, SuperLink, ServerApp
)
STOCK = ("flower-superexec", "flwr-clientapp")  #: what the link has ones of its own for
GROUPS = Path("/sys/fs/cgroup/cpuacct")
PLAIN, LEAN, OURS, OURS_STOCK = "plain", "plain, lean", "transferline", "transferline, stock"


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE.parent / "out/benchmarks/deployment.json")
    parser.add_argument("--rounds", type=int, default=5, help="turns, a round of each")
    parser.add_argument("--only", default="", help="systems, by semicolon, instead of all four")
    parser.add_argument("--memory", type=int, default=0, metavar="ROUNDS", help="memory instead")
    parser.add_argument("--quick", action="store_true", help="a small model, one round each")
    given = parser.parse_args()
    backbone = "shufflenet_v2_x0_5" if given.quick else "resnet18"
    rounds = 1 if given.quick else given.rounds
    systems = given.only.split(";") if given.only else [PLAIN, OURS, LEAN, OURS_STOCK]
    given.out.parent.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"cores": os.cpu_count(), "plants": len(PLANTS), "rounds": rounds}
    with tempfile.TemporaryDirectory(prefix="tl-") as place:
        data = Path(place) / "data"
        write_images(data)
        if given.memory:
            found["memory"] = memory(Path(place), data=data, rounds=given.memory)
            show_memory(found["memory"])
        else:
            found |= compare(
                Path(place), data=data, rounds=rounds, backbone=backbone, systems=systems
            )
            show(found)
    name = given.out.with_name("deployment-memory.json") if given.memory else given.out
    name.write_text(json.dumps(found, indent=2) + "\n")
    print(f"written to {name}")


Measure = Callable[[], dict[str, Any]]


def compare(
    place: Path, *, data: Path, rounds: int, backbone: str, systems: Sequence[str]
) -> dict[str, Any]:
    """Start the systems, and let them hold rounds in turns; the first turn is left out."""
    found: dict[str, Any] = {}
    with ExitStack() as stack:
        measures: dict[str, Measure] = {}
        for name in systems:
            say(f"{name} is started")
            home = place / re.sub(r"\W+", "-", name)
            group = stack.enter_context(counted(home.name))
            if name in (PLAIN, LEAN):
                reference = stack.enter_context(
                    plain_flower(home, nodes=len(PLANTS), lean=name == LEAN)
                )
                measures[name] = with_processor(group, lambda r=reference: plain_round(r))
            else:
                home.mkdir()
                ours = stack.enter_context(
                    deployment(
                        home,
                        federation=FEDERATION.format(backbone=backbone, rounds=1),
                        data=data,
                        names=PLANTS,
                        proxy=False,
                    )
                )
                if name == OURS_STOCK:
                    use_stock(*ours)
                measures[name] = with_processor(group, lambda o=ours: our_round(*o))
            leave_groups()
        for turn in range(rounds + 1):
            for name, measure in measures.items():
                one = measure()
                say(f"turn {turn}, {name}: {one['seconds']:.1f} s, {one['processor']} of processor")
                if turn:
                    found.setdefault(name, []).append(one)
    return {"measured": {name: summary(turns) for name, turns in found.items()}}


def summary(turns: list[dict[str, Any]]) -> dict[str, Any]:
    """Return medians over the turns, and the turns."""
    parts = [reply for turn in turns for reply in turn.get("replies", ())]
    return {
        "seconds": round(statistics.median(turn["seconds"] for turn in turns), 2),
        "processor": median_of(turn["processor"] for turn in turns),
        "parts": {
            part: round(statistics.median(reply[part] for reply in parts), 2)
            for part in PARTS
            if parts
        },
        "turns": turns,
    }


def median_of(values: Iterable[float | None]) -> float | None:
    """Return the median of what is known, None where nothing is."""
    known = [value for value in values if value is not None]
    return round(statistics.median(known), 2) if known else None


def say(text: str) -> None:
    """Say how far it is."""
    print(text, file=sys.stderr, flush=True)


# -- processor seconds -----------------------------------------------------------------------------


@contextmanager
def counted(name: str) -> Iterator[Path | None]:
    """Move this process into a new control group, for what it starts next; None without rights."""
    group = GROUPS / f"transferline-{name}-{os.getpid()}"
    try:
        group.mkdir()
        (group / "cgroup.procs").write_text(str(os.getpid()))
    except OSError:
        yield None
        return
    try:
        yield group
    finally:
        leave_groups()
        with suppress(OSError):
            group.rmdir()


def leave_groups() -> None:
    """Move this process back to the root group."""
    with suppress(OSError):
        (GROUPS / "cgroup.procs").write_text(str(os.getpid()))


def with_processor(group: Path | None, measure: Measure) -> Measure:
    """Return a measure that also says the processor seconds of the group meanwhile."""

    def used() -> float | None:
        return None if group is None else int((group / "cpuacct.usage").read_text()) / 1e9

    def measured() -> dict[str, Any]:
        before = used()
        found = measure()
        after = used()
        spent = None if before is None or after is None else round(after - before, 2)
        return {**found, "processor": spent}

    return measured


def plain_round(reference: Reference) -> dict[str, Any]:
    """Hold a round of plain Flower."""
    return {"seconds": reference.measure(rounds=1, nodes=len(PLANTS))[0]}


# -- ours ------------------------------------------------------------------------------------------


@dataclass
class Trace:
    """When what happened at one plant, in seconds since 1970, each in order."""

    receiving: list[float] = field(default_factory=list)
    started: list[float] = field(default_factory=list)
    sending: list[float] = field(default_factory=list)


def our_round(centre: Centre, plants: dict[str, Plant]) -> dict[str, Any]:
    """Hold a run of one round; return its seconds and where they went. Its adoption is left out."""
    with traced(plants) as traces:
        run = centre.run("--rounds", "1")
        order, arrived = follow(centre, run)
    replies = [
        split(order=order, arrived=order + arrived[name],
              answer=answer_of(plants[name], run), trace=traces[name]) | {"plant": name}
        for name in PLANTS
    ]  # fmt: skip
    assert centre.finish(run) == "finished", centre.output()
    return {"seconds": max(reply["seconds"] for reply in replies), "replies": replies}


def follow(centre: Centre, run: str) -> tuple[float, dict[str, float]]:
    """Return when the order of a run's round went out, and each reply's seconds from there on."""
    out: list[float] = []

    def look() -> bool:
        now, events = time.time(), centre.events(run)
        if not out and any(event["event"] == "RoundStarted" for event in events):
            out.append(now)
        return any(event["event"] == "RoundClosed" for event in events)

    wait_for(look, what="a round", seconds=600.0, period=LOOK)
    replies = [event for event in centre.events(run) if event["event"] == "ReplyArrived"]
    first = [event for event in replies if event["round"] == 1]
    assert [event["outcome"] for event in first] == ["done"] * len(PLANTS), first
    return out[0], {event["plant"]: event["seconds"] for event in first}


def split(
    *, order: float, arrived: float, answer: dict[str, Any], trace: Trace
) -> dict[str, float]:
    """Say where the seconds of one reply went."""
    training = sum(answer["phases"].values())
    received, answered = answer["at"] - answer["seconds"], answer["at"]
    times = [
        order,
        trace.receiving[0],
        trace.started[0],
        received,
        answered - training,
        trace.sending[0] - training,
        arrived - training,
    ]
    parts = {
        part: round(end - start, 3)
        for part, (start, end) in zip(PARTS, pairwise(times), strict=True)
    }
    seconds = round(arrived - order - training, 3)
    return {**parts, "training": round(training, 3), "seconds": seconds}


def answer_of(plant: Plant, run: str) -> dict[str, Any]:
    """Return what the plant's ledger says of its answer in a run's first round."""
    query = "SELECT at, seconds, head FROM answers WHERE run = ? AND round = 1 AND repeated = 0"
    with closing(sqlite3.connect(plant.folder / "ledger.db")) as database:
        ((at, seconds, head),) = database.execute(query, (run,)).fetchall()
    return {
        "at": datetime.fromisoformat(at).timestamp(),
        "seconds": seconds,
        "phases": json.loads(head)["seconds"],
    }


def use_stock(centre: Centre, plants: dict[str, Plant]) -> None:
    """Let each link start Flower's own SuperExec and ``flwr-clientapp`` from now on."""
    for plant in plants.values():
        for name in STOCK:
            (plant.folder / "link/bin" / name).unlink()
        (supernode,) = plant.processes("supernode")
        supernode.terminate()
        psutil.wait_procs([supernode], timeout=30)
        wait_for(lambda p=plant: p.processes("supernode"), what="the next SuperNode", seconds=60)
        wait_for(
            lambda p=plant: p.ask("status")["link"]["state"] == "connected",
            what="its connection",
            seconds=120,
            period=1.0,
        )
    wait_connected(centre, PLANTS)


@contextmanager
def traced(plants: dict[str, Plant]) -> Iterator[dict[str, Trace]]:
    """Watch the plants' SuperNodes and bridges meanwhile."""
    traces = {name: Trace() for name in plants}
    end = threading.Event()
    threads = [
        threading.Thread(target=watch, args=(plant, traces[name], end))
        for name, plant in plants.items()
    ]
    for thread in threads:
        thread.start()
    try:
        yield traces
    finally:
        end.set()
        for thread in threads:
            thread.join()


def watch(plant: Plant, trace: Trace, end: threading.Event) -> None:
    """Note when the SuperNode says that it receives and sends, and when bridges start."""
    parents = [process.pid for process in plant.processes("superexec")]
    seen: set[int] = set(parents).union(*(children(pid) for pid in parents))
    parents += [pid for pid in seen if pid not in parents]  # among them the nursery
    with plant.link_log().open(errors="replace") as log:
        log.seek(0, os.SEEK_END)
        rest = ""
        while not end.wait(LOOK):
            rest += log.read()
            *lines, rest = rest.split("\n")
            for line in lines:
                if re.search(r"Receiving: train", line):
                    trace.receiving.append(time.time())
                elif re.search(r"Sending: train", line):
                    trace.sending.append(time.time())
            for pid in set().union(*(children(pid) for pid in parents)) - seen:
                seen.add(pid)
                trace.started.append(time.time())


def children(pid: int) -> set[int]:
    """Return the children of a process; quicker than psutil, which reads all of /proc."""
    try:
        return {int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    except OSError:
        return set()


# -- memory ----------------------------------------------------------------------------------------


def memory(place: Path, *, data: Path, rounds: int) -> dict[str, Any]:
    """Hold rounds of a small model and return the resident memory of each daemon and worker."""
    home = place / "memory"
    home.mkdir()
    federation = FEDERATION.format(backbone="shufflenet_v2_x0_5", rounds=rounds)
    found: dict[str, list[list[float]]] = {f"{n} {r}": [] for n in PLANTS for r in ROLES}
    with deployment(home, federation=federation, data=data, names=PLANTS, proxy=False) as (
        centre,
        plants,
    ):
        run = centre.run()
        for number in range(1, rounds + 1):
            wait_for(
                lambda number=number: number in centre.rounds(run),
                what=f"round {number}",
                seconds=300,
            )
            for name, plant in plants.items():
                for role in ROLES:
                    process, *_ = plant.processes(role)
                    found[f"{name} {role}"].append([number, process.memory_info().rss / 1e6])
            print(f"round {number} of {rounds}", file=sys.stderr, flush=True)
    return found


ROLES = ("daemon", "worker")


# -- the rest --------------------------------------------------------------------------------------


def write_images(root: Path) -> None:
    """Write made-up plants: two classes of eight grey images each."""
    rng = np.random.default_rng(0)
    for plant in PLANTS:
        for level, name in ((80, "dark"), (170, "light")):
            folder = root / plant / name
            folder.mkdir(parents=True)
            for number in range(8):
                grey = rng.normal(level, 12, (32, 32, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(grey).save(folder / f"{number}.png")


def show(found: dict[str, Any]) -> None:
    """Print seconds, ratios and parts."""
    measured = found["measured"]
    print(f"{'':22}{'seconds':>9}{'processor':>11}   turns")
    for name, one in measured.items():
        processor = "" if one["processor"] is None else f"{one['processor']:.1f}"
        turns = ", ".join(f"{turn['seconds']:.1f}" for turn in one["turns"])
        print(f"{name:22}{one['seconds']:9.1f}{processor:>11}   {turns}")
    for name in (OURS, OURS_STOCK):
        for reference in (PLAIN, LEAN):
            if name in measured and reference in measured:
                ratio, least, most = ratios(measured[name], measured[reference])
                print(f"{name} / {reference}: {ratio:.2f} (turns {least:.2f} to {most:.2f})")
        if name in measured:
            parts = measured[name]["parts"]
            print(f"{name}, medians: " + ", ".join(f"{p} {parts[p]:.2f} s" for p in PARTS))


def ratios(one: dict[str, Any], other: dict[str, Any]) -> tuple[float, float, float]:
    """Return the ratio of the medians, and least and most of the turns'."""
    each = [a["seconds"] / b["seconds"] for a, b in zip(one["turns"], other["turns"], strict=True)]
    return one["seconds"] / other["seconds"], min(each), max(each)


def show_memory(found: dict[str, list[list[float]]]) -> None:
    """Print the memory after a few rounds and at the end."""
    print(f"{'':14}{'round 5':>9}{'half':>9}{'last':>9}  MB")
    for name, rows in found.items():
        places = (min(4, len(rows) - 1), len(rows) // 2, -1)
        print(f"{name:14}" + "".join(f"{rows[place][1]:9.1f}" for place in places))


if __name__ == "__main__":
    main()
