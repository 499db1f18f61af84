"""What a node may put into SuperLink: one reply of its own to each message, and not too large.

Flower takes what an enrolled node announces: any message, from whomever it says, of any number of
pieces of any size. Here the pieces of a reply are counted when it is announced, and their bytes
before each is kept, against what the ServerApp said that a reply may have (`server.fleet.
allowance`). What is too large is dropped, its space freed, and the ServerApp gets an error in its
place, which costs that plant the round and nobody else anything.

Covered: messages in another's name; replies of too many pieces or bytes; pieces that are announced
twice, or otherwise than before, so that they would never go; what was never fetched or confirmed,
whose message has expired. Not covered: one request, which the edge bounds (`server.engine.edge`),
and what the pieces make together, which whoever takes them bounds (`server.fleet.inflating`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import Lock
from typing import Any

from flwr.app import Error, Metadata
from flwr.app.message import make_message
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.proto.fleet_pb2 import PushMessagesRequest, PushMessagesResponse
from flwr.proto.message_pb2 import ObjectTree
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.date import now
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.state.schema.corestate_models import ObjectPushSessionRoot
from flwr.supercore.state.schema.linkstate_models import MessageIns, MessageRes
from flwr.supercore.utils import int64_to_uint64
from sqlalchemy import select

from server.engine.objects import FileObjectStore
from server.fleet.allowance import allowance

TOO_LARGE = 102  #: code of the error; Flower's own lie below 100, 100 and 101 are the bridge's
PIECE = 2**20  #: bytes that pieces have on the average, at least; Flower cuts at five times that
FEW = 64  #: pieces that any reply may have

Push = Callable[..., PushMessagesResponse]
Keep = Callable[[SqlLinkState, int, str, str, bytes], bool]

log = logging.getLogger(__name__)


class Bounds:
    """Stands before what takes replies from nodes; one at a time, so that none slips past."""

    def __init__(self) -> None:
        self._lock = Lock()

    def announced(self, push: Push) -> Push:
        """Return a way to take announcements that refuses what is no reply, or too large."""

        def pushed(request: PushMessagesRequest, state: SqlLinkState) -> PushMessagesResponse:
            with self._lock:
                tidy(state)
                if fits(request, state):
                    return push(request=request, state=state)
            return PushMessagesResponse()

        return pushed

    def kept(self, keep: Keep) -> Keep:
        """Return a way to take pieces that refuses those beyond the allowance."""

        def kept(
            state: SqlLinkState, run_id: int, session_id: str, object_id: str, content: bytes
        ) -> bool:
            with self._lock:
                if (found := answered(state, session_id)) is not None:
                    reply, message = found
                    store = _store(state)
                    size = 0 if store.size(object_id) else store.total(reply) + len(content)
                    if size > (limit := allowance(message["group_id"])):
                        state._cleanup_push_session(session_id, cleanup_messages=True)
                        refuse(state, message, f"at most {limit} bytes, got {size} and more")
                        return False
                return bool(session_id) and keep(state, run_id, session_id, object_id, content)

        return kept


def fits(request: PushMessagesRequest, state: SqlLinkState) -> bool:
    """Return whether an announcement is a reply of the node's own, and not of too many pieces."""
    if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
        return False
    metadata, tree = request.messages_list[0].metadata, request.message_object_trees[0]
    if metadata.src_node_id != request.node.node_id or not metadata.reply_to_message_id:
        log.warning("node %d: not a reply of its own", request.node.node_id)
        return False
    message = state.get_valid_message_ins(metadata.reply_to_message_id)
    if message is None or int64_to_uint64(message["dst_node_id"]) != request.node.node_id:
        return True  # Flower refuses it with its reason
    pieces = [piece.object_id for piece in iterate_object_tree(tree)]
    most = FEW + allowance(message["group_id"]) // PIECE
    if len(pieces) > most:
        refuse(state, message, f"at most {most} pieces, got {len(pieces)}")
        return False
    named = tree.object_id == metadata.message_id and len(set(pieces)) == len(pieces)
    if not named or not _same(_store(state), tree):
        refuse(state, message, "each piece once, and as it was announced before")
        return False
    return True


def answered(state: SqlLinkState, session_id: str) -> tuple[str, dict[str, Any]] | None:
    """Return the reply that comes in a session, and the message that it answers; None for none."""
    query = (
        select(MessageRes.message_id, MessageRes.reply_to_message_id)
        .join(ObjectPushSessionRoot, ObjectPushSessionRoot.root_object_id == MessageRes.message_id)
        .where(ObjectPushSessionRoot.session_id == session_id)
    )
    with state.session() as session:
        row = session.execute(query).first()
        message = state.get_valid_message_ins(str(row[1])) if row else None
        return (str(row[0]), message) if row and message else None


def refuse(state: SqlLinkState, message: dict[str, Any], rule: str) -> None:
    """Put an error in the place of the reply to a message."""
    node = int64_to_uint64(message["dst_node_id"])
    log.warning("node %d: its reply must have %s; dropped", node, rule)
    metadata = Metadata(
        run_id=int64_to_uint64(message["run_id"]),
        message_id="",
        src_node_id=node,
        dst_node_id=SUPERLINK_NODE_ID,
        reply_to_message_id=message["message_id"],
        group_id=message["group_id"],
        message_type=message["message_type"],
        created_at=message["created_at"],
        ttl=message["ttl"],
    )
    error = make_message(metadata=metadata, error=Error(TOO_LARGE, f"size: reply must have {rule}"))
    error.metadata.__dict__["_message_id"] = error.object_id
    if state.store_message_res(error) is not None:
        state._store_generated_message(error)


def tidy(state: SqlLinkState) -> None:
    """Free what expired messages and their replies hold: nobody fetches or confirms it any more."""
    over = MessageIns.created_at + MessageIns.ttl < now().timestamp()
    with state.session() as session:
        messages = {
            str(name) for name in session.scalars(select(MessageIns.message_id).where(over))
        }
        if not messages:
            return
        replies = select(MessageRes.message_id).where(MessageRes.reply_to_message_id.in_(messages))
        for name in messages.union(map(str, session.scalars(replies))):
            state.object_store.delete(name)
        state.delete_messages(messages)


def _same(store: FileObjectStore, tree: ObjectTree) -> bool:
    """Return whether those pieces of a tree that are known already have the same parts."""
    with store.lock_store:
        for piece in iterate_object_tree(tree):
            known = store.store.get(piece.object_id)
            parts = [part.object_id for part in piece.children]
            if known is not None and known.child_object_ids != parts:
                return False
    return True


def _store(state: SqlLinkState) -> FileObjectStore:
    assert isinstance(state.object_store, FileObjectStore)
    return state.object_store
