"""Orders and replies under signature: nothing of one can be put under the envelope of another."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.config import FederationConfig
from common.errors import IdentityError, UpdateError
from common.orders import Kind, Order, Outcome, Release, Reply
from common.pki import Authority, Certificate, Role, Trust
from common.signing import Signer, open_seal, seal
from common.update import Schema
from common.wire import seals
from common.wire.messages import pack_order, pack_reply
from common.wire.parts import Parts
from common.wire.seals import open_order, open_reply, seal_order, seal_reply

NOW = datetime(2030, 5, 1, 12, tzinfo=UTC)
NONCE = "5" * 32
SCHEMA = Schema({"backbone.a": (2, 3)})


@cache
def authority(name: str) -> Authority:
    with TemporaryDirectory() as folder:
        return Authority.create(Path(folder), federation="acme", at=NOW)


@cache
def signer(name: str, *, role: Role = Role.PLANT, of: str = "ours") -> Signer:
    key = Ed25519PrivateKey.generate()
    certificate = authority(of).issue(key.public_key(), name=name, role=role, days=30, at=NOW)
    return Signer(key=key, certificate=certificate, name=name)


def trust() -> Trust:
    return Trust.of(authority("ours").pem)


def release(value: float = 1.0) -> Release:
    return Release(number=3, schema=SCHEMA, vector=np.full(6, value, np.float32))


def order(**changes: Any) -> Order:
    fields: dict[str, Any] = {
        "run": "r", "round": 4, "kind": Kind.TRAIN, "release": release().hash,
        "cohort": ("ash", "elm"), "deadline": 5.0, "config": FederationConfig(),
    }  # fmt: skip
    return Order(**(fields | changes))


def reply(**changes: Any) -> Reply:
    fields: dict[str, Any] = {
        "plant": "ash", "run": "r", "round": 4, "release": release().hash,
        "outcome": Outcome.DONE, "payload": np.ones(6, np.float32).tobytes(), "weight": 9,
    }  # fmt: skip
    return Reply(**(fields | changes))


def sealed_order(said: Order | None = None, *, by: Signer | None = None) -> Parts:
    said = said or order()
    return seal_order(
        pack_order(said, release()), said, signer=by or signer("centre", role=Role.RELEASE)
    )


def sealed_reply(said: Reply | None = None, *, by: str = "ash", nonce: str = NONCE) -> Parts:
    said = said or reply()
    return seal_reply(pack_reply(said), said, nonce=nonce, signer=signer(by))


def opened(parts: Parts, *, nonce: str = NONCE, at: datetime = NOW) -> tuple[Reply, Certificate]:
    return open_reply(parts, trust=trust(), at=at, nonce=nonce)


def test_an_order_comes_back_with_a_nonce_of_its_sending() -> None:
    nonces = set()
    for _ in range(3):
        got, its_release, nonce = open_order(sealed_order(), trust=trust(), at=NOW)
        assert (got, its_release.hash) == (order(), release().hash)
        nonces.add(nonce)
    assert len(nonces) == 3


def test_a_reply_comes_back_with_its_signer() -> None:
    got, who = opened(sealed_reply())
    assert (got.head(), who.name, who.role) == (reply().head(), "ash", Role.PLANT)
    declined = reply(outcome=Outcome.DECLINED, payload=None, weight=0, reason="not now")
    assert opened(sealed_reply(declined))[0].reason == "not now"


def test_an_order_without_seal_or_signed_by_a_plant_is_refused() -> None:
    for parts, said in (
        (pack_order(order(), release()), "signed envelope order, got none"),
        (sealed_order(by=signer("ash")), "role release, got plant"),
        (sealed_order(by=signer("centre", role=Role.SERVER)), "role release, got server"),
        (sealed_order(by=signer("centre", role=Role.RELEASE, of="theirs")), "got one of another"),
        (replace(sealed_order(), seal=sealed_reply().seal), "kind order, got 'update'"),
    ):
        with pytest.raises(IdentityError, match=said):
            open_order(parts, trust=trust(), at=NOW)


@pytest.mark.parametrize(
    "changes",
    [
        {"round": 5},
        {"run": "s"},
        {"kind": Kind.ADOPT},
        {"cohort": ("ash",)},
        {"deadline": 6.0},
        {"config": FederationConfig(rounds=3)},
    ],
)
def test_the_head_of_another_order_is_refused(changes: dict[str, Any]) -> None:
    other = pack_order(order(**changes), release())
    with pytest.raises(IdentityError, match="altered on its way"):
        open_order(replace(other, seal=sealed_order().seal), trust=trust(), at=NOW)


def test_the_vector_of_another_release_is_refused() -> None:
    parts = sealed_order()
    assert parts.vector is not None
    with pytest.raises(UpdateError, match="damaged on its way"):
        open_order(replace(parts, vector=parts.vector[:-1] + b"\x01"), trust=trust(), at=NOW)
    with pytest.raises(UpdateError, match="24 bytes"):
        open_order(replace(parts, vector=parts.vector[:-4]), trust=trust(), at=NOW)


@pytest.mark.parametrize(
    ("name", "value"),
    [("round", 5), ("run", "s"), ("kind", "adopt"), ("release", "0" * 64), ("cohort", ["ash"]),
     ("round", 4.0), ("round", True), ("cohort", "ash")],
)  # fmt: skip
def test_an_envelope_that_says_something_else_than_its_order_is_refused(
    name: str, value: Any
) -> None:
    """Even one that the centre signed: nobody is to act on one and log the other."""
    by = signer("centre", role=Role.RELEASE)
    parts = sealed_order()
    fields = dict(
        open_seal(parts.seal, kind="order", trust=trust(), role=Role.RELEASE, at=NOW).fields
    )
    odd = replace(parts, seal=seal("order", fields | {name: value}, signer=by))
    with pytest.raises(IdentityError, match=f"got another {name}"):
        open_order(odd, trust=trust(), at=NOW)
    del fields["head"]
    with pytest.raises(IdentityError, match="altered on its way"):
        open_order(replace(parts, seal=seal("order", fields, signer=by)), trust=trust(), at=NOW)


@pytest.mark.parametrize(
    "changes",
    [
        {"weight": 10**9},
        {"scores": {"trained": {"loss": 0.0}}},
        {"payload": bytes(24)},
        {"payload": None},
        {"outcome": Outcome.FAILED},
        {"round": 5},
        {"plant": "elm"},
    ],
)
def test_another_reply_under_the_same_envelope_is_refused(changes: dict[str, Any]) -> None:
    other = pack_reply(reply(**changes))
    with pytest.raises(IdentityError, match="altered on its way"):
        opened(replace(other, seal=sealed_reply().seal))


def test_a_plant_cannot_answer_for_another() -> None:
    with pytest.raises(IdentityError, match=r"'ash' must be signed by that plant.*'elm'"):
        opened(sealed_reply(by="elm"))


def test_a_reply_to_another_sending_is_refused() -> None:
    """A replayed message: signed, sound, and of the same order, but sent before."""
    first, again = "1" * 32, "2" * 32
    parts = sealed_reply(nonce=first)
    assert opened(parts, nonce=first)[0].plant == "ash"
    with pytest.raises(IdentityError, match="nonce of its order"):
        opened(parts, nonce=again)


def test_head_and_vector_cannot_lend_each_other_bytes() -> None:
    digests = {
        seals._digest(head, vector)
        for head, vector in (
            ("ab", None), ("ab", b""), ("a", b"b"), ("", b"ab"), ("ab\x01", None), ("ab", b"\x01")
        )
    }  # fmt: skip
    assert len(digests) == 6


def test_an_expired_plant_is_refused_and_a_clock_may_be_off() -> None:
    end = NOW + timedelta(days=30)
    assert opened(sealed_reply(), at=end + timedelta(minutes=10))
    with pytest.raises(IdentityError, match="ended"):
        opened(sealed_reply(), at=end + timedelta(minutes=16))


def test_sizes_come_before_hashing(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = sealed_reply()
    monkeypatch.setattr(seals, "_digest", None)
    for name in ("HEAD_LIMIT", "VECTOR_LIMIT"):
        with monkeypatch.context() as patched:
            patched.setattr(seals, name, 5)
            with pytest.raises(IdentityError, match="at most"):
                opened(parts)


def test_a_signed_reply_out_of_range_is_still_refused() -> None:
    head = json.loads(pack_reply(reply()).head)
    head["reply"]["weight"] = -1
    parts = Parts(head=json.dumps(head), vector=bytes(24))
    odd = seal_reply(parts, reply(), nonce=NONCE, signer=signer("ash"))
    with pytest.raises(UpdateError, match="weight"):
        opened(odd)
