"""``transferline-plant`` that keeps what passes between link and daemon, byte for byte.

    python recording_plant.py up FOLDER                      # the real program, and a recorder
    python recording_plant.py again FOLDER RUN-ROUND SOCKET  # hands a recorded order in

What the link brought and what it took away lies in ``recorded/<run>-<round>`` of the plant's
folder; the first time of a round counts.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from client.cli import main
from client.desk.desk import Desk
from client.link.bridge_client import answer
from common.wire.messages import read_order
from common.wire.parts import Parts


def write(folder: Path, what: str, parts: Parts) -> None:
    (folder / f"{what}.json").write_text(json.dumps({"head": parts.head, "seal": parts.seal}))
    if parts.vector is not None:
        (folder / f"{what}.bin").write_bytes(parts.vector)


def read(folder: Path, what: str) -> Parts:
    texts = json.loads((folder / f"{what}.json").read_text())
    vector = folder / f"{what}.bin"
    return Parts(**texts, vector=vector.read_bytes() if vector.exists() else None)


def record() -> None:
    """Put ourselves between the service and the desk."""
    whole = Desk.answer

    def answered(self: Desk, parts: Parts, **how: object) -> Parts | None:
        sent = whole(self, parts, **how)  # type: ignore[arg-type]
        order, _ = read_order(parts.head)
        folder = Path(sys.argv[2]) / "recorded" / f"{order.run}-{order.round}"
        if sent is not None and not folder.exists():
            folder.mkdir(parents=True)
            write(folder, "order", parts)
            write(folder, "reply", sent)
        return sent

    Desk.answer = answered  # type: ignore[method-assign, assignment]


def again(folder: Path, socket: str) -> str:
    """Hand the recorded order in, and say what came of it."""
    got, before = (
        answer(f"unix:{socket}", read(folder, "order"), seconds=300),
        read(folder, "reply"),
    )
    reply = json.loads(got.head)["reply"]
    if (got.head, got.vector) == (before.head, before.vector):
        return f"{reply['outcome']}, the same bytes"
    return f"{reply['outcome']} {reply['reason']}"


if __name__ == "__main__":
    if sys.argv[1] == "again":
        print(again(Path(sys.argv[2]) / "recorded" / sys.argv[3], sys.argv[4]))
    else:
        record()
        main()
