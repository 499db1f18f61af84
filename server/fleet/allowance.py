"""How many bytes a reply may have, said with the message that it answers.

Flower has no place for it but a message's group, which it keeps and never looks into. What a node
says there is not believed: SuperLink (`server.engine.bounds`) goes by what the ServerApp has said.
"""

from __future__ import annotations

from common.wire.parts import HEAD_LIMIT, VECTOR_LIMIT

ROOM = 2 * HEAD_LIMIT  #: bytes of a head, its seal, and what Flower puts around them
LARGEST = VECTOR_LIMIT + ROOM  #: where nothing is said
MARK = ":bytes="


def group(name: str, *, vector: int) -> str:
    """Return the group of a message that carries a vector of so many bytes.

    No form takes more than 8 bytes for a value of 4 (masked words, one value each).
    """
    return f"{name}{MARK}{2 * vector + ROOM}"


def allowance(group: str) -> int:
    """Return the bytes that the reply to a message of a group may have."""
    _, mark, said = group.rpartition(MARK)
    return int(said) if mark else LARGEST
