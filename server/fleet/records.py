"""What is said to plants and by them, in and out of Flower's containers.

A message holds a head of text, a seal, and at most one flat array, whatever the model is. Whatever
a node sends back becomes a reply of its plant; what is wrong with it becomes the reply's reason.
"""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from common.errors import AggregationError, IdentityError, UpdateError
from common.orders import Order, Outcome, Reply
from common.secagg.messages import Said
from common.wire.messages import REASON_LIMIT, unpack_reply, unpack_said
from common.wire.parts import Parts

DTYPE = "uint8"
STYPE = "transferline.bytes"  #: Flower does not look inside


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
