"""Certificates count for their role, their CA and their time; names cannot lie."""

from __future__ import annotations

import ssl
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from common.errors import IdentityError
from common.pki import (
    TOLERANCE,
    Authority,
    Role,
    Trust,
    check_name,
    fingerprint,
    make_request,
    read_certificate,
)
from common.pki.certificate import TEXT_LIMIT, load_certificates, role_uri, subject
from common.pki.keys import KEY_LIMIT, REQUEST_LIMIT, check_link_key, read_request

NOW = datetime(2030, 5, 1, 12, tzinfo=UTC)
DAY, MINUTE = timedelta(days=1), timedelta(minutes=1)
KEY = ed25519.Ed25519PrivateKey.generate()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("ca") / "pki", federation="acme", at=NOW)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("foreign") / "pki", federation="acme", at=NOW)


def plant(authority: Authority, *, name: str = "plant-a", days: int = 30) -> str:
    return authority.sign_request(make_request(KEY, name=name), name=name, days=days, at=NOW)


def one_line(error: pytest.ExceptionInfo[IdentityError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 320
    return text


def pem(*certificates: x509.Certificate) -> str:
    return "".join(one.public_bytes(Encoding.PEM).decode() for one in certificates)


def test_a_certificate_says_who_its_holder_is(authority: Authority) -> None:
    said = Trust.of(authority.pem).verify(plant(authority), role=Role.PLANT, at=NOW)
    assert (said.name, said.role, said.federation) == ("plant-a", Role.PLANT, "acme")
    assert said.not_before == NOW - TOLERANCE
    assert said.not_after == NOW + 30 * DAY
    assert said.public_key == KEY.public_key()
    digest = hashes.Hash(hashes.SHA256())
    digest.update(KEY.public_key().public_bytes_raw())
    assert said.fingerprint == digest.finalize().hex()


def test_the_fingerprint_of_a_ca_is_the_one_that_openssl_shows(authority: Authority) -> None:
    shown = subprocess.run(
        ["openssl", "x509", "-noout", "-fingerprint", "-sha256"],
        input=authority.pem, text=True, capture_output=True, check=True,
    ).stdout  # fmt: skip
    assert fingerprint(authority.pem) == shown.partition("=")[2].strip().replace(":", "").lower()


@pytest.mark.parametrize("role", [Role.SERVER, Role.RELEASE, Role.LINK])
def test_a_certificate_is_good_for_its_role_only(authority: Authority, role: Role) -> None:
    other = authority.issue(KEY.public_key(), name="plant-a", role=role, days=30, at=NOW)
    trust = Trust.of(authority.pem)
    assert trust.verify(other, role=role, at=NOW).role is role
    with pytest.raises(IdentityError, match=f"role plant, got {role}"):
        trust.verify(other, role=Role.PLANT, at=NOW)


def test_a_foreign_certificate_is_refused(authority: Authority, foreign: Authority) -> None:
    with pytest.raises(IdentityError, match="federation's CA, got one of another") as caught:
        Trust.of(authority.pem).verify(plant(foreign), role=Role.PLANT, at=NOW)
    one_line(caught)


def test_a_foreign_ca_in_the_chain_vouches_for_nobody(
    authority: Authority, foreign: Authority
) -> None:
    for chain in (plant(foreign) + foreign.pem, plant(foreign) + authority.pem + foreign.pem):
        with pytest.raises(IdentityError, match="got one of another"):
            Trust.of(authority.pem).verify(chain, role=Role.PLANT, at=NOW)


def test_another_ca_of_the_same_name_is_refused(authority: Authority, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    twin = replace(authority, key=key, folder=tmp_path)
    with pytest.raises(IdentityError, match="another"):
        Trust.of(authority.pem).verify(plant(twin), role=Role.PLANT, at=NOW)


@pytest.mark.parametrize(
    ("at", "said"),
    [
        (NOW + 30 * DAY + TOLERANCE + MINUTE, "ended"),
        (NOW - 2 * TOLERANCE - MINUTE, "set this machine's clock"),
        (NOW + 30 * DAY + 10 * MINUTE, ""),
        (NOW - 10 * MINUTE, ""),
        (NOW - 2 * TOLERANCE, ""),
    ],
)
def test_time_counts_and_clocks_may_be_ten_minutes_off(
    authority: Authority, at: datetime, said: str
) -> None:
    trust = Trust.of(authority.pem)
    if not said:
        assert trust.verify(plant(authority), role=Role.PLANT, at=at).name == "plant-a"
        return
    with pytest.raises(IdentityError, match=said) as caught:
        trust.verify(plant(authority), role=Role.PLANT, at=at)
    assert "plant-a" in one_line(caught)


def test_a_time_in_another_zone_is_the_same_time(authority: Authority) -> None:
    late = (NOW + 31 * DAY).astimezone()
    with pytest.raises(IdentityError, match="2030-06-01 12:00 UTC"):
        Trust.of(authority.pem).verify(plant(authority), role=Role.PLANT, at=late)


def test_a_ca_that_ended_vouches_for_nobody(tmp_path: Path) -> None:
    short = Authority.create(tmp_path, federation="acme", days=10, at=NOW)
    certificate = plant(short)
    assert read_certificate(certificate).not_after == NOW + 10 * DAY
    with pytest.raises(IdentityError, match="ended"):
        Trust.of(short.pem).verify(certificate, role=Role.PLANT, at=NOW + 11 * DAY)
    with pytest.raises(IdentityError, match="rotate"):
        short.issue(KEY.public_key(), name="a", role=Role.PLANT, days=1, at=NOW + 10 * DAY)
    outlives = pem(build(short, days=99))
    assert Trust.of(short.pem).verify(outlives, role=Role.PLANT, at=NOW + 9 * DAY)
    with pytest.raises(IdentityError, match="ended"):
        Trust.of(short.pem).verify(outlives, role=Role.PLANT, at=NOW + 11 * DAY)


def build(
    authority: Authority,
    *,
    name: str = "plant-a",
    uri: str = "",
    ca: bool = False,
    key: ec.EllipticCurvePrivateKey | None = None,
    issuer: x509.Name | None = None,
    extra: x509.UnrecognizedExtension | None = None,
    days: int = 1,
) -> x509.Certificate:
    """Return a certificate that the CA would never write, signed by it."""
    said = uri or role_uri(role=Role.PLANT, federation="acme", name=name).value
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject(federation="acme", name=name))
        .issuer_name(issuer or authority.certificate.subject)
        .public_key(KEY.public_key())
        .serial_number(1)
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + days * DAY)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(said)]), critical=False
        )
    )
    if extra is not None:
        builder = builder.add_extension(extra, critical=True)
    return builder.sign(key or authority.key, hashes.SHA256())


@pytest.mark.parametrize(
    "changes",
    [
        {"ca": True},
        {"uri": "transferline:plant/acme/plant-b"},
        {"uri": "transferline:plant/other/plant-a"},
        {"uri": "transferline:king/acme/plant-a"},
        {"uri": "transferline:plant/acme"},
        {"uri": "https://plant/acme/plant-a"},
        {"name": "plant-a\n"},
        {"name": "..", "uri": "transferline:plant/acme/.."},
        {"extra": x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")},
    ],
)
def test_a_certificate_that_is_not_plainly_a_plants_is_refused(
    authority: Authority, changes: dict[str, object]
) -> None:
    trust = Trust.of(authority.pem)
    assert trust.verify(pem(build(authority)), role=Role.PLANT, at=NOW).name == "plant-a"
    with pytest.raises(IdentityError) as caught:
        trust.verify(pem(build(authority, **changes)), role=Role.PLANT, at=NOW)  # type: ignore[arg-type]
    one_line(caught)


def test_a_plant_is_no_ca(authority: Authority) -> None:
    """A plant's own key signs nothing that counts, whatever it appends."""
    server_key = ec.generate_private_key(ec.SECP256R1())
    middle = authority._leaf(
        server_key.public_key(), name="plant-b", role=Role.LINK, days=9, at=NOW
    )
    forged = build(authority, key=server_key, issuer=middle.subject)
    assert forged.issuer == middle.subject
    for chain in (pem(forged), pem(forged, middle), pem(forged, middle, authority.certificate)):
        with pytest.raises(IdentityError, match="got one of another"):
            Trust.of(authority.pem).verify(chain, role=Role.PLANT, at=NOW)


@cache
def sound() -> tuple[Trust, bytes]:
    """Return a trust and a certificate (DER) that it verifies."""
    with TemporaryDirectory() as folder:
        made = Authority.create(Path(folder), federation="acme", at=NOW)
    return Trust.of(made.pem), ssl.PEM_cert_to_DER_cert(plant(made))


@given(st.integers(0, 2**16))
def test_a_flipped_bit_never_passes(position: int) -> None:
    trust, der = sound()
    position %= 8 * len(der)
    damaged = bytearray(der)
    damaged[position // 8] ^= 1 << (position % 8)
    text = ssl.DER_cert_to_PEM_cert(bytes(damaged))
    with pytest.raises(IdentityError):
        trust.verify(text, role=Role.PLANT, at=NOW)


@given(st.text(max_size=80) | st.just("-----BEGIN CERTIFICATE-----\nAA==\n"))
def test_any_text_is_refused(text: str) -> None:
    for read in (load_certificates, read_certificate, Trust.of, fingerprint, read_request):
        with pytest.raises(IdentityError):
            read(text)  # type: ignore[operator]
    with pytest.raises(IdentityError):
        check_link_key(text)


def test_sizes_come_first(authority: Authority) -> None:
    many = plant(authority) + authority.pem * 4
    with pytest.raises(IdentityError, match="at most 4, got 5"):
        Trust.of(authority.pem).verify(many, role=Role.PLANT, at=NOW)
    for read, limit in (
        (read_certificate, TEXT_LIMIT), (read_request, REQUEST_LIMIT), (check_link_key, KEY_LIMIT)
    ):  # fmt: skip
        with pytest.raises(IdentityError):
            read("x" * (limit + 1))  # type: ignore[operator]


@pytest.mark.parametrize(
    "name",
    ["", " a", "a ", "a\nb", "a\x00b", "a/b", "a\\b", ".", "..", ".a", "a\u202eb", "a\u200bb",
     "e\u0301", "x" * 65, "ü" * 33, "\ud800", "a\tb", "\x7f"],
)  # fmt: skip
def test_a_name_that_could_mislead_is_refused(name: str, authority: Authority) -> None:
    with pytest.raises(IdentityError, match="without slashes") as caught:
        check_name(name)
    assert one_line(caught).isprintable()
    with pytest.raises(IdentityError):
        make_request(KEY, name=name)
    with pytest.raises(IdentityError):
        authority.issue(KEY.public_key(), name=name, role=Role.PLANT, days=1, at=NOW)


@pytest.mark.parametrize("name", ["plant-a", "Werk Süd 3", "工場", "x" * 64, "a%2Fb:c"])
def test_a_name_survives_a_certificate(name: str, authority: Authority) -> None:
    trust = Trust.of(authority.pem)
    assert trust.verify(plant(authority, name=name), role=Role.PLANT, at=NOW).name == name


def test_nothing_secret_is_shown(authority: Authority) -> None:
    shown = repr(authority) + repr(Trust.of(authority.pem))
    assert "key" not in shown
    assert "BEGIN" not in repr(read_certificate(plant(authority)))


def test_only_a_self_signed_ca_is_pinned(authority: Authority, tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="self-signed CA"):
        Trust.of(authority.pem + plant(authority))
    with pytest.raises(IdentityError, match="cannot read it"):
        Trust.of(tmp_path / "ca.pem")
    path = tmp_path / "ca.pem"
    path.write_text(authority.pem)
    assert Trust.of(path).fingerprints == (fingerprint(authority.pem),)
