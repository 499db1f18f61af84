"""A plant that joins tells its secret to nobody else and believes no wrong answer."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from client.joining import line
from client.joining.enrolment import join, renew
from client.joining.line import REPLY_LIMIT
from common.errors import EngineError, IdentityError, TransferlineError
from common.pki import Authority, Role, fingerprint, make_identity
from common.pki.keys import read_request
from common.signing import Signer
from common.token import Refusal, Token
from common.wire import enrolment_pb2 as wire
from common.wire.enrolment_pb2_grpc import EnrolmentServicer, add_EnrolmentServicer_to_server
from tests.enrolment import Centre, running

SECRET = "the-secret"


@pytest.fixture
def centre(tmp_path: Path) -> Iterator[Centre]:
    with running(tmp_path / "centre") as centre:
        yield centre


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "pki", federation="acme")


def token(authority: Authority, address: str) -> Token:
    return Token(
        secret=SECRET,
        authority=fingerprint(authority.pem),
        plant="ash",
        address=address,
        expires=datetime.now(UTC) + timedelta(hours=1),
    )


def refused(kind: type[TransferlineError], said: str, given: Token, folder: Path) -> None:
    with pytest.raises(kind, match=said) as caught:
        join(given, folder)
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < 400
    assert SECRET not in text
    assert not (folder / "identity" / "identity.pem").exists()
    assert not (folder / "link").exists()


class Listener(EnrolmentServicer):
    """Somebody who answers instead of the centre, and keeps what it was told."""

    def __init__(self, answer: Callable[[wire.JoinRequest], wire.JoinReply]) -> None:
        self.answer = answer
        self.heard: list[Any] = []

    def Join(  # noqa: N802
        self, request: wire.JoinRequest, context: grpc.ServicerContext
    ) -> wire.JoinReply:
        self.heard.append(request)
        try:
            return self.answer(request)
        except LookupError as error:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error.args[0]))

    def Renew(  # noqa: N802
        self, request: wire.RenewRequest, context: grpc.ServicerContext
    ) -> wire.RenewReply:
        self.heard.append(request)
        context.abort(grpc.StatusCode.PERMISSION_DENIED, Refusal.REVOKED)


@contextmanager
def listening(
    key: str, chain: str, answer: Callable[[wire.JoinRequest], wire.JoinReply] | None = None
) -> Iterator[tuple[str, Listener]]:
    """Answer at a free port of loopback; yield the address, and who keeps what was heard."""
    listener = Listener(answer or (lambda request: wire.JoinReply()))
    server = grpc.server(ThreadPoolExecutor(1))
    add_EnrolmentServicer_to_server(listener, server)
    pair = [(key.encode(), chain.encode())]
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials(pair))
    server.start()
    try:
        yield f"localhost:{port}", listener
    finally:
        server.stop(0).wait()


def test_another_ca_in_the_middle_hears_nothing(authority: Authority, tmp_path: Path) -> None:
    foreign = Authority.create(tmp_path / "foreign", federation="acme")
    with listening(*foreign.issue_tls(["localhost"], days=1)) as (address, listener):
        given = token(authority, address)
        refused(IdentityError, "somebody may be in between", given, tmp_path / "plant")
        with pytest.raises(IdentityError, match="somebody may be in between, nothing was sent"):
            renew("signed", address=address, authority=authority.pem)
        assert listener.heard == []


def test_whoever_shows_the_right_ca_must_also_have_its_certificate(
    authority: Authority, tmp_path: Path
) -> None:
    """The CA's certificate is public: anybody can append it to a chain of his own."""
    foreign = Authority.create(tmp_path / "foreign", federation="acme")
    key, chain = foreign.issue_tls(["localhost"], days=1)
    plant_key, certificate = _plants_own(authority)
    for shown in ((key, chain + authority.pem), (plant_key, certificate + authority.pem)):
        with listening(*shown) as (address, listener):
            refused(
                IdentityError, "nothing was sent", token(authority, address), tmp_path / "plant"
            )
            assert listener.heard == []


def _plants_own(authority: Authority) -> tuple[str, str]:
    """Return what a plant with a TLS certificate for links might try as a server."""
    return authority.issue_tls(["localhost"], days=1, role=Role.LINK, name="elm")


@pytest.mark.parametrize(
    ("hosts_of", "at", "said"),
    [
        ("other", timedelta(0), "for that address"),
        ("localhost", timedelta(days=3), "set this machine's clock"),
        ("localhost", timedelta(days=-3), "set this machine's clock"),
    ],
)
def test_a_certificate_for_elsewhere_or_another_time_is_said(
    authority: Authority, tmp_path: Path, hosts_of: str, at: timedelta, said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("common.pki.authority.LOCAL", ())
    key, chain = authority.issue_tls([hosts_of], days=1, at=datetime.now(UTC) + at)
    with listening(key, chain) as (address, listener):
        refused(IdentityError, said, token(authority, address), tmp_path / "plant")
        assert listener.heard == []


@pytest.mark.parametrize("minutes", [-10, 10])
def test_a_clock_ten_minutes_off_still_joins(
    centre: Centre, tmp_path: Path, minutes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TLS looks at the real clock: the certificate must have begun a while ago."""
    off = timedelta(minutes=minutes)
    key, chain = centre.authority.issue_tls(["localhost"], days=1, at=datetime.now(UTC) - off)
    (centre.pki / "server.key").write_text(key)
    (centre.pki / "server.pem").write_text(chain)
    told = join(centre.invite(), tmp_path / "plant", clock=lambda: datetime.now(UTC) + off)
    assert told.plant == "ash"


def test_a_centre_that_cannot_be_reached_is_one_line(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line, "CONNECT", 0.3)
    folder = tmp_path / "plant"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        refused(EngineError, "timed out", token(authority, f"localhost:{port}"), folder)
    refused(EngineError, "refused", token(authority, f"localhost:{port}"), folder)
    refused(EngineError, "must answer", token(authority, "no.such.host.invalid:1"), folder)
    refused(EngineError, "must answer", token(authority, "localhost:99999"), folder)


def test_something_that_is_not_tls_is_one_line(authority: Authority, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with listener.accept()[0] as plain:
                plain.recv(4096)
                plain.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        address = f"localhost:{listener.getsockname()[1]}"
        refused(EngineError, "must answer, got", token(authority, address), tmp_path / "plant")
        thread.join()


def spoilt(authority: Authority, tmp_path: Path) -> dict[str, Callable[[wire.JoinRequest], Any]]:
    """Return answers of a centre whose TLS key somebody else has, by what is wrong with them."""
    foreign = Authority.create(tmp_path / "foreign", federation="acme")
    other = make_identity(tmp_path / "other").public_key()

    def sound(request: wire.JoinRequest, **changes: Any) -> wire.JoinReply:
        name, key = read_request(request.request)
        fields = {
            "plant": name,
            "certificate": authority.issue(key, name=name, role=Role.PLANT, days=3),
            "authority": authority.pem,
            "federation": "acme",
            "fleet_address": "localhost:1",
            "task": "{}",
        }
        return wire.JoinReply(**(fields | changes))

    def certified(by: Authority, key: Any = None, **changes: Any) -> Callable[..., Any]:
        settings = {"name": "ash", "role": Role.PLANT, "days": 3} | changes
        return lambda request: sound(
            request, certificate=by.issue(key or read_request(request.request)[1], **settings)
        )

    return {
        "plant ash": certified(authority, name="elm"),
        "for the key": certified(authority, other),
        "role plant": certified(authority, role=Role.RELEASE),
        "one of another": certified(foreign),
        "ended": certified(authority, at=datetime.now(UTC) - timedelta(days=9)),
        "PEM": lambda request: sound(request, certificate="none"),
        "at most": lambda request: sound(request, certificate="x" * 20_000),
        "pinned one": lambda request: sound(request, authority=foreign.pem),
        "federation": lambda request: sound(request, federation="other"),
        "host:port": lambda request: sound(request, fleet_address="a\nb"),
        "must answer": lambda request: sound(request, task="x" * REPLY_LIMIT),
    }


SPOILT = ("plant ash", "for the key", "role plant", "one of another", "ended", "PEM", "at most",
          "pinned one", "federation", "host:port", "must answer")  # fmt: skip


@pytest.mark.parametrize("said", SPOILT)
def test_a_wrong_answer_is_not_kept(authority: Authority, tmp_path: Path, said: str) -> None:
    key, chain = authority.issue_tls(["localhost"], days=1)
    answer = spoilt(authority, tmp_path)[said]
    with listening(key, chain, answer) as (address, listener):
        refused(TransferlineError, said, token(authority, address), tmp_path / "plant")
        assert len(listener.heard) == 1


def test_a_foreign_ca_beside_the_pinned_one_is_left_out(
    authority: Authority, tmp_path: Path
) -> None:
    foreign = Authority.create(tmp_path / "foreign", federation="acme")
    key, chain = authority.issue_tls(["localhost"], days=1)

    def answer(request: wire.JoinRequest) -> wire.JoinReply:
        name, public = read_request(request.request)
        return wire.JoinReply(
            plant=name,
            certificate=authority.issue(public, name=name, role=Role.PLANT, days=3),
            authority=authority.pem + foreign.pem,
            federation="acme",
            fleet_address="localhost:1",
        )

    with listening(key, chain, answer) as (address, _):
        join(token(authority, address), tmp_path / "plant")
    for name in ("identity", "link"):
        assert (tmp_path / "plant" / name / "ca.pem").read_text() == authority.pem


@pytest.mark.parametrize(
    ("word", "kind", "said"),
    [
        *((word, IdentityError, "must") for word in Refusal if word not in ("busy", "centre")),
        (Refusal.BUSY, EngineError, "wait a minute"),
        (Refusal.CENTRE, EngineError, "ask the operator"),
        ("<b>pay\nhere</b>\x1b[31m", EngineError, "must answer"),
        ("x" * 5000, EngineError, "must answer"),
    ],
)
def test_a_refusal_is_a_line_of_ours_whatever_the_other_side_says(
    authority: Authority, tmp_path: Path, word: str, kind: type[TransferlineError], said: str
) -> None:
    def answer(request: wire.JoinRequest) -> wire.JoinReply:
        raise LookupError(word)

    with listening(*authority.issue_tls(["localhost"], days=1), answer) as (address, _):
        refused(kind, said, token(authority, address), tmp_path / "plant")


def test_joining_twice_asks_once(centre: Centre, tmp_path: Path) -> None:
    given = centre.invite()
    first = join(given, tmp_path / "plant")
    centre.address = ""
    gone = replace(given, address="localhost:1")
    assert join(gone, tmp_path / "plant") == first


def test_another_plants_folder_is_refused(centre: Centre, tmp_path: Path) -> None:
    folder = tmp_path / "plant"
    join(centre.invite("ash"), folder)
    before = (folder / "identity/identity.key").read_bytes()
    with pytest.raises(IdentityError, match="got that of ash; choose another"):
        join(centre.invite("elm"), folder)
    assert (folder / "identity/identity.key").read_bytes() == before


def test_a_refused_join_leaves_the_identity_that_was_there(centre: Centre, tmp_path: Path) -> None:
    folder = tmp_path / "plant"
    join(centre.invite(), folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(IdentityError, match="ask the operator for a new one"):
        join(centre.token("forged", "ash"), folder)
    assert {path: path.read_bytes() for path in before} == before


def test_another_token_gets_other_keys(centre: Centre, tmp_path: Path) -> None:
    """Keys that one token was refused for may be known to the engine as revoked."""
    identity = tmp_path / "plant/identity"
    with pytest.raises(IdentityError):
        join(centre.token("forged", "ash"), tmp_path / "plant")
    tried = (identity / "joining/identity.key").read_bytes()
    with pytest.raises(IdentityError):
        join(centre.token("forged", "ash"), tmp_path / "plant")
    assert (identity / "joining/identity.key").read_bytes() == tried
    join(centre.invite(), tmp_path / "plant")
    assert (identity / "identity.key").read_bytes() != tried


class Killed(BaseException):
    """Stands for a power cut: nothing after it runs."""


#: Files that a join puts in their place: mark, keys, answer, then each where it belongs.
STEPS = 14


@pytest.mark.parametrize("step", range(STEPS))
def test_a_join_that_is_killed_goes_on_with_the_same_keys(
    centre: Centre, tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, done = os.replace, []

    def replaced(source: Path, target: Path) -> None:
        if len(done) == step and threading.current_thread() is threading.main_thread():
            raise Killed
        done.append(target)
        real(source, target)

    folder, given = tmp_path / "plant", centre.invite()
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", replaced)
        with pytest.raises(Killed):
            join(given, folder)
    answered = bool(centre.registry.plants())
    if (folder / "identity/joining/joined.json").exists():
        given = replace(given, address="localhost:1")  # it needs the centre no more
    assert join(given, folder).plant == "ash"
    assert len(centre.engine.keys) == 1
    signer = Signer.open(folder / "identity/identity.key", folder / "identity/identity.pem")
    assert centre.registry.plant("ash").fingerprint == signer.fingerprint
    assert (folder / "link/link.pub").read_text().strip() == centre.engine.keys[0]
    assert not (folder / "identity/joining").exists()
    assert answered == (step >= 4)


def test_the_steps_above_are_all_there_are(
    centre: Centre, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, done = os.replace, []
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append(b), real(a, b)))
    join(centre.invite(), tmp_path / "plant")
    assert len([path for path in done if (tmp_path / "plant") in Path(path).parents]) == STEPS
