"""Where simulated plants keep the sessions of secure sums under the ``flower`` engine.

Flower's simulation hands each message to any free Ray actor, so nothing that an actor remembers is
there for the next message. The process that runs the simulation outlives all of them: it keeps the
plants' desks (`simulation.desks`) and answers on a Unix socket in a folder that only its user can
enter. An actor trains in the clear and has the update masked here, as at a plant the training
process does at the daemon.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path

from common.errors import AggregationError, EngineError, TransferlineError
from common.secagg.messages import Said
from common.wire.messages import (
    pack_reply,
    pack_said,
    read_order,
    unpack_call,
    unpack_reply,
)
from common.wire.parts import Parts
from simulation.desks import Desks

log = logging.getLogger(__name__)

CALL, EXAMINE, MASK = "call", "examine", "mask"


@contextmanager
def desk_host(home: Path, *, plants: Sequence[str]) -> Iterator[str]:
    """Keep the desks of a run folder and yield the address at which they answer."""
    desks = Desks.open(home, plants=plants)
    # A socket's path has at most 107 characters.
    folder = tempfile.mkdtemp(prefix="tl-", dir="/tmp" if len(tempfile.gettempdir()) > 25 else None)
    try:
        with Listener(f"{folder}/desks", family="AF_UNIX", backlog=64) as listener:
            serving = threading.Thread(target=_accept, args=(listener, desks), daemon=True)
            serving.start()
            yield f"{folder}/desks"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def call(address: str, folder: Path, parts: Parts) -> Parts:
    """Answer a call of a secure sum; called in an actor."""
    return _ask(address, CALL, folder, [parts.head.encode()])


def answer(address: str, folder: Path, parts: Parts, work: Callable[[], Parts]) -> Parts:
    """Answer an order, with the desk before and after the work; called in an actor."""
    order = parts.head.encode()
    refusal = _ask(address, EXAMINE, folder, [order])
    if refusal.head:
        return refusal
    reply = work()
    return _ask(address, MASK, folder, [order, reply.head.encode(), reply.vector or b""])


def _ask(address: str, kind: str, folder: Path, texts: Sequence[bytes]) -> Parts:
    try:
        with Client(address, family="AF_UNIX") as connection:
            connection.send_bytes(json.dumps({"kind": kind, "plant": folder.name}).encode())
            for text in texts:
                connection.send_bytes(text)
            head, vector = connection.recv_bytes(), connection.recv_bytes()
    except (EOFError, OSError) as error:
        raise EngineError(f"the process that runs the simulation must answer: {error}") from error
    return Parts(head=head.decode(), vector=vector or None)


def _accept(listener: Listener, desks: Desks) -> None:
    while True:
        try:
            connection = listener.accept()
        except OSError:  # closed
            return
        threading.Thread(target=_serve, args=(connection, desks), daemon=True).start()


def _serve(connection: Connection, desks: Desks) -> None:
    """Answer one question; who asks may be killed meanwhile."""
    with connection, suppress(EOFError, OSError):
        asked = json.loads(connection.recv_bytes())
        plant, head = asked["plant"], connection.recv_bytes().decode()
        if asked["kind"] == CALL:
            parts = _call(desks, plant, head)
        elif asked["kind"] == EXAMINE:
            order, beside = read_order(head)
            refusal = desks.refusal(plant, order, beside)
            parts = Parts(head="") if refusal is None else pack_reply(refusal)
        else:
            order, beside = read_order(head)
            reply = connection.recv_bytes().decode(), connection.recv_bytes()
            plain = unpack_reply(Parts(head=reply[0], vector=reply[1] or None))
            parts = pack_reply(desks.mask(plant, order, beside, plain))
        connection.send_bytes(parts.head.encode())
        connection.send_bytes(parts.vector or b"")


def _call(desks: Desks, plant: str, head: str) -> Parts:
    try:
        return pack_said(desks.call(plant, unpack_call(Parts(head=head))))
    except TransferlineError as error:
        told = str(error) if isinstance(error, AggregationError) else error.code
        return pack_said(Said(reason=told[:500]))
