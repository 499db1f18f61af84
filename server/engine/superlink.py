"""``flower-superlink`` as a centre needs it, for `up`. Flower 1.41 has no settings for any of it.

*Patience*: Flower gives up on a ServerApp that has not reported 30 s after it was claimed, and
starts another one beside it; on a busy machine the imports alone take longer. And it refuses a
SuperNode whose clock is 5 s ahead of the centre's or 5 minutes behind; a plant's clock may be off
as far as elsewhere (`common.pki`).

*Pieces as files* rather than in the database: `server.engine.objects`.

*Whole replies*: Flower hands a reply out when its upload begins. Whoever takes it waits for the
rest, with longer and longer pauses, and meanwhile takes no other: a plant on a slow line would hold
up all others until the round is over. Here a reply is handed out once it is all there, or once its
upload has stood still for three minutes, which is then told as an error.

*Again*: Flower takes a message for delivered once it has answered, though the answer is lost where
the edge or a line dies that moment; the plant would hear nothing until the round's deadline. A
SuperNode asks for a message only while it has none, so what it was given and has not confirmed goes
out again.

*Left*: a SuperNode asks for a message only while it sends none. An upload that it has not finished
then, because it was killed or the edge was, it never will; it is ended at once, and the plant asked
again, where Flower would wait for three minutes.

*Twice*: a piece of a reply that comes again because the answer to it was lost is fine. Flower calls
it a failure, and the SuperNode drops the reply.

*Later*: a full disk or a locked database is "try again" (503), which every part of Flower does. Its
own answer (500) ends the thread of a SuperNode that says that it lives, and loses replies.

*Kept*: a SuperExec that dies is started again (`common.kept`).

*Bounds*: what a node may announce and put, before it is kept (`server.engine.bounds`).

*Closed*: connections must show the inner key (`server.engine.inner`), where there is an edge.
"""

from __future__ import annotations

import importlib
import logging
import os
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fastapi import HTTPException, Request, Response, status
from flwr.app import Message
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.corestate import sql_corestate
from flwr.supercore.date import now
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.object_store.object_store import ObjectStore
from flwr.supercore.state.schema.corestate_models import (
    ObjectPushSession,
    ObjectPushSessionPending,
    ObjectPushSessionRoot,
)
from flwr.supercore.state.schema.linkstate_models import MessageIns, MessageRes
from flwr.supercore.utils import uint64_to_int64
from flwr.superlink import config_loader
from flwr.superlink.routers.fleet import node_auth
from flwr.superlink.servicer.fleet import fleet_handlers
from sqlalchemy import select, update
from sqlalchemy.exc import OperationalError

from common.home import VARIABLE
from common.kept import Subprocess
from common.pki import TOLERANCE
from server.engine import inner
from server.engine.bounds import Bounds
from server.engine.objects import FileObjectStore

PATIENCE = 120  #: seconds
TAKE = "get_message_res"  #: of Flower's state: what hands replies out
OBJECTS = "objects"  #: folder of the centre's, for pieces on their way

GIVE = "get_message_ins"  #: and what gives messages to SuperNodes
KEEP = "store_object"  #: and what takes a piece of a reply
PUSH = "push_messages"  #: of Flower's handlers: what takes the announcement of a reply
TIMES = 5  #: that a message goes out again
TRANSLATOR = "http_error_translator"  #: of Flower's application: turns errors into answers

Take = Callable[[SqlLinkState, set[str], int], list[Message]]
Give = Callable[..., list[Message]]
Keep = Callable[[SqlLinkState, int, str, str, bytes], bool]
Next = Callable[[Request], Awaitable[Response]]
Translate = Callable[[Request, Next], Awaitable[Response]]

log = logging.getLogger(__name__)


def whole(take: Take) -> Take:
    """Return a way to take replies that leaves those whose upload goes on where they are."""

    def taken(self: SqlLinkState, message_ids: set[str], run_id: int) -> list[Message]:
        found = take(self, message_ids - uploading(self, message_ids), run_id)
        for message in found:  # what was answered need not be fetched, whoever has confirmed it
            self.object_store.delete(message.metadata.reply_to_message_id)
        return found

    return taken


def uploading(state: SqlLinkState, messages: set[str]) -> set[str]:
    """Return those of some messages to which a reply is on its way up right now."""
    query = (
        select(MessageRes.reply_to_message_id)
        .join(ObjectPushSessionRoot, ObjectPushSessionRoot.root_object_id == MessageRes.message_id)
        .join(
            ObjectPushSession,
            ObjectPushSession.session_id == ObjectPushSessionRoot.session_id,
        )
        .where(
            MessageRes.reply_to_message_id.in_(messages),
            ObjectPushSession.expires_at > now(),
            select(ObjectPushSessionPending.object_id)
            .where(ObjectPushSessionPending.session_id == ObjectPushSession.session_id)
            .exists(),
        )
    )
    with state.session() as session:
        return {str(ident) for ident in session.scalars(query)}


def again(give: Give) -> Give:
    """Return a way to give messages to a node that gives it again what it has not confirmed."""
    times: Counter[str] = Counter()

    def given(self: SqlLinkState, node_id: int, limit: int | None, **rest: Any) -> list[Message]:
        lost = {ident for ident in unconfirmed(self, node_id) if times[ident] < TIMES}
        if lost:
            times.update(lost)
            log.warning("node %d has not confirmed %d messages: again", node_id, len(lost))
            with self.session() as session:
                chosen = update(MessageIns).where(MessageIns.message_id.in_(lost))
                session.execute(chosen.values(delivered_at=""))
        return give(self, node_id, limit, **rest)

    return given


def leaving(give: Give) -> Give:
    """Return a way to give messages to a node that ends the uploads which that node has left."""

    def given(self: SqlLinkState, node_id: int, limit: int | None, **rest: Any) -> list[Message]:
        if left := unfinished(self, node_id):
            log.warning("node %d has left %d replies unfinished", node_id, len(left))
            with self.session() as session:
                chosen = update(ObjectPushSession).where(ObjectPushSession.session_id.in_(left))
                session.execute(chosen.values(expires_at=now()))
        return give(self, node_id, limit, **rest)

    return given


def unfinished(state: SqlLinkState, node: int) -> list[str]:
    """Return the sessions in which a node's replies have not come up whole."""
    query = (
        select(ObjectPushSession.session_id)
        .join(
            ObjectPushSessionRoot,
            ObjectPushSessionRoot.session_id == ObjectPushSession.session_id,
        )
        .join(MessageRes, MessageRes.message_id == ObjectPushSessionRoot.root_object_id)
        .where(
            MessageRes.src_node_id == uint64_to_int64(node),
            ObjectPushSession.expires_at > now(),
        )
    )
    with state.session() as session:
        return [str(ident) for ident in session.scalars(query)]


def repeated(keep: Keep) -> Keep:
    """Return a way to take pieces for which one that is there already is no failure."""

    def kept(
        self: SqlLinkState, run_id: int, session_id: str, object_id: str, content: bytes
    ) -> bool:
        # A piece's name is its content's digest, so what is there is the same.
        taken = keep(self, run_id, session_id, object_id, content)
        return taken or bool(self.object_store.get(object_id))

    return kept


def unconfirmed(state: SqlLinkState, node: int) -> list[str]:
    """Return the messages that a node was given and of which it has not said that it has them."""
    query = select(MessageIns.message_id).where(
        MessageIns.dst_node_id == uint64_to_int64(node),
        MessageIns.delivered_at != "",
        MessageIns.created_at + MessageIns.ttl > now().timestamp(),
    )
    with state.session() as session:
        given = [str(ident) for ident in session.scalars(query)]
    # Flower deletes what a message carries once the node has confirmed it.
    return [ident for ident in given if state.object_store.get(ident) is not None]


def store_in(folder: Path) -> type[ObjectStoreFactory]:
    """Return Flower's factory of object stores, but for files of a folder."""

    class Factory(ObjectStoreFactory):
        def store(self) -> ObjectStore:
            with self._store_lock:
                if self.store_instance is None:
                    self.store_instance = FileObjectStore(folder)
            return self.store_instance

    return Factory


def later(translate: Translate) -> Translate:
    """Return a way to answer requests that asks for patience where the disk is in the way."""

    async def answered(request: Request, call: Next) -> Response:
        async def called(request: Request) -> Response:
            try:
                return await call(request)
            except (OperationalError, OSError) as error:
                log.warning("%s: %s", request.url.path, " ".join(str(error).split())[:200])
                raise HTTPException(status.HTTP_503_SERVICE_UNAVAILABLE) from error

        return await translate(request, called)

    return answered


def close(names: dict[str, object], key: inner.Inner) -> None:
    """Let the web server of SuperLink's module take only who shows the inner key."""
    uvicorn = names["uvicorn"]
    run = partial(
        uvicorn.run,  # type: ignore[attr-defined]
        ssl_ca_certs=str(key.certificate),
        ssl_cert_reqs=ssl.CERT_REQUIRED,
    )
    names["uvicorn"] = SimpleNamespace(run=run)


def _set(names: dict[str, object], name: str, value: object) -> None:
    assert name in names, f"another Flower: {name}"
    names[name] = value


def main() -> None:
    """Run SuperLink."""
    _set(vars(sql_corestate), "HEARTBEAT_DEFAULT_INTERVAL", PATIENCE)
    # A signed time is accepted from so many seconds ahead to twice as many behind.
    _set(vars(node_auth), "SYSTEM_TIME_TOLERANCE", int(TOLERANCE.total_seconds()))
    _set(vars(node_auth), "TIMESTAMP_TOLERANCE", int(TOLERANCE.total_seconds()))
    _set(vars(config_loader), "ObjectStoreFactory", store_in(Path(os.environ[VARIABLE]) / OBJECTS))
    bounds = Bounds()
    setattr(SqlLinkState, KEEP, repeated(bounds.kept(getattr(SqlLinkState, KEEP))))
    _set(vars(fleet_handlers), PUSH, bounds.announced(fleet_handlers.push_messages))
    setattr(SqlLinkState, GIVE, leaving(again(getattr(SqlLinkState, GIVE))))
    names = vars(importlib.import_module("flwr.superlink.main"))
    _set(names, TRANSLATOR, later(names[TRANSLATOR]))
    setattr(SqlLinkState, TAKE, whole(getattr(SqlLinkState, TAKE)))
    # The package has a function of the module's name.
    module = importlib.import_module("flwr.superlink.cli.flower_superlink")
    _set(vars(module), "subprocess", Subprocess())
    if key := os.environ.get(inner.VARIABLE):
        close(vars(module), inner.Inner(key=Path(key)))
    module.flower_superlink()


if __name__ == "__main__":
    main()
