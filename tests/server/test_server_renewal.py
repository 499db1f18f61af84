"""Certificates that renew over real TLS and gRPC, and those that must not; a CA that changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from client.joining.enrolment import join, renew
from common.errors import IdentityError
from common.pki import (
    Authority,
    Role,
    Trust,
    fingerprint,
    make_identity,
    make_request,
    read_certificate,
)
from common.signing import Signer, seal
from common.token import PROTOCOL, RENEWAL, Refusal
from common.wire import enrolment_pb2 as wire
from tests.enrolment import Centre, Stranger, running


@pytest.fixture
def centre(tmp_path: Path) -> Iterator[Centre]:
    with running(tmp_path / "centre") as centre:
        yield centre


@pytest.fixture
def ash(centre: Centre, tmp_path: Path) -> Stranger:
    return Stranger(centre, tmp_path / "by-hand")


def renewal(signer: Signer) -> str:
    """Return what a daemon signs."""
    serial = read_certificate(signer.certificate).serial
    fields = {"request": make_request(signer.key, name=signer.name), "serial": serial}
    return seal(RENEWAL, fields, signer=signer)


def test_a_certificate_is_renewed_for_the_same_key(centre: Centre, ash: Stranger) -> None:
    ash.join(centre.invite().secret)
    early = ash.send(ash.renewal())
    assert early.certificate == ash.certificate
    centre.clock.ahead = timedelta(days=20)
    reply = ash.send(ash.renewal())
    old, new = read_certificate(ash.certificate), read_certificate(reply.certificate)
    assert (new.name, new.fingerprint, new.role) == (old.name, old.fingerprint, Role.PLANT)
    assert new.not_after > old.not_after
    assert new.serial != old.serial
    row = centre.registry.plant("ash")
    assert (row.serial, row.not_after) == (new.serial, new.not_after)
    # The reply may be lost: the old certificate gets the same one again.
    assert ash.send(ash.renewal()).certificate == reply.certificate
    assert Trust.of(reply.authority) == Trust.of(centre.authority.pem)


def test_an_expired_certificate_is_not_renewed_not_even_a_little(
    centre: Centre, ash: Stranger
) -> None:
    ash.join(centre.invite().secret)
    request = ash.renewal()
    centre.clock.ahead = timedelta(days=30) - timedelta(minutes=1)
    assert not isinstance(ash.send(request), str)
    centre.clock.ahead = timedelta(days=30, seconds=1)
    assert ash.send(request) == Refusal.CERTIFICATE
    centre.clock.ahead = timedelta(days=60)
    assert ash.send(request) == Refusal.CERTIFICATE


def test_a_revoked_plant_is_not_renewed(centre: Centre, ash: Stranger) -> None:
    ash.join(centre.invite().secret)
    centre.registry.revoke("ash", reason="sold")
    assert ash.send(ash.renewal()) == Refusal.REVOKED
    with pytest.raises(IdentityError, match="ask the operator to readmit it"):
        renew(ash.renewal().request, address=centre.address, authority=centre.authority.pem)


def test_a_foreign_or_misused_certificate_is_not_renewed(
    centre: Centre, ash: Stranger, tmp_path: Path
) -> None:
    ash.join(centre.invite().secret)
    public = ash.key.public_key()
    foreign = Authority.create(tmp_path / "foreign", federation="acme")
    for authority, role, name, refusal in (
        (foreign, Role.PLANT, "ash", Refusal.CERTIFICATE),
        (centre.authority, Role.RELEASE, "ash", Refusal.CERTIFICATE),
        (centre.authority, Role.LINK, "ash", Refusal.CERTIFICATE),
        (centre.authority, Role.PLANT, "elm", Refusal.REVOKED),
    ):
        pem = authority.issue(public, name=name, role=role, days=30)
        signer = Signer(key=ash.key, certificate=pem, name=name)
        assert ash.send(ash.renewal(signer=signer)) == refusal


def test_a_renewal_is_for_the_signers_own_name_and_key(
    centre: Centre, ash: Stranger, tmp_path: Path
) -> None:
    ash.join(centre.invite().secret)
    other = make_identity(tmp_path / "other")
    for changes in (
        {"request": make_request(other, name="ash")},
        {"request": make_request(ash.key, name="elm")},
        {"request": "x" * 5000},
        {"request": None},
        {"serial": "00"},
    ):
        assert ash.send(ash.renewal(**changes)) == Refusal.REQUEST, changes
    good = ash.renewal()
    altered = good.request.replace('"kind": "renewal"', '"kind": "update"')
    for request in ("", "x" * 40_000, altered):
        said = ash.send(wire.RenewRequest(protocol=PROTOCOL, request=request))
        assert said in (Refusal.REQUEST, Refusal.CERTIFICATE)
    assert ash.send(wire.RenewRequest(protocol=2, request=good.request)) == Refusal.PROTOCOL


@pytest.mark.parametrize("minutes", [-10, 10])
def test_a_centre_whose_clock_is_ten_minutes_off_enrols_and_renews(
    centre: Centre, tmp_path: Path, minutes: int
) -> None:
    centre.clock.ahead = timedelta(minutes=minutes)
    folder = tmp_path / "plant"
    assert join(centre.invite(), folder).plant == "ash"
    signer = Signer.open(folder / "identity/identity.key", folder / "identity/identity.pem")
    request = renewal(signer)
    pinned = (folder / "link/ca.pem").read_text()
    got = renew(request, address=centre.address, authority=pinned)
    assert got.certificate == signer.certificate
    assert got.roots == pinned


def test_a_rotation_reaches_the_plants_without_cutting_any_off(
    centre: Centre, tmp_path: Path
) -> None:
    """Old plants renew through the cross certificate; a token from before still pins."""
    folder, waiting = tmp_path / "plant", centre.invite("elm")
    join(centre.invite(), folder)
    old = (folder / "identity/ca.pem").read_text()
    new = centre.authority.rotate()
    centre.certify(new)  # the running service takes it up by itself
    signer = Signer.open(folder / "identity/identity.key", folder / "identity/identity.pem")
    request = renewal(signer)
    got = renew(request, address=centre.address, authority=old)
    assert new.issued(got.certificate)
    assert Trust.of(got.roots).fingerprints == (fingerprint(new.pem), fingerprint(old))
    assert Trust.of(old).accept(got.authority, at=datetime.now(UTC)) == Trust.of(got.roots)

    assert join(waiting, tmp_path / "elm").plant == "elm"
    assert join(centre.invite("oak"), tmp_path / "oak").plant == "oak"
    after = new.retire()
    centre.certify(after)
    for name in ("elm", "oak"):
        roots = Trust.of(tmp_path / name / "identity/ca.pem")
        pem = (tmp_path / name / "identity/identity.pem").read_text()
        assert roots.verify(pem, role=Role.PLANT, at=datetime.now(UTC)).name == name
        assert Trust.of(after.pem).verify(pem, role=Role.PLANT, at=datetime.now(UTC))
    with pytest.raises(IdentityError, match="revoke and readmit"):  # slept through the overlap
        renew(request, address=centre.address, authority=got.roots)
    renewed = replace(signer, certificate=got.certificate)
    request = renewal(renewed)
    assert renew(request, address=centre.address, authority=got.roots).roots == after.pem
