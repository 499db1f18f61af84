"""A Fleet over Flower's Grid: orders out as messages, replies in as they arrive.

A plant is known by its name, Flower by node ids. At a centre the roster says which node is which
plant: who is not on it is not asked. In simulation each new node is asked for its name, with one
small *hello*. Replies are pulled message by message rather than with ``send_and_receive``: the
first is used while the last still trains, and one vector at a time is held.

An error at a node comes back as a reply with outcome ``failed``; it never ends a round. Where only
the way to the plant failed (node away, bridge or daemon killed), the same order is sent again once
the node is back: the plant joins it to the training in progress, or answers from its outbox.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from common.errors import AggregationError, EngineError, IdentityError, UpdateError
from common.orders import Order, Outcome, Release, Reply
from common.secagg.messages import Call, Said
from common.wire.messages import (
    REASON_LIMIT,
    pack_call,
    pack_order,
    unpack_hello,
    unpack_reply,
    unpack_said,
)
from common.wire.parts import Parts

POLL = 0.5  #: seconds between two looks for replies; each costs SuperLink some milliseconds
SLOW_POLL = 1.0  #: and when a round takes long
HELLO_TTL = 300.0  #: seconds a node has to say its name; Ray may have to start a process first
LATE = 30.0  #: seconds that a message outlives its round's deadline
AWAY = 240.0  #: seconds that a round waits for a plant whose node is gone
RETRY = (2.0, 30.0)  #: seconds before an order is sent again: first, longest
ATTEMPTS = 20  #: sendings of one order to one plant
DTYPE = "uint8"
STYPE = "transferline.bytes"  #: Flower does not look inside

#: Flower's codes for a reply that was lost with a message, its reply, a node or a bridge, and ours
#: for a bridge that did not reach its daemon. The plant itself has not answered.
LOST = frozenset({3, 4, 5, 8, 101})

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Member:
    """A plant on the roster.

    Attributes
    ----------
    fingerprint : of the identity that it must sign with.
    """

    name: str
    fingerprint: str


#: Node id -> plant, of the plants that are enrolled now.
Roster = Callable[[], Mapping[int, Member]]


class Envelope(Protocol):
    """One order, sealed, and what opens the replies to it (`server.seals`)."""

    @property
    def parts(self) -> Parts: ...

    def open(self, parts: Parts, *, fingerprint: str) -> Reply:
        """Verify and read a reply; IdentityError or UpdateError if it is none."""
        ...


class Seals(Protocol):
    """Seals orders."""

    def envelope(self, parts: Parts, order: Order) -> Envelope: ...

    def call(self, parts: Parts, *, plant: str) -> Parts: ...


class Names(Protocol):
    """Says which node is which plant."""

    @property
    def refused(self) -> Mapping[int, str]:
        """Why a node has no name, by node."""
        ...

    def nodes(self) -> Mapping[str, int]:
        """Return the nodes of the connected plants, by name."""
        ...


class GridFleet:
    """The plants behind a Flower Grid (`server.gathering.Fleet`).

    Parameters
    ----------
    grid : of the running ServerApp.
    roster : which node is which plant; None in simulation, where nodes are asked.
    seals : None in simulation, where nothing is sealed.
    """

    def __init__(
        self, grid: Grid, *, roster: Roster | None = None, seals: Seals | None = None
    ) -> None:
        self._grid = grid
        self._roster, self._seals = roster, seals
        self._names: Names = Greeted(grid) if roster is None else Enrolled(grid, roster)

    def plants(self) -> list[str]:
        """Return the names of the connected plants, sorted."""
        return sorted(self._names.nodes())

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
                reasons = sorted(set(self._names.refused.values()))
                raise EngineError(
                    f"{plants} plants must connect, got {len(here)} {here} in {seconds:.0f} s; "
                    + (reasons[0] if reasons else "start the others, or set num-supernodes")
                )
            time.sleep(POLL)
        return here

    def ask(
        self, order: Order, release: Release, *, beside: Mapping[str, str] | None = None
    ) -> Iterator[Reply]:
        """Send an order to its cohort and yield replies as they arrive.

        Ends with the last reply, at the latest ``order.deadline`` seconds after it was sent. What
        comes later is dropped by Flower.
        """
        started = time.monotonic()
        asked = order.cohort if beside is None else tuple(sorted(beside))
        letters = self._letters(order, release, beside)
        errands = {
            plant: Errand(
                plant,
                content=letters[plant][0],
                kind="train",
                ttl=max(1.0, order.deadline + LATE),
                group=str(order.round),
            )
            for plant in asked
        }
        nodes = self._names.nodes()
        for plant in asked:
            if plant not in nodes:
                del errands[plant]
                yield failed(order, plant, "not connected")
        while errands and (spent := time.monotonic() - started) < order.deadline:
            self._send([errand for errand in errands.values() if errand.due])
            for plant, errand in list(errands.items()):
                message = self._collect(errand)
                if message is not None:
                    del errands[plant]
                    yield self._read(message, order, errand, letters[plant][1])
                elif errand.hopeless:
                    del errands[plant]
                    yield failed(order, plant, errand.reason)
            if errands:
                time.sleep(min(SLOW_POLL, POLL + spent / 100))

    def exchange(
        self, calls: Mapping[str, Call], *, run: str, seconds: float
    ) -> Iterator[tuple[str, Said]]:
        """Send each plant a small message of a secure sum and yield what it answers."""
        started = time.monotonic()
        nodes = self._names.nodes()
        errands = {
            plant: Errand(
                plant,
                content=to_record(self._sealed_call(call, plant)),
                kind="query.sum",
                ttl=max(1.0, seconds + LATE),
                group=run,
            )
            for plant, call in calls.items()
            if plant in nodes
        }
        while errands and (spent := time.monotonic() - started) < seconds:
            self._send([errand for errand in errands.values() if errand.due])
            for plant, errand in list(errands.items()):
                message = self._collect(errand)
                if message is not None:
                    del errands[plant]
                    yield plant, read_said(message)
                elif errand.hopeless:
                    del errands[plant]
            if errands:
                time.sleep(min(SLOW_POLL, POLL + spent / 100))

    def _sealed_call(self, call: Call, plant: str) -> Parts:
        parts = pack_call(call)
        return parts if self._seals is None else self._seals.call(parts, plant=plant)

    def _letters(
        self, order: Order, release: Release, beside: Mapping[str, str] | None
    ) -> dict[str, tuple[RecordDict, Envelope | None]]:
        """Return what each plant is sent; the release's vector is held once for all of them."""
        if beside is None:
            letter = self._letter(order, pack_order(order, release))
            return dict.fromkeys(order.cohort, letter)
        letters, vector = {}, None
        for plant, text in beside.items():
            record, envelope = self._letter(order, pack_order(order, release, beside=text))
            vector = vector or record.array_records["vector"]
            record["vector"] = vector
            letters[plant] = (record, envelope)
        return letters

    def _letter(self, order: Order, parts: Parts) -> tuple[RecordDict, Envelope | None]:
        envelope = None if self._seals is None else self._seals.envelope(parts, order)
        return to_record(parts if envelope is None else envelope.parts), envelope

    def _send(self, errands: list[Errand]) -> None:
        """Send what is due to each plant whose node is there."""
        if not errands:
            return
        nodes = self._names.nodes()
        for errand in errands:
            if (node := nodes.get(errand.plant)) is not None:
                message = Message(
                    errand.content, node, errand.kind, ttl=errand.ttl, group_id=errand.group
                )
                errand.sent(node, list(self._grid.push_messages([message])))

    def _collect(self, errand: Errand) -> Message | None:
        """Return the plant's reply if it has come."""
        for message in self._grid.pull_messages([errand.ident]) if errand.ident else ():
            if message.has_error() and message.error.code in LOST:
                errand.lost(message.error.reason or "the node gave no reason")
            else:
                return message
        return None

    def _read(
        self, message: Message, order: Order, errand: Errand, envelope: Envelope | None
    ) -> Reply:
        plant = errand.plant
        if envelope is None or message.has_error():
            return read_reply(message, order, plant)
        assert self._roster is not None, "seals need a roster"
        member = self._roster().get(errand.node)
        if member is None or member.name != plant:
            return failed(order, plant, "the plant is no longer enrolled")
        fingerprint = member.fingerprint
        return read_reply(
            message, order, plant, lambda p: envelope.open(p, fingerprint=fingerprint)
        )


class Errand:
    """One message to one plant: whether it is out, and when it goes out again.

    Attributes
    ----------
    content, kind, ttl, group : of the message.
    ident : of the message that is out; "" while none is.
    node : that it was sent to.
    reason : why the last sending came to nothing.
    """

    def __init__(
        self, plant: str, *, content: RecordDict, kind: str, ttl: float, group: str
    ) -> None:
        self.plant = plant
        self.content, self.kind, self.ttl, self.group = content, kind, ttl, group
        self.ident, self.node, self.reason = "", 0, ""
        self._attempts = 0
        self._again = self._since = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether to send the message now, if the node is there."""
        return not self.ident and time.monotonic() >= self._again

    @property
    def hopeless(self) -> bool:
        """Whether to give up: the node stays away, or nothing ever comes back."""
        if self.ident:
            return False
        return self._attempts >= ATTEMPTS or time.monotonic() - self._since > AWAY

    def sent(self, node: int, idents: list[str]) -> None:
        self._attempts += 1
        if idents:
            self.node, self.ident = node, idents[0]
        else:
            self.lost("the message could not be sent")

    def lost(self, reason: str) -> None:
        """Note that no reply will come to the message that is out."""
        self.ident, self.reason, self._since = "", reason, time.monotonic()
        self._again = self._since + min(RETRY[0] * 2 ** (self._attempts - 1), RETRY[1])
        log.warning("%s: %s; asked again when it is there", self.plant, " ".join(reason.split()))


class Enrolled:
    """Names nodes by the roster."""

    refused: Mapping[int, str] = {}

    def __init__(self, grid: Grid, roster: Roster) -> None:
        self._grid, self._roster = grid, roster

    def nodes(self) -> dict[str, int]:
        here = set(self._grid.get_node_ids())
        return {member.name: node for node, member in self._roster().items() if node in here}


class Greeted:
    """Names nodes by what they say: greets new ones, forgets those that are gone."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._nodes: dict[str, int] = {}
        self._greeted: dict[int, str] = {}
        self.refused: dict[int, str] = {}

    def nodes(self) -> dict[str, int]:
        nodes = set(self._grid.get_node_ids())
        self._nodes = {name: node for name, node in self._nodes.items() if node in nodes}
        self._greeted = {node: ident for node, ident in self._greeted.items() if node in nodes}
        self.refused = {node: why for node, why in self.refused.items() if node in nodes}
        for node in sorted(nodes - set(self._nodes.values()) - set(self._greeted)):
            if node not in self.refused:
                message = Message(RecordDict(), node, "query.hello", ttl=HELLO_TTL)
                for ident in self._grid.push_messages([message]):
                    self._greeted[node] = ident
        for node, ident in list(self._greeted.items()):
            for message in self._grid.pull_messages([ident]):
                del self._greeted[node]
                self._hear(node, message)
        return self._nodes

    def _hear(self, node: int, message: Message) -> None:
        """Learn a node's name, or note why it has none."""
        if message.has_error():
            self.refused[node] = message.error.reason or "the node gave no reason"
        else:
            try:
                name = unpack_hello(from_record(message.content))
            except UpdateError as error:
                self.refused[node] = str(error)
            else:
                if name not in self._nodes:
                    self._nodes[name] = node
                    return
                self.refused[node] = f"plant {name} is connected already; its name must be its own"
        log.warning("node %d refused: %s", node, self.refused[node])


def read_reply(
    message: Message,
    order: Order,
    plant: str,
    read: Callable[[Parts], Reply] = unpack_reply,
) -> Reply:
    """Turn what came back into a reply of that plant to that order, whatever it is.

    Parameters
    ----------
    read : reads the parts; raises UpdateError or IdentityError if they are no reply.
    """
    if message.has_error():
        return failed(order, plant, message.error.reason or "the node gave no reason")
    try:
        reply = read(from_record(message.content))
    except (UpdateError, IdentityError) as error:
        return failed(order, plant, f"{error.code}: {error}")
    expected = (plant, order.run, order.round, order.release)
    got = (reply.plant, reply.run, reply.round, reply.release)
    if got != expected:
        return failed(order, plant, f"stale: reply must be to {expected}, got {got}")
    return reply


def read_said(message: Message) -> Said:
    """Turn what came back to a call into a plant's answer, whatever it is."""
    if message.has_error():
        return Said(reason=" ".join((message.error.reason or "no reason").split())[:REASON_LIMIT])
    try:
        return unpack_said(from_record(message.content))
    except (UpdateError, AggregationError) as error:
        return Said(reason=f"{error.code}: {error}"[:REASON_LIMIT])


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
    head = {"json": parts.head} | ({"seal": parts.seal} if parts.seal else {})
    record = RecordDict({"head": ConfigRecord(dict(head))})
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
    if not isinstance(head, str) or not isinstance(seal, str):
        raise UpdateError(f"message must hold a head, got records {sorted(record)}")
    arrays = record.array_records.get("vector")
    if arrays is None:
        return Parts(head=head, seal=seal)
    if list(arrays) != ["flat"] or arrays["flat"].stype != STYPE:
        raise UpdateError(f"message must hold one flat vector, got arrays {sorted(arrays)}")
    return Parts(head=head, vector=arrays["flat"].data, seal=seal)
