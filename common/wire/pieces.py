"""Parts as a stream of bounded pieces, as ``plant.proto`` has them: a head, then the vector.

Light on purpose: the bridge imports it, so neither numpy nor pydantic comes along. The head is
checked before a byte of the vector is taken, and no more is kept than it announced.

Not covered: what is in the parts (`common.wire.messages`) and who sent them (`common.wire.seals`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from common.errors import UpdateError
from common.wire.parts import HEAD_LIMIT, VECTOR_LIMIT, Parts
from common.wire.plant_pb2 import Head, Piece

PROTOCOL = 1  #: of the service; the other side refuses one that it does not know
PIECE = 2**20  #: bytes of the vector in one piece
SEAL_LIMIT = 2**20  #: characters; as in `common.signing`, which would bring keys along
MESSAGE_LIMIT = 2 * HEAD_LIMIT  #: bytes of one gRPC message: a head, its seal, and room


def cut(parts: Parts) -> Iterator[Piece]:
    """Yield parts piece by piece."""
    vector = memoryview(parts.vector or b"")
    head = Head(protocol=PROTOCOL, head=parts.head, seal=parts.seal, size=len(vector))
    yield Piece(head=head)
    for start in range(0, len(vector), PIECE):
        yield Piece(data=bytes(vector[start : start + PIECE]))


def join(pieces: Iterable[Piece], *, accept: Callable[[Head], None] = lambda head: None) -> Parts:
    """Put parts together again; a vector of no bytes is none.

    Parameters
    ----------
    accept : called with the head before the vector is taken; raises to refuse it.

    Raises
    ------
    UpdateError
        If the first piece is no head, the protocol is another, a limit is passed, or the vector is
        shorter or longer than was announced.
    """
    stream = iter(pieces)
    first = next(stream, None)
    if first is None or first.WhichOneof("part") != "head":
        raise UpdateError(
            "stream must begin with a head, got none; both sides must be Transferline"
        )
    head = first.head
    _check(head)
    accept(head)
    taken: list[bytes] = []
    left = head.size
    for piece in stream:
        data = piece.data
        if not data or len(data) > PIECE or len(data) > left:
            raise UpdateError(
                f"piece must be 1 to {min(PIECE, left)} bytes of the vector, got {len(data)}"
            )
        left -= len(data)
        taken.append(data)
    if left:
        raise UpdateError(f"vector must have {head.size} bytes, got {head.size - left}; send again")
    return Parts(head=head.head, seal=head.seal, vector=b"".join(taken) if taken else None)


def alone(parts: Parts) -> Head:
    """Return parts that have no vector as one head."""
    assert parts.vector is None
    return Head(protocol=PROTOCOL, head=parts.head, seal=parts.seal)


def whole(head: Head) -> Parts:
    """Return the parts of a head that comes alone; errors as `join`."""
    _check(head)
    if head.size:
        raise UpdateError(f"message must come without a vector, got one of {head.size} bytes")
    return Parts(head=head.head, seal=head.seal)


def _check(head: Head) -> None:
    if head.protocol != PROTOCOL:
        raise UpdateError(
            f"protocol must be {PROTOCOL}, got {head.protocol}; daemon and link must be of the "
            "same version"
        )
    for name, value, limit in (
        ("head", len(head.head), HEAD_LIMIT),
        ("seal", len(head.seal), SEAL_LIMIT),
        ("vector", head.size, VECTOR_LIMIT),
    ):
        if value > limit:
            raise UpdateError(f"{name} must be at most {limit}, got {value}")
