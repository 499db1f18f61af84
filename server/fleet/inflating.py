"""Puts the pieces of a reply together, unless they make more than they are.

Flower's pieces name one another: an array may name one piece a thousand times, and a record may be
anything that its reader can parse. So before Flower builds a reply from them, it is counted what
that takes. Whatever a plant has sent, what comes out is a message: its reply, or an error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from flwr.app import Array, Error, Message, Metadata
from flwr.app.message import make_message
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.supercore.constant import SYSTEM_MESSAGE_TYPE
from flwr.supercore.inflatable.inflatable_object import (
    get_object_body,
    get_object_head_values_from_object_content,
)
from flwr.superlink.grid import http_grid

from common.errors import UpdateError
from server.fleet.allowance import LARGEST, ROOM

UNREADABLE = 103  #: code of the error
INFLATE = "inflate_object_from_contents"  #: of Flower's grid

Inflate = Callable[[str, dict[str, bytes]], object]

_allowed: ContextVar[int] = ContextVar("allowed", default=LARGEST)


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """Let messages that are pulled inside take so many bytes."""
    before = _allowed.set(size)
    try:
        yield
    finally:
        _allowed.reset(before)


def careful(inflate: Inflate) -> Inflate:
    """Return a way to build messages that looks at the pieces first."""

    def inflated(name: str, contents: dict[str, bytes]) -> Message:
        try:
            check(contents, limit=_allowed.get())
            found = inflate(name, contents)
            if not isinstance(found, Message):
                raise UpdateError(f"reply must be a message, got {type(found).__name__}")
        except Exception as error:  # noqa: BLE001  # Flower's parsers raise whatever they like
            return _error(f"form: {error!r}"[:200])
        return found

    return inflated


def check(contents: dict[str, bytes], *, limit: int) -> None:
    """Check that a message takes no more memory than a reply may, and no vector is in its head.

    Raises
    ------
    UpdateError
        If it does.
    """
    vector = head = 0
    for content in contents.values():
        kind, parts, _ = get_object_head_values_from_object_content(content)
        if kind != "ArrayChunk":
            head += len(content)
        if kind == "Array":
            used = json.loads(get_object_body(content, Array))["arraychunk_ids"]
            vector += sum(len(contents[parts[index]]) for index in used)
    if head > ROOM or head + vector > limit:
        raise UpdateError(
            f"reply must take at most {limit} bytes, {ROOM} of them beside the vector, got "
            f"{head + vector}, {head} of them beside it"
        )


def install() -> None:
    """Have Flower's grid build messages with care."""
    names: dict[str, Any] = vars(http_grid)
    if (inflate := names[INFLATE]).__module__ != __name__:
        names[INFLATE] = careful(inflate)


def _error(reason: str) -> Message:
    metadata = Metadata(
        run_id=0,
        message_id="",
        src_node_id=SUPERLINK_NODE_ID,
        dst_node_id=SUPERLINK_NODE_ID,
        reply_to_message_id="",
        group_id="",
        message_type=SYSTEM_MESSAGE_TYPE,
        created_at=0.0,
        ttl=0.0,
    )
    return make_message(metadata=metadata, error=Error(UNREADABLE, reason))
