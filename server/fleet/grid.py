"""A Fleet over Flower's Grid: orders out as messages, replies in as they arrive.

A plant is known by its name, Flower by node ids. At a centre the roster says which node is which
plant: who is not on it is not asked. In simulation each new node is asked for its name, with one
small *hello*. Replies are pulled message by message rather than with ``send_and_receive``: the
first is used while the last still trains, and one vector at a time is held.

An error at a node comes back as a reply with outcome ``failed``; it never ends a round. Where only
the way to the plant failed (node away, bridge or daemon killed), the same order is sent again once
the node is back: the plant joins it to the training in progress, or answers from its outbox. Nobody
waits for a plant that is revoked meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from common.errors import EngineError
from common.orders import Order, Release, Reply
from common.secagg.messages import Call, Said
from common.wire.messages import pack_call, pack_order
from common.wire.parts import Parts
from server.fleet.allowance import allowance, group
from server.fleet.errands import Errand
from server.fleet.inflating import at_most, install
from server.fleet.names import Enrolled, Greeted, Member, Names, Roster
from server.fleet.records import failed, read_reply, read_said, to_record

POLL = 0.5  #: seconds between two looks for replies; each costs SuperLink some milliseconds
SLOW_POLL = 1.0  #: and when a round takes long
LATE = 30.0  #: seconds that a message outlives its deadline

#: Flower's codes for a reply that was lost with a message, its reply, a node or a bridge, and ours
#: for a bridge that did not reach its daemon. The plant itself has not answered.
LOST = frozenset({3, 4, 5, 8, 101})
NOT_ENROLLED = "the plant is no longer enrolled"


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
        install()
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
        letters = self._letters(order, release, beside)
        here = self._names.nodes()
        said = group(str(order.round), vector=release.vector.nbytes)
        for plant in sorted(letters.keys() - here):
            yield failed(order, plant, "not connected")
        errands = [
            Errand(plant, content=content, kind="train", group=said)
            for plant, (content, _) in sorted(letters.items())
            if plant in here
        ]
        for errand, message in self._deliver(errands, seconds=order.deadline):
            if message is None:
                yield failed(order, errand.plant, errand.reason)
            else:
                yield self._read(message, order, errand, letters[errand.plant][1])

    def exchange(
        self, calls: Mapping[str, Call], *, run: str, seconds: float
    ) -> Iterator[tuple[str, Said]]:
        """Send each plant a small message of a secure sum and yield what it answers."""
        here = self._names.nodes()
        errands = [
            Errand(
                plant,
                content=to_record(self._sealed_call(call, plant)),
                kind="query.sum",
                group=group(run, vector=0),
            )
            for plant, call in calls.items()
            if plant in here
        ]
        for errand, message in self._deliver(errands, seconds=seconds):
            if message is not None:
                yield errand.plant, read_said(message)

    def _deliver(
        self, errands: list[Errand], *, seconds: float
    ) -> Iterator[tuple[Errand, Message | None]]:
        """Send until answered, and yield what comes back; None where there is no hope."""
        started = time.monotonic()
        while errands and (spent := time.monotonic() - started) < seconds:
            self._send([errand for errand in errands if errand.due], ttl=max(1.0, seconds + LATE))
            struck = self._struck(errands)
            for errand in list(errands):
                message = None if errand in struck else self._collect(errand)
                if message is not None or errand.hopeless or errand in struck:
                    errands.remove(errand)
                    yield errand, message
            if errands:
                time.sleep(min(SLOW_POLL, POLL + spent / 100))

    def _struck(self, errands: list[Errand]) -> set[Errand]:
        """Return errands to nodes that are no longer on the roster: their plant was revoked."""
        if self._roster is None:
            return set()
        roster = self._roster()
        struck = {one for one in errands if one.node and not _is(roster, one)}
        for errand in struck:
            errand.reason = NOT_ENROLLED
        return struck

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

    def _send(self, errands: list[Errand], *, ttl: float) -> None:
        """Send what is due to each plant whose node is there."""
        if not errands:
            return
        nodes = self._names.nodes()
        for errand in errands:
            if (node := nodes.get(errand.plant)) is not None:
                message = Message(errand.content, node, errand.kind, ttl=ttl, group_id=errand.group)
                errand.sent(node, list(self._grid.push_messages([message])))

    def _collect(self, errand: Errand) -> Message | None:
        """Return the plant's reply if it has come."""
        with at_most(allowance(errand.group)):
            found = list(self._grid.pull_messages([errand.ident])) if errand.ident else []
        for message in found:
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
        roster = self._roster()
        if not _is(roster, errand):
            return failed(order, plant, NOT_ENROLLED)
        fingerprint = roster[errand.node].fingerprint
        return read_reply(
            message, order, plant, lambda p: envelope.open(p, fingerprint=fingerprint)
        )


def _is(roster: Mapping[int, Member], errand: Errand) -> bool:
    """Whether the node that an errand went to is its plant's."""
    member = roster.get(errand.node)
    return member is not None and member.name == errand.plant
