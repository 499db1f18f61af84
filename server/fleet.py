"""A Fleet over Flower's Grid: orders out as messages, replies in as they arrive.

A plant is known by its name, Flower by node ids that are new with every start. So each new node is
asked for its name first, with one small *hello*. Replies are pulled message by message rather than
with ``send_and_receive``: the first is used while the last still trains, and one vector at a time
is held. An error at a node, also one that Flower makes up for a lost node, comes back as a reply
with outcome ``failed``; it never ends a round.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from common.errors import EngineError, UpdateError
from common.orders import Order, Outcome, Release, Reply
from common.wire.messages import REASON_LIMIT, pack_order, unpack_hello, unpack_reply
from common.wire.parts import Parts

POLL = 0.1  #: seconds between two looks for replies
HELLO_TTL = 300.0  #: seconds a node has to say its name; Ray may have to start a process first
LATE = 30.0  #: seconds that a message outlives its round's deadline
DTYPE = "float32"
STYPE = "transferline.le"  #: raw values; Flower does not look inside

log = logging.getLogger(__name__)


class GridFleet:
    """The plants behind a Flower Grid (`server.federation.Fleet`).

    Parameters
    ----------
    grid : of the running ServerApp.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._nodes: dict[str, int] = {}
        self._greeted: dict[int, str] = {}
        self._refused: dict[int, str] = {}

    def plants(self) -> list[str]:
        """Return the names of the connected plants, sorted."""
        self._meet()
        return sorted(self._nodes)

    def wait(
        self,
        *,
        plants: int,
        seconds: float,
        on_change: Callable[[int], None] = lambda here: None,
    ) -> list[str]:
        """Wait until so many plants are connected; a node list is empty at first.

        Parameters
        ----------
        plants : how many.
        seconds : how long to wait for the next one.
        on_change : told how many are connected, when that changes.

        Raises
        ------
        EngineError
            If nobody new has come for so long.
        """
        before, end = -1, time.monotonic() + seconds
        while len(here := self.plants()) < plants:
            if len(here) != before:
                before, end = len(here), time.monotonic() + seconds
                on_change(before)
            elif time.monotonic() >= end:
                reasons = sorted(set(self._refused.values()))
                raise EngineError(
                    f"{plants} plants must connect, got {len(here)} {here} in {seconds:.0f} s; "
                    + (reasons[0] if reasons else "start the others, or set num-supernodes")
                )
            time.sleep(POLL)
        return here

    def ask(self, order: Order, release: Release) -> Iterator[Reply]:
        """Send an order to its cohort and yield replies as they arrive.

        Ends with the last reply, at the latest ``order.deadline`` seconds after it was sent. What
        comes later is dropped by Flower.
        """
        end = time.monotonic() + order.deadline
        content = to_record(pack_order(order, release))
        waiting: dict[str, str] = {}
        for plant in order.cohort:
            if plant not in self._nodes:
                yield failed(order, plant, "not connected")
                continue
            message = Message(
                content,
                self._nodes[plant],
                "train",
                ttl=order.deadline + LATE,
                group_id=str(order.round),
            )
            if not (ids := list(self._grid.push_messages([message]))):
                yield failed(order, plant, "the message could not be sent")
                continue
            waiting[ids[0]] = plant
        del content
        while waiting and time.monotonic() < end:
            for ident in list(waiting):
                for message in self._grid.pull_messages([ident]):
                    yield read_reply(message, order, waiting.pop(ident))
            if waiting:
                time.sleep(POLL)

    def _meet(self) -> None:
        """Greet new nodes, hear those that answer, forget those that are gone."""
        nodes = set(self._grid.get_node_ids())
        self._nodes = {name: node for name, node in self._nodes.items() if node in nodes}
        self._greeted = {node: ident for node, ident in self._greeted.items() if node in nodes}
        self._refused = {node: why for node, why in self._refused.items() if node in nodes}
        for node in sorted(nodes - set(self._nodes.values()) - set(self._greeted)):
            if node not in self._refused:
                message = Message(RecordDict(), node, "query.hello", ttl=HELLO_TTL)
                for ident in self._grid.push_messages([message]):
                    self._greeted[node] = ident
        for node, ident in list(self._greeted.items()):
            for message in self._grid.pull_messages([ident]):
                del self._greeted[node]
                self._hear(node, message)

    def _hear(self, node: int, message: Message) -> None:
        """Learn a node's name, or note why it has none."""
        if message.has_error():
            self._refused[node] = message.error.reason or "the node gave no reason"
        else:
            try:
                name = unpack_hello(from_record(message.content))
            except UpdateError as error:
                self._refused[node] = str(error)
            else:
                if name not in self._nodes:
                    self._nodes[name] = node
                    return
                self._refused[node] = f"plant {name} is connected already; its name must be its own"
        log.warning("node %d refused: %s", node, self._refused[node])


def read_reply(message: Message, order: Order, plant: str) -> Reply:
    """Turn what came back into a reply of that plant to that order, whatever it is."""
    if message.has_error():
        return failed(order, plant, message.error.reason or "the node gave no reason")
    try:
        reply = unpack_reply(from_record(message.content))
    except UpdateError as error:
        return failed(order, plant, str(error))
    expected = (plant, order.run, order.round, order.release)
    got = (reply.plant, reply.run, reply.round, reply.release)
    if got != expected:
        return failed(order, plant, f"reply must be to {expected}, got {got}")
    return reply


def failed(order: Order, plant: str, reason: str) -> Reply:
    """Return the reply of a plant that could not be asked or did not answer properly."""
    return Reply(
        plant=plant,
        run=order.run,
        round=order.round,
        release=order.release,
        outcome=Outcome.FAILED,
        reason=" ".join(reason.split())[:REASON_LIMIT],
    )


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
    if not isinstance(head, str):
        raise UpdateError(f"message must hold a head, got records {sorted(record)}")
    arrays = record.array_records.get("vector")
    if arrays is None:
        return Parts(head=head)
    if list(arrays) != ["flat"] or arrays["flat"].stype != STYPE:
        raise UpdateError(f"message must hold one flat vector, got arrays {sorted(arrays)}")
    return Parts(head=head, vector=arrays["flat"].data)
