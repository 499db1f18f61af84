"""The plant's end of the Flower link: a bridge of a few lines.

Flower runs whatever code a server ships, so the bridge holds nothing worth having. At a plant it
hands each order on to the daemon (`client.link.bridge_client`) and the answer back, both unread,
and imports neither torch, numpy-heavy messages nor anything that reads data. In simulation, where
Flower numbers its nodes by ``partition-id``, the plant is one of the run folder's and is opened in
this process; all that needs is found by name, then.

Not covered: what a bundle with a ``client.app`` of its own does instead of this one. It runs as the
link's user, who has the daemon's socket and nothing else (`client.link.link`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import Protocol, TypedDict

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from client.link import bridge_client
from common.errors import EngineError, TransferlineError, UpdateError
from common.home import run_folder
from common.wire.parts import Parts

#: What simulation needs, by name: it opens a plant's folder, and packs what goes over the wire.
OPEN_PLANT = "client.plant:open_plant"
MESSAGES = "common.wire.messages"
#: And for secure sums: the sessions live in the process that runs the simulation.
DESK_HOST = "simulation.desk_host"
DESKS = "TRANSFERLINE_DESKS"  #: environment: its address
FOLDER = "TRANSFERLINE_LINK"  #: environment: the link's folder, with its keys for mutual TLS
PATIENCE = 60.0  #: seconds to wait for a daemon that is not there, or is just started again
LONGEST = 7 * 86400.0  #: seconds that an answer may take, whatever the message says
DTYPE = "uint8"
STYPE = "transferline.bytes"  #: as in `server.fleet.records`
FAILED = 100  #: an error of the plant's; Flower's own codes lie below

log = logging.getLogger(__name__)

app = ClientApp()


class Answering(Protocol):
    """What the bridge needs of a plant in simulation; order, release and reply as they are."""

    def answer(self, order: object, release: object) -> object: ...


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Say which plant this node is; the centre asks in simulation alone."""

    def answer() -> Parts:
        packed: Parts = resolve_name(f"{MESSAGES}:pack_hello")(plant_folder(context).name)
        return packed

    return _reply(message, answer)


@app.query("sum")
def sum_(message: Message, context: Context) -> Message:
    """Hand a small message of a secure sum on to the plant and its answer back."""

    def answer() -> Parts:
        parts = from_record(message.content)
        if address := os.environ.get(bridge_client.VARIABLE):
            return bridge_client.call(address, parts, **_patience(message))
        if not (desks := os.environ.get(DESKS)):
            raise EngineError("secure sums in simulation need transferline-sim run")
        packed: Parts = resolve_name(f"{DESK_HOST}:call")(desks, plant_folder(context), parts)
        return packed

    return _reply(message, answer)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Hand an order on to the plant and its reply back."""

    def answer() -> Parts:
        parts = from_record(message.content)
        if address := os.environ.get(bridge_client.VARIABLE):
            return bridge_client.answer(address, parts, **_patience(message))
        return _simulated(parts, context)

    return _reply(message, answer)


class Patience(TypedDict):
    """How long the bridge waits for the daemon, and the link's folder."""

    seconds: float
    patience: float
    folder: Path | None


def _patience(message: Message) -> Patience:
    """Return as much as the centre has: what it would wait no longer for, and a little more."""
    folder = os.environ.get(FOLDER)
    return Patience(
        seconds=min(message.metadata.ttl, LONGEST),
        patience=PATIENCE,
        folder=Path(folder) if folder else None,
    )


def _simulated(parts: Parts, context: Context) -> Parts:
    """Let the plant that a simulated node stands for answer, in this process."""
    folder = plant_folder(context)

    def answer() -> Parts:
        order, release = resolve_name(f"{MESSAGES}:unpack_order")(parts)
        plant: Answering = resolve_name(OPEN_PLANT)(folder)
        packed: Parts = resolve_name(f"{MESSAGES}:pack_reply")(plant.answer(order, release))
        return packed

    if not (desks := os.environ.get(DESKS)):
        return answer()
    at_desk: Parts = resolve_name(f"{DESK_HOST}:answer")(desks, folder, parts, answer)
    return at_desk


def plant_folder(context: Context) -> Path:
    """Return the folder of the plant that a simulated node stands for.

    Raises
    ------
    EngineError
        If the node is not simulated, or there are more nodes than plants.
    """
    number = context.node_config.get("partition-id")
    if not isinstance(number, int) or os.environ.get(bridge_client.VARIABLE):
        raise EngineError("this node has no plant: start transferline-plant beside it")
    home = run_folder(str(context.run_config.get("home", "")), run=context.run_id)
    plants = home / "plants"
    folders = sorted(path for path in plants.glob("*") if path.is_dir())
    if number >= len(folders):
        raise EngineError(
            f"nodes must be as many as plants, got node {number} for {len(folders)} in {plants}; "
            "set num-supernodes"
        )
    return folders[number]


def _reply(message: Message, answer: Callable[[], Parts]) -> Message:
    """Wrap an answer, or the one line that says why there is none.

    The line stays at a real plant, in the log of its link: the centre gets the code.
    """
    try:
        return _timed(Message(to_record(answer()), reply_to=message), message)
    except TransferlineError as error:
        reason = str(error)
        if os.environ.get(bridge_client.VARIABLE):
            log.error("no answer: %s", error)  # noqa: TRY400  # one line, no traceback
            reason = f"{error.code}: the plant gave no answer; the log of its link says why"
        return _timed(Message(Error(FAILED, reason), reply_to=message), message)


def _timed(reply: Message, message: Message) -> Message:
    """Let a reply live as long as its message, by the centre's clock alone.

    Flower takes this machine's time for when the reply was made and what is left for its life: with
    a clock that is ahead by more than a round nothing is left, and the centre refuses it.
    """
    reply.metadata.created_at = message.metadata.created_at
    reply.metadata.ttl = message.metadata.ttl
    return reply


def to_record(parts: Parts) -> RecordDict:
    """Put parts into Flower's container: one array, whatever the model."""
    head = ConfigRecord({"json": parts.head})
    if parts.seal:
        head["seal"] = parts.seal
    record = RecordDict({"head": head})
    if parts.vector is not None:
        array = Array(DTYPE, (len(parts.vector),), STYPE, parts.vector)
        record["vector"] = ArrayRecord({"flat": array})
    return record


def from_record(record: RecordDict) -> Parts:
    """Take the parts out of Flower's container.

    Raises
    ------
    UpdateError
        If something is missing or is of another kind.
    """
    config = record.config_records.get("head", ConfigRecord())
    head, seal = config.get("json"), config.get("seal", "")
    arrays = record.array_records.get("vector")
    if not isinstance(head, str) or not isinstance(seal, str):
        raise UpdateError(f"message must hold a head, got {sorted(record)}")
    if arrays is not None and list(arrays) != ["flat"]:
        raise UpdateError(f"message must hold one vector, got arrays {sorted(arrays)}")
    return Parts(head=head, seal=seal, vector=None if arrays is None else arrays["flat"].data)
