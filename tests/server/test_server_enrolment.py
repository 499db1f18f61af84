"""Joining over real TLS and gRPC, and everybody who must not get in."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from client.joining.enrolment import Joined, join
from common.errors import EngineError, IdentityError, StateError
from common.pki import Role, Trust, make_request
from common.signing import Signer, open_seal, seal
from common.token import Refusal, Token, secret_hash
from common.wire.enrolment_pb2_grpc import EnrolmentStub
from server.enrolment import MESSAGE_LIMIT, Enrolment, serve
from tests.enrolment import CENTRE, TASK, Centre, Stranger, running


@pytest.fixture
def centre(tmp_path: Path) -> Iterator[Centre]:
    with running(tmp_path / "centre") as centre:
        yield centre


@pytest.fixture
def ash(centre: Centre, tmp_path: Path) -> Stranger:
    return Stranger(centre, tmp_path / "by-hand")


def nobody_joined(centre: Centre) -> bool:
    return centre.registry.plants() == [] and centre.engine.keys == []


def test_a_plant_joins_from_an_empty_folder(centre: Centre, tmp_path: Path) -> None:
    token = Token.parse(centre.invite().text())
    told = join(token, tmp_path / "plant")
    assert told == Joined(
        plant="ash",
        federation="acme",
        fleet="centre.example:8443",
        enrolment=centre.address,
        task=TASK,
    )
    identity, link = tmp_path / "plant" / "identity", tmp_path / "plant" / "link"
    assert sorted(path.name for path in identity.iterdir()) == [
        "ca.pem", "identity.key", "identity.pem", "joined.json"
    ]  # fmt: skip
    assert sorted(path.name for path in link.iterdir()) == ["ca.pem", "link.key", "link.pub"]
    for path in (*identity.iterdir(), *link.iterdir()):
        assert path.stat().st_mode & 0o777 == 0o600
    assert identity.stat().st_mode & 0o777 == 0o700

    signer = Signer.open(identity / "identity.key", identity / "identity.pem")
    row = centre.registry.plant("ash")
    assert (row.fingerprint, row.certificate) == (signer.fingerprint, signer.certificate)
    assert row.link_key == (link / "link.pub").read_text().strip() == centre.engine.keys[0]
    assert row.node_id == 2**63
    trust = Trust.of(identity / "ca.pem")
    assert trust.fingerprints == (token.authority,)
    sealed = seal("update", {}, signer=signer)
    at = datetime.now(UTC)
    assert (
        open_seal(sealed, kind="update", trust=trust, role=Role.PLANT, at=at).signer.name == "ash"
    )


def test_no_private_key_and_no_secret_is_kept_by_the_centre(centre: Centre, tmp_path: Path) -> None:
    token = centre.invite()
    join(token, tmp_path / "plant")
    held = b"".join(path.read_bytes() for path in (tmp_path / "centre").glob("state.db*"))
    assert token.secret.encode() not in held
    assert b"PRIVATE" not in held
    written = [path for path in (tmp_path / "plant").rglob("*") if path.is_file()]
    assert not any(token.secret.encode() in path.read_bytes() for path in written)


def test_the_same_join_again_gets_the_same_certificate(centre: Centre, ash: Stranger) -> None:
    secret = centre.invite().secret
    message = ash.message(secret)
    first, again, fresh = ash.send(message), ash.send(message), ash.join(secret)
    assert first.certificate == again.certificate == fresh.certificate
    assert len(centre.engine.keys) == 1


def test_a_replayed_join_is_refused_after_a_few_minutes(centre: Centre, ash: Stranger) -> None:
    message = ash.message(centre.invite().secret)
    assert ash.send(message).plant == "ash"
    centre.clock.ahead = timedelta(minutes=11)
    assert ash.send(message) == Refusal.TOKEN


def test_a_used_token_does_not_work_with_other_keys(
    centre: Centre, ash: Stranger, tmp_path: Path
) -> None:
    token = centre.invite()
    assert ash.join(token.secret).plant == "ash"
    thief = Stranger(centre, tmp_path / "thief")
    assert thief.join(token.secret) == Refusal.TOKEN
    assert len(centre.engine.keys) == 1
    with pytest.raises(IdentityError, match="ask the operator for a new one"):
        join(token, tmp_path / "plant")


def test_one_of_two_who_show_a_token_at_once_gets_in(centre: Centre, tmp_path: Path) -> None:

    secret = centre.invite().secret
    rivals = [Stranger(centre, tmp_path / f"rival-{n}") for n in range(4)]
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda rival: rival.join(secret), rivals))
    assert sorted(isinstance(reply, str) for reply in replies) == [False, True, True, True]
    assert len(centre.engine.keys) == 1


@pytest.mark.parametrize("ahead", [timedelta(hours=24), timedelta(days=400)])
def test_an_expired_token_is_refused(centre: Centre, ash: Stranger, ahead: timedelta) -> None:
    secret = centre.invite().secret
    centre.clock.ahead = ahead
    assert ash.join(secret) == Refusal.TOKEN
    assert nobody_joined(centre)


@pytest.mark.parametrize("secret", ["x", "x" * 43, "'; DROP TABLE tokens; --", "ä", "\x00", "a\nb"])
def test_a_forged_token_is_refused(centre: Centre, ash: Stranger, secret: str) -> None:
    centre.invite()
    assert ash.join(secret) == Refusal.TOKEN
    assert nobody_joined(centre)


def test_the_stored_hash_is_no_token(centre: Centre, ash: Stranger) -> None:

    secret = centre.invite().secret
    assert ash.join(secret_hash(secret)) == Refusal.TOKEN
    assert nobody_joined(centre)


def test_a_token_for_another_name_is_refused(centre: Centre, ash: Stranger, tmp_path: Path) -> None:
    secret = centre.invite("elm").secret
    assert ash.join(secret) == Refusal.TOKEN
    assert nobody_joined(centre)
    with pytest.raises(IdentityError, match="centre refused it"):
        join(centre.token(secret, "oak"), tmp_path / "plant")


def test_a_withdrawn_token_is_refused(centre: Centre, ash: Stranger) -> None:
    secret = centre.invite().secret
    centre.registry.revoke("ash", reason="a mistake")
    assert ash.join(secret) == Refusal.TOKEN
    first, second = centre.invite().secret, centre.invite().secret
    assert ash.join(first) == Refusal.TOKEN
    assert ash.join(second).plant == "ash"


def test_what_the_identity_key_did_not_sign_is_refused(
    centre: Centre, ash: Stranger, tmp_path: Path
) -> None:
    secret, other = centre.invite().secret, Stranger(centre, tmp_path / "other")
    for changes in (
        {"link_key": other.link_key},
        {"request": other.request},
        {"seal": other.message(secret).seal},
        {"seal": ash.message("another").seal},
        {"seal": ""},
        {"seal": "{}"},
        {"seal": json.dumps(json.loads(ash.message(secret).seal) | {"nonce": "0" * 32})},
        {"link_key": f"{ash.link_key} \n{other.link_key}"},
        {"link_key": other.key.public_key().public_bytes_raw().hex()},
    ):
        assert ash.join(secret, **changes) == Refusal.REQUEST, changes
    assert nobody_joined(centre)
    assert ash.join(secret).plant == "ash"


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"protocol": 0}, Refusal.PROTOCOL),
        ({"protocol": 2}, Refusal.PROTOCOL),
        ({"token": ""}, Refusal.REQUEST),
        ({"token": "x" * 129}, Refusal.REQUEST),
        ({"request": "x" * 4097}, Refusal.REQUEST),
        ({"request": ""}, Refusal.REQUEST),
        ({"link_key": "x" * 8193}, Refusal.REQUEST),
        ({"seal": "x" * 32_000}, Refusal.REQUEST),
        ({"seal": "[" * 20_000}, Refusal.REQUEST),
    ],
)
def test_fields_out_of_their_size_are_refused(
    centre: Centre, ash: Stranger, changes: dict[str, Any], refusal: Refusal
) -> None:
    assert ash.join(centre.invite().secret, **changes) == refusal
    assert nobody_joined(centre)


def test_a_message_that_is_too_large_is_not_even_read(centre: Centre, ash: Stranger) -> None:
    said = ash.join(centre.invite().secret, seal="x" * (MESSAGE_LIMIT + 1))
    assert "larger than max" in said
    assert nobody_joined(centre)


def test_a_name_with_controls_never_reaches_the_store(centre: Centre, tmp_path: Path) -> None:

    secret = centre.invite().secret
    stranger = Stranger(centre, tmp_path / "by-hand")
    for name in ("ash\n", "ash\x00", "ash/../elm", " ash", "a\u202esh"):
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        request = x509.CertificateSigningRequestBuilder().subject_name(subject)
        stranger.request = request.sign(stranger.key, None).public_bytes(Encoding.PEM).decode()
        assert stranger.join(secret) == Refusal.REQUEST, name
    assert nobody_joined(centre)


def test_another_plants_keys_are_refused(centre: Centre, ash: Stranger) -> None:
    assert ash.join(centre.invite().secret).plant == "ash"
    ash.name, ash.request = "elm", make_request(ash.key, name="elm")
    assert ash.join(centre.invite("elm").secret) == Refusal.TOKEN
    ash.key = Ed25519PrivateKey.generate()
    ash.request = make_request(ash.key, name="elm")
    assert ash.join(centre.invite("elm").secret) == Refusal.TOKEN
    assert len(centre.registry.plants()) == 1


def test_attempts_are_limited_and_renewals_are_not_kept_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with running(tmp_path / "centre", attempts_per_minute=5) as centre:
        ash = Stranger(centre, tmp_path / "by-hand")
        assert ash.join(centre.invite().secret).plant == "ash"
        with caplog.at_level(logging.WARNING):
            said = [ash.join("guess") for _ in range(8)]
        assert said.count(Refusal.TOKEN) == 4
        assert said.count(Refusal.BUSY) == 4
        assert "guess" not in caplog.text
        assert "127.0.0.1" in caplog.text
        assert ash.send(ash.renewal()).certificate == ash.certificate
        with pytest.raises(EngineError, match="wait a minute"):
            join(centre.invite("elm"), tmp_path / "plant")
        centre.clock.ahead = timedelta(minutes=1)
        assert join(centre.invite("elm"), tmp_path / "plant").plant == "elm"


def test_a_fault_of_the_centre_costs_no_token(centre: Centre, tmp_path: Path) -> None:
    token = centre.invite()
    centre.engine.fault = EngineError("SuperLink must answer, got nothing; see its log at /x")
    with pytest.raises(EngineError, match="fault is its own") as caught:
        join(token, tmp_path / "plant")
    assert "/x" not in str(caught.value)
    centre.engine.fault = StateError("disk full")
    with pytest.raises(EngineError):
        join(token, tmp_path / "plant")
    centre.engine.fault = None
    assert join(token, tmp_path / "plant").plant == "ash"


def test_a_key_that_the_engine_refuses_is_said(centre: Centre, ash: Stranger) -> None:
    centre.engine.fault = IdentityError("link key must be new")
    assert ash.join(centre.invite().secret) == Refusal.KEYS


def test_a_plant_is_revoked_and_readmitted_with_new_keys(centre: Centre, tmp_path: Path) -> None:
    folder = tmp_path / "plant"
    join(centre.invite(), folder)
    before = Signer.open(folder / "identity/identity.key", folder / "identity/identity.pem")
    link_key = (folder / "link/link.pub").read_text()
    centre.registry.revoke("ash", reason="sold")
    join(centre.invite(readmit=True), folder)
    after = Signer.open(folder / "identity/identity.key", folder / "identity/identity.pem")
    assert after.fingerprint != before.fingerprint
    assert (folder / "link/link.pub").read_text() != link_key
    assert centre.registry.plant("ash").fingerprint == after.fingerprint
    # The certificate from before is not expired, but no longer that plant's.
    stranger = Stranger(centre, tmp_path / "by-hand")
    stranger.key, stranger.certificate = before.key, before.certificate
    stranger.request = make_request(before.key, name="ash")
    assert stranger.send(stranger.renewal()) == Refusal.CERTIFICATE


def test_a_revoked_link_key_does_not_come_back(centre: Centre, ash: Stranger) -> None:
    assert ash.join(centre.invite().secret).plant == "ash"
    centre.registry.revoke("ash", reason="sold")
    ash.key = Ed25519PrivateKey.generate()
    ash.request = make_request(ash.key, name="ash")
    assert ash.join(centre.invite(readmit=True).secret) == Refusal.TOKEN


def test_a_port_in_use_and_a_missing_certificate_are_one_line(
    centre: Centre, tmp_path: Path
) -> None:
    service = Enrolment(
        centre.registry, pki=centre.pki, centre=CENTRE, task=str, register=centre.engine.register
    )
    port = centre.address.rpartition(":")[2]
    with pytest.raises(EngineError, match=r"centre\.toml") as caught:
        serve(service, address=f"127.0.0.1:{port}", pki=centre.pki)
    assert "\n" not in str(caught.value)
    with pytest.raises(IdentityError, match="cannot read"):
        serve(service, address="127.0.0.1:0", pki=tmp_path / "nowhere")


def test_only_tls_is_spoken(centre: Centre, ash: Stranger) -> None:
    with grpc.insecure_channel(centre.address) as channel, pytest.raises(grpc.RpcError):
        EnrolmentStub(channel).Join(ash.message("x"), timeout=5)
    host, _, port = centre.address.partition(":")
    with socket.create_connection((host, int(port)), timeout=5) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"HTTP" not in plain.recv(4096)
