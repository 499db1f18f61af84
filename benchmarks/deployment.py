"""Seconds from order to reply of a 45 MB model at three plants, apart from training.

    python benchmarks/deployment.py                 # ours and plain Flower, in turns
    python benchmarks/deployment.py --memory 50     # memory of the daemons over 50 rounds
    python benchmarks/deployment.py --quick         # a 5 MB model, one round each: does it run?

All on loopback, over TLS, with SuperNode authentication, one centre and three plants. *plain* is
plain Flower with a client that does next to nothing, 62 arrays, its stock entry point
(`benchmarks/plain_flower.py`), *plain, lean* the same with an entry point without needless imports.
*transferline* is the product as installed: signatures, bridge, daemon, ledger, outbox.

Ours trains, one step on a few small images; its seconds are taken off each reply, as the plant
measured them. Ratios are those of the last reply of a round, medians over the rounds.
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
from collections.abc import Iterator
from contextlib import closing, contextmanager
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

from benchmarks.plain_flower import plain_flower  # noqa: E402  the checkout, see above
from tests.e2e.harness import Centre, Plant, deployment  # noqa: E402
from tests.e2e.processes import wait_for  # noqa: E402

PLANTS = ("ash", "elm", "oak")
LOOK = 0.01  #: seconds between two looks at what happens

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
    "poll",  # order out, until the SuperNode begins to receive: upload to SuperLink, poll of 3 s
    "down",  # until the bridge's process is started: edge to SuperNode
    "start",  # until the daemon has the order: process start, imports, SuperNode to bridge, socket
    "daemon",  # in the daemon, but for training: seal, ledger, worker, personal store, outbox
    "back",  # until the SuperNode begins to send: socket, bridge to SuperNode, end of the process
    "up",  # until the reply is read at the centre: edge, SuperLink, ServerApp
)


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE.parent / "out/benchmarks/deployment.json")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each")
    parser.add_argument("--memory", type=int, default=0, metavar="ROUNDS", help="memory instead")
    parser.add_argument("--quick", action="store_true", help="a small model, one round each")
    given = parser.parse_args()
    backbone = "shufflenet_v2_x0_5" if given.quick else "resnet18"
    rounds = 1 if given.quick else given.rounds
    given.out.parent.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"cores": os.cpu_count(), "plants": len(PLANTS), "rounds": rounds}
    with tempfile.TemporaryDirectory(prefix="tl-") as place:
        data = Path(place) / "data"
        write_images(data)
        if given.memory:
            found["memory"] = memory(Path(place), data=data, rounds=given.memory)
            show_memory(found["memory"])
        else:
            found |= compare(Path(place), data=data, rounds=rounds, backbone=backbone)
            show(found)
    name = given.out.with_name("deployment-memory.json") if given.memory else given.out
    name.write_text(json.dumps(found, indent=2) + "\n")
    print(f"written to {name}")


def compare(place: Path, *, data: Path, rounds: int, backbone: str) -> dict[str, Any]:
    """Measure plain Flower, ours, and plain Flower with a lean entry point."""
    found: dict[str, Any] = {}
    for name, lean in (("plain", False), ("transferline", None), ("plain, lean", True)):
        print(f"{name} ...", file=sys.stderr, flush=True)
        home = place / name.replace(", ", "-")
        if lean is None:
            found[name] = ours(home, data=data, rounds=rounds, backbone=backbone)
            continue
        with plain_flower(home, nodes=len(PLANTS), lean=lean) as reference:
            times = reference.measure(rounds=rounds, nodes=len(PLANTS))
        found[name] = {"rounds": times}
    for name, one in found.items():
        one["seconds"] = round(statistics.median(one["rounds"]), 2)
        print(f"{name}: {one['seconds']} s", file=sys.stderr, flush=True)
    ratio = {
        name: round(found["transferline"]["seconds"] / found[name]["seconds"], 3)
        for name in ("plain", "plain, lean")
    }
    return {"measured": found, "ratio": ratio}


# -- ours ------------------------------------------------------------------------------------------


@dataclass
class Trace:
    """When what happened at one plant, in seconds since 1970, each in order."""

    receiving: list[float] = field(default_factory=list)
    started: list[float] = field(default_factory=list)
    sending: list[float] = field(default_factory=list)


def ours(home: Path, *, data: Path, rounds: int, backbone: str) -> dict[str, Any]:
    """Hold rounds and return their seconds and where they went.

    One round more than asked is held and left out: in the first each plant loads its data.
    """
    home.mkdir()
    federation = FEDERATION.format(backbone=backbone, rounds=rounds + 1)
    with deployment(home, federation=federation, data=data, names=PLANTS, proxy=False) as (
        centre,
        plants,
    ):
        with traced(plants) as traces:
            run, orders, arrived = follow(centre, rounds=rounds + 1)
        replies = [
            split(number, order=orders[number], arrived=arrived[number, name],
                  answer=answers(plants[name])[run, number], trace=traces[name])
            | {"plant": name, "round": number}
            for number in range(2, rounds + 2)
            for name in PLANTS
        ]  # fmt: skip
    numbers = sorted({reply["round"] for reply in replies})
    return {
        "rounds": [max(r["seconds"] for r in replies if r["round"] == n) for n in numbers],
        "parts": {part: statistics.median(reply[part] for reply in replies) for part in PARTS},
        "training": statistics.median(reply["training"] for reply in replies),
        "replies": replies,
    }


def follow(
    centre: Centre, *, rounds: int
) -> tuple[str, dict[int, float], dict[tuple[int, str], float]]:
    """Submit a run and return its name, when each order went out, and when each reply was in."""
    run = centre.run()
    orders: dict[int, float] = {}
    arrived: dict[tuple[int, str], float] = {}

    def look() -> bool:
        now, events = time.time(), centre.events(run)
        for event in events:
            if event["event"] == "RoundStarted":
                orders.setdefault(event["round"], now)
            elif event["event"] == "ReplyArrived":
                assert event["outcome"] == "done", event
                arrived.setdefault((event["round"], event["plant"]), now)
        return any(e["event"] == "RoundClosed" and e["round"] == rounds for e in events)

    wait_for(look, what=f"{rounds} rounds", seconds=240.0 * rounds, period=LOOK)
    return run, orders, arrived


def split(
    number: int, *, order: float, arrived: float, answer: dict[str, Any], trace: Trace
) -> dict[str, float]:
    """Say where the seconds of one reply went."""
    training = sum(answer["phases"].values())
    received, answered = answer["at"] - answer["seconds"], answer["at"]
    times = [
        order,
        trace.receiving[number - 1],
        trace.started[number - 1],
        received,
        answered - training,
        trace.sending[number - 1] - training,
        arrived - training,
    ]
    parts = {
        part: round(end - start, 3)
        for part, (start, end) in zip(PARTS, pairwise(times), strict=True)
    }
    seconds = round(arrived - order - training, 3)
    return {**parts, "training": round(training, 3), "seconds": seconds}


def answers(plant: Plant) -> dict[tuple[str, int], dict[str, Any]]:
    """Return what the plant's ledger says of each order that was answered."""
    query = "SELECT run, round, at, seconds, head FROM answers WHERE repeated = 0"
    with closing(sqlite3.connect(plant.folder / "ledger.db")) as database:
        rows = database.execute(query).fetchall()
    return {
        (run, number): {
            "at": datetime.fromisoformat(at).timestamp(),
            "seconds": seconds,
            "phases": json.loads(head)["seconds"],
        }
        for run, number, at, seconds, head in rows
    }


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
    (supernode,) = plant.processes("supernode")
    superexec = next(p for p in supernode.children() if "superexec" in " ".join(p.cmdline()))
    seen: set[int] = set()
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
            for pid in children(superexec.pid) - seen:
                seen.add(pid)
                trace.started.append(psutil.Process(pid).create_time())


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
    print(f"{'':16}{'seconds':>9}   rounds")
    for name, one in found["measured"].items():
        print(f"{name:16}{one['seconds']:9.1f}   {', '.join(f'{s:.1f}' for s in one['rounds'])}")
    for name, ratio in found["ratio"].items():
        print(f"transferline / {name}: {ratio:.2f}")
    parts = found["measured"]["transferline"]["parts"]
    print("transferline, medians: " + ", ".join(f"{p} {parts[p]:.2f} s" for p in PARTS))


def show_memory(found: dict[str, list[list[float]]]) -> None:
    """Print the memory after a few rounds and at the end."""
    print(f"{'':14}{'round 5':>9}{'half':>9}{'last':>9}  MB")
    for name, rows in found.items():
        places = (min(4, len(rows) - 1), len(rows) // 2, -1)
        print(f"{name:14}" + "".join(f"{rows[place][1]:9.1f}" for place in places))


if __name__ == "__main__":
    main()
