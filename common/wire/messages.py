"""Orders and replies as plain parts: a JSON head, and bytes.

A transport puts both into whatever it sends and hands them back at the other end, where
everything is checked before it is used: format, size against the schema before a value is looked
at, types and ranges of every field. A release is little-endian float32 and is never copied on
arrival: what comes back is a read-only view of the bytes. An update stays bytes in its form.

Not covered: what the bytes of an update say (`server.admission`), and who sent it (signatures).
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.config import FederationConfig
from common.errors import UpdateError
from common.orders import Kind, Order, Outcome, Release, Reply
from common.secagg.messages import Call, Said
from common.update import Schema, Vector
from common.wire.parts import HEAD_LIMIT, VECTOR_LIMIT, Parts

FORMAT = 1  #: of the heads; the other side refuses one that it does not know
REASON_LIMIT = 500  #: characters of a reply's reason; longer ones are cut when they are sent

Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f/\\]+$")]
Digest = Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
HeadT = TypeVar("HeadT", bound=BaseModel)


class _Head(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal[1]


class _ReleaseFields(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    number: int = Field(ge=0)
    schema_: str = Field(alias="schema", max_length=HEAD_LIMIT)


class _OrderFields(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    run: str = Field(max_length=200)
    round: int = Field(ge=0, le=1_000_000)
    kind: Kind
    release: Digest
    cohort: Annotated[tuple[Name, ...], Field(max_length=100_000)]
    deadline: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    config: FederationConfig


class _OrderHead(_Head):
    order: _OrderFields
    release: _ReleaseFields
    beside: str = Field("", max_length=HEAD_LIMIT)


class _ReplyFields(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    plant: Name
    run: str = Field(max_length=200)
    round: int = Field(ge=0, le=1_000_000)
    release: Digest
    outcome: Outcome
    reason: str = Field(max_length=REASON_LIMIT)
    schema_: Digest = Field(alias="schema")
    weight: int = Field(ge=0, le=1_000_000_000)
    scores: Annotated[
        dict[Name, Annotated[dict[Name, Finite], Field(max_length=1000)]], Field(max_length=16)
    ]
    seconds: Annotated[dict[Name, Seconds], Field(max_length=100)]
    notes: Annotated[dict[Name, Any], Field(max_length=100)]
    beside: str = Field("", max_length=HEAD_LIMIT)


class _ReplyHead(_Head):
    reply: _ReplyFields


class _HelloHead(_Head):
    plant: Name


class _CallHead(_Head):
    call: str = Field(max_length=HEAD_LIMIT)


class _SaidHead(_Head):
    said: str = Field(max_length=HEAD_LIMIT)


def pack_order(order: Order, release: Release, *, beside: str = "") -> Parts:
    """Return the parts of an order and the release that goes with it.

    Parameters
    ----------
    beside : what goes to this plant alone (`common.secagg.messages.Beside`), JSON text.
    """
    head = {
        "format": FORMAT,
        "order": json.loads(order.to_json()),
        "release": {"number": release.number, "schema": release.schema.to_json()},
        **({"beside": beside} if beside else {}),
    }
    return Parts(head=json.dumps(head), vector=vector_bytes(release.vector))


def unpack_order(parts: Parts) -> tuple[Order, Release]:
    """Check and read an order and its release.

    Raises
    ------
    UpdateError
        If the parts are not an order, are too large, or the release is not the one that the order
        names.
    """
    head = _read_head(_OrderHead, parts.head, "order")
    order = _order(head.order)
    schema = _schema(head.release)
    if parts.vector is None:
        raise UpdateError("order must come with a release, got none; send it again")
    vector = bytes_vector(parts.vector, size=schema.size)
    release = Release(number=head.release.number, schema=schema, vector=vector)
    if release.hash != order.release:
        raise UpdateError(
            f"release must be the one the order names, {order.release[:12]}, got "
            f"{release.hash[:12]}; it was damaged on its way"
        )
    return order, release


def read_order(head: str) -> tuple[Order, str]:
    """Read an order's head alone; return it, and what goes with it to this plant ("" for nothing).

    Raises
    ------
    UpdateError
        If the head is not that of an order.
    """
    fields = _read_head(_OrderHead, head, "order")
    return _order(fields.order), fields.beside


def release_bytes(head: str) -> int:
    """Return how many bytes the vector has that goes with an order's head.

    Raises
    ------
    UpdateError
        If the head is not that of an order.
    """
    return 4 * _schema(_read_head(_OrderHead, head, "order").release).size


def pack_reply(reply: Reply) -> Parts:
    """Return the parts of a reply; an overlong reason is cut."""
    fields = json.loads(reply.head())
    fields["reason"] = fields["reason"][:REASON_LIMIT]
    head = json.dumps({"format": FORMAT, "reply": fields})
    return Parts(head=head, vector=reply.payload)


def unpack_reply(parts: Parts) -> Reply:
    """Check and read a reply; what its bytes say is not looked at.

    Raises
    ------
    UpdateError
        If the parts are not a reply or a field is out of its range.
    """
    fields = _read_head(_ReplyHead, parts.head, "reply").reply
    if parts.vector is not None and len(parts.vector) > VECTOR_LIMIT:
        raise UpdateError(f"update must have at most {VECTOR_LIMIT} bytes, got {len(parts.vector)}")
    return Reply.of(json.dumps(fields.model_dump(mode="json", by_alias=True)), parts.vector)


def pack_call(call: Call) -> Parts:
    """Return the parts of the centre's questions in a secure sum."""
    return Parts(head=json.dumps({"format": FORMAT, "call": call.to_json()}))


def unpack_call(parts: Parts) -> Call:
    """Check and read the centre's questions.

    Raises
    ------
    UpdateError, AggregationError
        If the parts are none.
    """
    return Call.from_json(_read_head(_CallHead, parts.head, "call").call)


def pack_said(said: Said) -> Parts:
    """Return the parts of a plant's answers in a secure sum."""
    return Parts(head=json.dumps({"format": FORMAT, "said": said.to_json()}))


def unpack_said(parts: Parts) -> Said:
    """Check and read a plant's answers; errors as `unpack_call`."""
    return Said.from_json(_read_head(_SaidHead, parts.head, "answer").said)


def pack_hello(plant: str) -> Parts:
    """Return the parts in which a plant says who it is."""
    return Parts(head=json.dumps({"format": FORMAT, "plant": plant}))


def unpack_hello(parts: Parts) -> str:
    """Check and read the name of a plant.

    Raises
    ------
    UpdateError
        If the parts are no greeting or the name could not be that of a plant.
    """
    return _read_head(_HelloHead, parts.head, "greeting").plant


def vector_bytes(vector: Vector) -> bytes:
    """Return a vector's values as little-endian float32."""
    return np.ascontiguousarray(vector, dtype="<f4").tobytes()


def bytes_vector(data: bytes, *, size: int | None = None) -> Vector:
    """Return the values as a read-only float32 view of shape (size,).

    Raises
    ------
    UpdateError
        If there are too many bytes, or not ``size`` whole values.
    """
    if len(data) > VECTOR_LIMIT:
        raise UpdateError(f"vector must have at most {VECTOR_LIMIT} bytes, got {len(data)}")
    if len(data) % 4 or (size is not None and len(data) != 4 * size):
        wanted = "whole float32 values" if size is None else f"{4 * size} bytes"
        raise UpdateError(f"vector must have {wanted}, got {len(data)} bytes")
    return np.frombuffer(data, dtype="<f4").astype(np.float32, copy=False)


def _order(fields: _OrderFields) -> Order:
    return Order(**{name: getattr(fields, name) for name in _OrderFields.model_fields})


def _schema(fields: _ReleaseFields) -> Schema:
    try:
        return Schema.from_json(fields.schema_)
    except (TypeError, ValueError) as error:
        raise UpdateError(f"schema must list names and shapes, got {error}") from error


def _read_head(model: type[HeadT], text: str, what: str) -> HeadT:
    """Validate a head's JSON in one go; the limit comes first."""
    if len(text) > HEAD_LIMIT:
        raise UpdateError(f"{what} must have at most {HEAD_LIMIT} characters, got {len(text)}")
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise UpdateError(
            f"{what} {_first(error)}; both sides must run the same version"
        ) from error


def _first(error: ValidationError) -> str:
    """Return the first complaint as one line: where, rule, value."""
    complaint = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in complaint["loc"]) or "head"
    value = repr(complaint["input"])
    shown = value if len(value) <= 80 else f"{value[:77]}..."
    return f"field {place}: {complaint['msg']}, got {shown}"
