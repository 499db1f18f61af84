"""The CA: made once, rotated with overlap, cut off at any moment; TLS under it."""

from __future__ import annotations

import os
import socket
import ssl
import stat
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding

from common.errors import IdentityError
from common.pki import (
    Authority,
    Role,
    Trust,
    fingerprint,
    make_request,
    read_certificate,
)

NOW = datetime(2030, 5, 1, 12, tzinfo=UTC)
KEY = ed25519.Ed25519PrivateKey.generate()


def plant(authority: Authority) -> str:
    request = make_request(KEY, name="plant-a")
    return authority.sign_request(request, name="plant-a", days=30, at=NOW)


def pem(*certificates: x509.Certificate) -> str:
    return "".join(one.public_bytes(Encoding.PEM).decode() for one in certificates)


def test_a_ca_is_read_again_and_made_once(tmp_path: Path) -> None:
    made = Authority.create(tmp_path / "pki", federation="acme", at=NOW)
    for name in ("ca.key",):
        assert stat.S_IMODE((tmp_path / "pki" / name).stat().st_mode) == 0o600
    again = Authority.open(tmp_path / "pki")
    assert (again.pem, again.federation) == (made.pem, "acme")
    with pytest.raises(IdentityError, match="holds a CA already"):
        Authority.create(tmp_path / "pki", federation="acme", at=NOW)
    (tmp_path / "pki" / "ca.pem").write_text(
        Authority.create(tmp_path / "other", federation="acme", at=NOW).pem
    )
    with pytest.raises(IdentityError, match="restore both"):
        Authority.open(tmp_path / "pki")
    (tmp_path / "pki" / "ca.key").unlink()
    with pytest.raises(IdentityError, match="No such file"):
        Authority.open(tmp_path / "pki")


def test_during_a_rotation_the_old_and_the_new_count(tmp_path: Path) -> None:
    old = Authority.create(tmp_path, federation="acme", at=NOW)
    pinned, before = Trust.of(old.pem), plant(old)
    new = old.rotate(at=NOW)
    assert Trust.of(new.pem).fingerprints == (fingerprint(new.pem), fingerprint(old.pem))
    assert Authority.open(tmp_path) == new

    release = new.issue(KEY.public_key(), name="centre", role=Role.RELEASE, days=30, at=NOW)
    assert new.issued(release)
    assert not new.issued(before)
    for trust in (pinned, Trust.of(new.pem), pinned.accept(new.announcement, at=NOW)):
        assert trust.verify(release, role=Role.RELEASE, at=NOW).name == "centre"
    # Without the cross certificate a plant that knows the old CA only cannot believe it.
    with pytest.raises(IdentityError, match="got one of another"):
        pinned.verify(read_certificate(release).pem, role=Role.RELEASE, at=NOW)
    for certificate in (before, plant(new)):
        assert Trust.of(new.pem).verify(certificate, role=Role.PLANT, at=NOW)
    with pytest.raises(IdentityError, match="wait until every plant has renewed"):
        new.rotate(at=NOW)

    after = new.retire()
    assert Authority.open(tmp_path) == after
    assert pinned.accept(new.announcement, at=NOW).accept(after.announcement, at=NOW) == Trust.of(
        after.pem
    )
    with pytest.raises(IdentityError, match="got one of another"):
        Trust.of(after.pem).verify(before, role=Role.PLANT, at=NOW)
    assert Trust.of(after.history).verify(before, role=Role.PLANT, at=NOW)
    assert after.retire() == after
    assert after.history.count("BEGIN") == 2
    assert Trust.of(after.rotate(at=NOW).history).verify(before, role=Role.PLANT, at=NOW)


def test_a_plant_that_slept_through_a_rotation_says_what_to_do(tmp_path: Path) -> None:
    old = Authority.create(tmp_path, federation="acme", at=NOW)
    after = old.rotate(at=NOW).retire()
    with pytest.raises(IdentityError, match="join again with a new token"):
        Trust.of(old.pem).accept(after.announcement, at=NOW)


def test_a_foreign_ca_cannot_announce_itself(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "a", federation="acme", at=NOW)
    foreign = Authority.create(tmp_path / "b", federation="acme", at=NOW)
    pinned = Trust.of(authority.pem)
    with pytest.raises(IdentityError, match="pinned one"):
        pinned.accept(foreign.pem, at=NOW)
    assert pinned.accept(foreign.pem + authority.pem, at=NOW) == pinned
    # A cross certificate of a foreign CA, and one that a plant made with its own key.
    rotated = Authority.create(tmp_path, federation="acme", at=NOW).rotate(at=NOW)
    assert pinned.accept(rotated.announcement + authority.pem, at=NOW) == pinned
    self_made = replace(foreign, certificate=authority.certificate)
    cross = self_made._cross(foreign.certificate, NOW)
    assert pinned.accept(pem(cross) + foreign.pem + authority.pem, at=NOW) == pinned


@pytest.mark.parametrize("cut", [0, 1, 2])
def test_a_rotation_that_is_cut_off_leaves_a_ca_that_works(
    tmp_path: Path, cut: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = Authority.create(tmp_path, federation="acme", at=NOW)
    real, done = os.replace, []

    def replaced(source: Path, target: Path) -> None:
        if len(done) == cut:
            raise KeyboardInterrupt
        done.append(target)
        real(source, target)

    monkeypatch.setattr(os, "replace", replaced)
    with pytest.raises(KeyboardInterrupt):
        old.rotate(at=NOW)
    monkeypatch.undo()
    found = Authority.open(tmp_path)
    assert found == old
    new = found.rotate(at=NOW)
    assert Authority.open(tmp_path) == new
    assert len(Trust.of(tmp_path / "ca.pem").authorities) == 2


def tls(authority: Authority, hosts: list[str], folder: Path) -> ssl.SSLContext:
    key, chain = authority.issue_tls(hosts, days=3)
    (folder / "server.key").write_text(key)
    (folder / "server.pem").write_text(chain)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    return context


@pytest.fixture
def greet() -> Callable[[ssl.SSLContext, str, str], str]:
    """Make one TLS connection on loopback; return the name that was verified."""

    def once(server: ssl.SSLContext, roots: str, name: str) -> str:
        with socket.create_server(("127.0.0.1", 0)) as listener:

            def answer() -> None:
                with listener.accept()[0] as plain:
                    try:
                        with server.wrap_socket(plain, server_side=True) as secure:
                            secure.recv(1)
                    except (ssl.SSLError, ConnectionError):
                        pass

            thread = threading.Thread(target=answer)
            thread.start()
            try:
                client = ssl.create_default_context(cadata=roots)
                with (
                    socket.create_connection(listener.getsockname()) as plain,
                    client.wrap_socket(plain, server_hostname=name) as secure,
                ):
                    secure.send(b"x")
                    return name
            finally:
                thread.join()

    return once


@pytest.mark.parametrize("name", ["centre.example", "192.0.2.7", "2001:db8::7", "localhost"])
def test_tls_holds_for_the_hosts_of_the_certificate(
    tmp_path: Path, name: str, greet: Callable[[ssl.SSLContext, str, str], str]
) -> None:
    authority = Authority.create(tmp_path / "pki", federation="acme")
    server = tls(authority, ["centre.example", "192.0.2.7", "[2001:db8::7]"], tmp_path)
    assert greet(server, authority.pem, name) == name
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        greet(server, authority.pem, "elsewhere.example")


def test_tls_holds_for_old_and_new_plants_during_a_rotation(
    tmp_path: Path, greet: Callable[[ssl.SSLContext, str, str], str]
) -> None:
    old = Authority.create(tmp_path / "pki", federation="acme")
    new = old.rotate()
    server = tls(new, ["centre.example"], tmp_path)
    only_new = pem(new.certificate)
    for roots in (old.pem, only_new, new.pem):
        assert greet(server, roots, "centre.example")
    with pytest.raises(ssl.SSLCertVerificationError):
        greet(tls(new.retire(), ["centre.example"], tmp_path), old.pem, "centre.example")


@pytest.mark.parametrize("host", ["", "a b", "a/b", "x" * 64 + ".example", "a..b", "ä.example"])
def test_a_host_that_cannot_be_one_is_refused(tmp_path: Path, host: str) -> None:
    authority = Authority.create(tmp_path, federation="acme", at=NOW)
    with pytest.raises(IdentityError, match=r"centre\.toml"):
        authority.issue_tls([host], days=1, at=NOW)
