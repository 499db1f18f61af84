"""Which node is which plant: Flower knows node ids, the rounds know names.

At a centre the roster says it (`Enrolled`). In simulation nobody is enrolled, and each new node is
asked for its name with one small *hello* (`Greeted`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from common.errors import UpdateError
from common.wire.messages import unpack_hello
from server.fleet.records import from_record

HELLO_TTL = 300.0  #: seconds a node has to say its name; Ray may have to start a process first

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


class Names(Protocol):
    """Says which node is which plant."""

    @property
    def refused(self) -> Mapping[int, str]:
        """Why a node has no name, by node."""
        ...

    def nodes(self) -> Mapping[str, int]:
        """Return the nodes of the connected plants, by name."""
        ...


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
