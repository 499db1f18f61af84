"""Parts in bounded pieces."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UpdateError
from common.wire import pieces
from common.wire.parts import VECTOR_LIMIT, Parts
from common.wire.pieces import PIECE, PROTOCOL, cut, join
from common.wire.plant_pb2 import Head, Piece


@given(head=st.text(max_size=50), seal=st.text(max_size=20), vector=st.none() | st.binary())
def test_parts_come_back(head: str, seal: str, vector: bytes | None) -> None:
    got = join(cut(Parts(head=head, seal=seal, vector=vector)))
    assert got == Parts(head=head, seal=seal, vector=vector or None)


def test_a_large_vector_comes_in_bounded_pieces() -> None:
    parts = Parts(head="h", vector=bytes(range(256)) * (PIECE // 100))
    sent = list(cut(parts))
    assert len(sent) == 1 + -(-len(parts.vector or b"") // PIECE)
    assert max(len(piece.data) for piece in sent) == PIECE
    assert join(sent) == parts


def head(**fields: object) -> Piece:
    return Piece(head=Head(**({"protocol": PROTOCOL, "head": "h", "size": 4} | fields)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("stream", "said"),
    [
        ([], "begin with a head"),
        ([Piece(data=b"1234")], "begin with a head"),
        ([head()], "must have 4 bytes, got 0"),
        ([head(), Piece(data=b"123")], "must have 4 bytes, got 3"),
        ([head(), Piece(data=b"12345")], "1 to 4 bytes"),
        ([head(), Piece(data=b"1234"), Piece(data=b"5")], "got 1"),
        ([head(), Piece(data=b"")], "got 0"),
        ([head(), head()], "got 0"),
        ([head(size=2 * PIECE), Piece(data=b"1" * (PIECE + 1))], f"1 to {PIECE} bytes"),
        ([head(protocol=2)], "protocol must be 1, got 2"),
        ([head(size=VECTOR_LIMIT + 1)], "vector must be at most"),
        ([head(seal="s" * (pieces.SEAL_LIMIT + 1))], "seal must be at most"),
    ],
)
def test_what_breaks_the_rules_is_refused(stream: list[Piece], said: str) -> None:
    with pytest.raises(UpdateError, match=said):
        join(stream)


def test_no_byte_of_a_refused_head_is_taken() -> None:
    def stream():  # type: ignore[no-untyped-def]
        yield head()
        raise AssertionError("the vector was asked for")

    def refuse(told: Head) -> None:
        raise UpdateError(f"not {told.size}")

    with pytest.raises(UpdateError, match="not 4"):
        join(stream(), accept=refuse)


def test_it_is_light() -> None:
    code = (
        "import sys, common.wire.pieces, client.link.bridge_client;"
        "print([m for m in ('numpy', 'pydantic', 'torch', 'cryptography') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
