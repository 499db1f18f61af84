"""Orders and replies under signature: parts and envelope together, checked against each other.

An order's envelope names run, round, kind, release, cohort and the hash of the whole head; the
release's vector is bound by the release's hash. A reply's envelope names plant, run, round,
release and outcome, the hash over head and vector, and carries the nonce of the order that it
answers. On arrival the envelope is verified first, then the hash, then the parts are read, then
every field is compared.

Covered: an order that the centre did not sign, a reply that the plant did not sign or that answers
another sending, one part exchanged under the envelope of another.

Not covered: an order that was signed and is sent again (the plant's ledger), who is revoked (the
centre's registry), whether an update is sound (`server.admission`).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from common.errors import IdentityError
from common.orders import Order, Release, Reply
from common.pki import Certificate, Role, Trust
from common.secagg.messages import Call
from common.signing import Sealed, Signer, open_seal, seal
from common.wire.messages import unpack_call, unpack_order, unpack_reply
from common.wire.parts import HEAD_LIMIT, VECTOR_LIMIT, Parts

ORDER, UPDATE, CALL = "order", "update", "secagg call"


def seal_order(parts: Parts, order: Order, *, signer: Signer) -> Parts:
    """Return the parts of a packed order with the centre's envelope; its nonce is fresh.

    Raises
    ------
    IdentityError
        If the cohort is too large for one envelope.
    """
    fields = _order_fields(order) | {"head": _digest(parts.head, None)}
    return replace(parts, seal=seal(ORDER, fields, signer=signer))


def open_order(parts: Parts, *, trust: Trust, at: datetime) -> tuple[Order, Release, str]:
    """Verify an order; return it, its release, and the nonce that the reply must carry.

    Raises
    ------
    IdentityError
        If the centre did not sign exactly this.
    UpdateError
        If what it signed is no order, or the release is not the one that it names.
    """
    sealed = check_order(parts, trust=trust, at=at)
    order, release = unpack_order(parts)
    _check_fields(sealed.fields, _order_fields(order), ORDER)
    return order, release, sealed.nonce


def check_order(parts: Parts, *, trust: Trust, at: datetime) -> Sealed:
    """Verify that the centre signed an order's head, before its vector is there.

    Raises
    ------
    IdentityError
        As `open_order`.
    """
    sealed = open_seal(parts.seal, kind=ORDER, trust=trust, role=Role.RELEASE, at=at)
    _check_payload(sealed.fields.get("head"), parts.head, None, ORDER)
    return sealed


def seal_call(parts: Parts, *, plant: str, signer: Signer) -> Parts:
    """Return the parts of a packed call with the centre's envelope, for one plant."""
    fields = {"plant": plant, "head": _digest(parts.head, None)}
    return replace(parts, seal=seal(CALL, fields, signer=signer))


def open_call(parts: Parts, *, plant: str, trust: Trust, at: datetime) -> Call:
    """Verify and read a call.

    Raises
    ------
    IdentityError
        If the centre did not sign exactly this for this plant.
    UpdateError, AggregationError
        If what it signed is no call.
    """
    said = open_seal(parts.seal, kind=CALL, trust=trust, role=Role.RELEASE, at=at).fields
    if said.get("plant") != plant:
        raise IdentityError(f"call must be for {plant}, got one for another plant")
    _check_payload(said.get("head"), parts.head, None, CALL)
    return unpack_call(parts)


def seal_reply(parts: Parts, reply: Reply, *, nonce: str, signer: Signer) -> Parts:
    """Return the parts of a packed reply with the plant's envelope.

    Parameters
    ----------
    nonce : of the order's envelope.
    """
    fields = _reply_fields(reply) | {"payload": _digest(parts.head, parts.vector)}
    return replace(parts, seal=seal(UPDATE, fields, signer=signer, nonce=nonce))


def open_reply(
    parts: Parts, *, trust: Trust, at: datetime, nonce: str
) -> tuple[Reply, Certificate]:
    """Verify a reply; return it and the certificate of the plant that signed it.

    Whether that certificate is still that plant's, and not revoked, says the registry.

    Parameters
    ----------
    nonce : of the order that was sent.

    Raises
    ------
    IdentityError
        If the plant that it names did not sign exactly this, or it answers another sending.
    UpdateError
        If what was signed is no reply.
    """
    sealed = open_seal(parts.seal, kind=UPDATE, trust=trust, role=Role.PLANT, at=at)
    if not hmac.compare_digest(sealed.nonce, nonce):
        raise IdentityError(
            f"reply of {sealed.signer.name} must carry the nonce of its order, got another; it "
            "answers an earlier sending, or was sent twice"
        )
    _check_payload(sealed.fields.get("payload"), parts.head, parts.vector, UPDATE)
    reply = unpack_reply(parts)
    _check_fields(sealed.fields, _reply_fields(reply), UPDATE)
    if sealed.signer.name != reply.plant:
        raise IdentityError(
            f"reply of {reply.plant!a} must be signed by that plant, got the signature of "
            f"{sealed.signer.name!a}"
        )
    return reply, sealed.signer


def _order_fields(order: Order) -> dict[str, Any]:
    return {
        "run": order.run,
        "round": order.round,
        "kind": str(order.kind),
        "release": order.release,
        "cohort": list(order.cohort),
    }


def _reply_fields(reply: Reply) -> dict[str, Any]:
    return {
        "plant": reply.plant,
        "run": reply.run,
        "round": reply.round,
        "release": reply.release,
        "outcome": str(reply.outcome),
    }


def _digest(head: str, vector: bytes | None) -> str:
    """Return the SHA-256 over head and vector, hex; no head or vector is part of the other."""
    text = head.encode("utf-8", "surrogatepass")
    digest = hashlib.sha256(len(text).to_bytes(8, "big") + text)
    if vector is not None:
        digest.update(b"\x01")
        digest.update(vector)
    return digest.hexdigest()


def _check_payload(said: Any, head: str, vector: bytes | None, kind: str) -> None:
    if len(head) > HEAD_LIMIT or (vector is not None and len(vector) > VECTOR_LIMIT):
        raise IdentityError(
            f"{kind} must have at most {HEAD_LIMIT} characters and {VECTOR_LIMIT} bytes, got "
            f"{len(head)} and {len(vector or b'')}"
        )
    if not isinstance(said, str) or not hmac.compare_digest(
        said.encode("utf-8", "surrogatepass"), _digest(head, vector).encode()
    ):
        raise IdentityError(
            f"{kind} must be what was signed, got another; it was altered on its way"
        )


def _check_fields(said: Mapping[str, Any], held: Mapping[str, Any], kind: str) -> None:
    """Compare what the envelope says with what the parts say, types included."""
    for name, value in held.items():
        if type(said.get(name)) is not type(value) or said[name] != value:
            raise IdentityError(
                f"{kind} must agree with its envelope, got another {name}; it was altered"
            )
