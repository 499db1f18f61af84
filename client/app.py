"""The plant's end of the Flower link: a bridge of a few lines.

Flower runs whatever code a server ships, so the bridge holds nothing worth having: it imports
neither torch nor anything that reads data, and hands each order on to the plant. In simulation,
where Flower numbers its nodes by ``partition-id``, the plant is one of the run folder's and is
opened in this process; at a real plant it is the daemon's business.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import Protocol

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from common.errors import EngineError, TransferlineError, UpdateError
from common.home import run_folder
from common.orders import Order, Release, Reply
from common.wire.messages import pack_hello, pack_reply, unpack_order
from common.wire.parts import Parts

#: Opens a plant's folder. By name, so that this module does not reach torch through an import.
OPEN_PLANT = "client.plant:open_plant"
DTYPE = "float32"
STYPE = "transferline.le"  #: as in `server.fleet`
FAILED = 100  #: an error of the plant's; Flower's own codes lie below

app = ClientApp()


class Answering(Protocol):
    """What the bridge needs of a plant."""

    def answer(self, order: Order, release: Release) -> Reply: ...


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Say which plant this node is."""
    return _reply(message, lambda: pack_hello(plant_folder(context).name))


@app.train()
def train(message: Message, context: Context) -> Message:
    """Hand an order on to the plant and its reply back."""

    def answer() -> Parts:
        order, release = unpack_order(from_record(message.content))
        plant: Answering = resolve_name(OPEN_PLANT)(plant_folder(context))
        return pack_reply(plant.answer(order, release))

    return _reply(message, answer)


def plant_folder(context: Context) -> Path:
    """Return the folder of the plant that a simulated node stands for.

    Raises
    ------
    EngineError
        If the node is not simulated, or there are more nodes than plants.
    """
    number = context.node_config.get("partition-id")
    if not isinstance(number, int):
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
    """Wrap an answer, or the one line that says why there is none."""
    try:
        return Message(to_record(answer()), reply_to=message)
    except TransferlineError as error:
        return Message(Error(FAILED, str(error)), reply_to=message)


def to_record(parts: Parts) -> RecordDict:
    """Put parts into Flower's container: one array, whatever the model."""
    record = RecordDict({"head": ConfigRecord({"json": parts.head})})
    if parts.vector is not None:
        array = Array(DTYPE, (len(parts.vector) // 4,), STYPE, parts.vector)
        record["vector"] = ArrayRecord({"flat": array})
    return record


def from_record(record: RecordDict) -> Parts:
    """Take the parts out of Flower's container.

    Raises
    ------
    UpdateError
        If something is missing or is of another kind.
    """
    head = record.config_records.get("head", ConfigRecord()).get("json")
    arrays = record.array_records.get("vector")
    if not isinstance(head, str) or (arrays is not None and list(arrays) != ["flat"]):
        raise UpdateError(f"message must hold a head and one vector, got {sorted(record)}")
    return Parts(head=head, vector=None if arrays is None else arrays["flat"].data)
