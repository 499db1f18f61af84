"""Peak memory of combining 8 and 32 replies of 45 MB: ours against flwr's FedAvg.

Each measurement is a process of its own: its peak resident size, less what it was before the first
reply. Replies to ours come from a generator, as a Fleet yields them; flwr's ``aggregate_train``
takes all messages at once, as its ``Grid.send_and_receive`` returns them.

    python benchmarks/aggregation.py [--out out/benchmarks/aggregation.json]

Reference, flwr 1.41: 500 MB for 8 replies, 1526 MB for 32.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PLANTS = (8, 32)
SIZE = 11_200_000


def main() -> None:
    """Measure each in a process of its own, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE.parent / "out/benchmarks/aggregation.json")
    parser.add_argument("--size", type=int, default=SIZE, help="float32 values in a reply")
    parser.add_argument("--measure", nargs=2, metavar=("WHAT", "PLANTS"), help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="replies of a tenth of the size")
    given = parser.parse_args()
    if given.quick:
        given.size //= 10
    if given.measure:
        what, plants = given.measure
        print(json.dumps(measure(what, plants=int(plants), size=given.size)))
        return
    rows = [
        measure_apart(what, plants=plants, size=given.size)
        for plants in PLANTS
        for what in ("transferline", "flwr")
    ]
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps({"reply_bytes": 4 * given.size, "rows": rows}, indent=2) + "\n")
    print(f"{'':14}{'replies':>8}{'peak, MB':>10}{'seconds':>9}")
    for row in rows:
        print(
            f"{row['what']:14}{row['plants']:8}{row['peak_bytes'] / 1e6:10.0f}{row['seconds']:9.1f}"
        )
    print(f"written to {given.out}")


def measure_apart(what: str, *, plants: int, size: int) -> dict[str, Any]:
    """Measure in a fresh process, because a peak never falls."""
    print(f"{what}, {plants} replies ...", file=sys.stderr, flush=True)
    command = [sys.executable, __file__, "--size", str(size), "--measure", what, str(plants)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=HERE.parent)
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def measure(what: str, *, plants: int, size: int) -> dict[str, object]:
    """Return peak memory above the start (bytes) and seconds of one aggregation."""
    combine = {"transferline": ours, "flwr": flower}[what](plants, size)
    before, started = peak(), time.perf_counter()
    combine()
    seconds = time.perf_counter() - started
    return {
        "what": what,
        "plants": plants,
        "peak_bytes": peak() - before,
        "seconds": round(seconds, 2),
    }


def peak() -> int:
    """Return the largest resident size of this process so far, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def ours(plants: int, size: int) -> Callable[[], object]:
    """Prepare the path of `server.federation`: admission, then the streaming mean."""
    sys.path.insert(0, str(HERE.parent))
    import numpy as np  # noqa: PLC0415  each measurement loads only its own side

    from common.config import FederationConfig  # noqa: PLC0415
    from common.orders import Kind, Order, Outcome, Release, Reply  # noqa: PLC0415
    from common.update import Schema  # noqa: PLC0415
    from server.aggregation.rules import rule_for  # noqa: PLC0415
    from server.tally import Tally  # noqa: PLC0415

    config, schema = FederationConfig(), Schema({"backbone.all": (size,)})
    names = tuple(f"plant{number:02d}" for number in range(plants))
    order = Order(
        run="benchmark",
        round=1,
        kind=Kind.TRAIN,
        release="0" * 64,
        cohort=names,
        deadline=600.0,
        config=config,
    )
    nothing = Release(number=0, schema=Schema({}), vector=np.zeros(0, np.float32))

    def arriving() -> Iterator[Reply]:
        for seed, name in enumerate(names):
            draws = np.random.default_rng(seed)
            yield Reply(
                plant=name,
                run=order.run,
                round=1,
                release=order.release,
                outcome=Outcome.DONE,
                payload=(draws.random(size, dtype=np.float32) * np.float32(1e-3)).tobytes(),
                schema=schema.digest,
                weight=50 + seed,
            )

    def combine() -> object:
        rule = rule_for(config.server, size=size, plants=plants)
        tally = Tally(
            order,
            nothing,
            schema=schema,
            config=config,
            count=lambda reply, update: rule.add(update, plant=reply.plant, weight=reply.weight),
        )
        for reply in arriving():
            if tally.take(reply)[0] != "done":
                raise SystemExit("a reply was refused")
        return rule.result()

    return combine


def flower(plants: int, size: int) -> Callable[[], object]:
    """Prepare flwr's FedAvg on messages, one array each."""
    import numpy as np  # noqa: PLC0415
    from flwr.app import (  # noqa: PLC0415
        Array,
        ArrayRecord,
        Message,
        MessageType,
        MetricRecord,
        RecordDict,
    )
    from flwr.serverapp.strategy import FedAvg  # noqa: PLC0415
    from flwr.supercore.task_identity import TaskIdentity  # noqa: PLC0415

    # A message can only be made inside a task; there is no public way to say so.
    TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1
    strategy = FedAvg(weighted_by_key="num-examples")

    def reply(seed: int) -> Message:
        vector = np.random.default_rng(seed).random(size, dtype=np.float32) * np.float32(1e-3)
        content = RecordDict(
            {
                "arrays": ArrayRecord({"all": Array(vector)}),
                "metrics": MetricRecord({"num-examples": 50 + seed}),
            }
        )
        asked = Message(RecordDict(), dst_node_id=seed + 1, message_type=MessageType.TRAIN)
        return Message(content, reply_to=asked)

    def combine() -> object:
        arrays, _ = strategy.aggregate_train(1, [reply(seed) for seed in range(plants)])
        if arrays is None:
            raise SystemExit("flwr counted no reply")
        return arrays

    return combine


if __name__ == "__main__":
    main()
