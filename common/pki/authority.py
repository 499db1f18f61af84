"""The federation's CA: ECDSA P-256, ten years, on the centre's machine only.

Files in the folder: ``ca.key``, ``ca.pem`` (the CAs in force, the one that signs first), during a
rotation ``cross.pem`` (the new CA's key signed by the old one), and ``retired.pem`` (CAs that no
longer count for anything new, for reading old log entries and releases).

**Rotation** overlaps. From `Authority.rotate` on everything is issued by the new CA and comes with
the cross certificate, so that plants that know the old CA only stay connected; they take over the
new one at their next renewal. After the last of them `Authority.retire` ends the overlap. A kill
at any moment leaves a folder that works: the key that lies in ``ca.key`` says which CA signs.

Not covered: a stolen ``ca.key``. Then retire at once, and let every plant join again.
"""

from __future__ import annotations

import ipaddress
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from common.errors import IdentityError
from common.files import write_atomic
from common.pki.certificate import (
    TOLERANCE,
    Role,
    check_name,
    identity_of,
    load_certificates,
    role_uri,
    subject,
)
from common.pki.keys import key_pem, load_authority, read_request, write_key
from common.pki.trust import Trust, issued

CA_KEY, CA, CROSS, RETIRED = "ca.key", "ca.pem", "cross.pem", "retired.pem"
LOCAL = ("localhost", "127.0.0.1")  #: hosts of every TLS certificate
HOST = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_-]{1,63})*$")

_USAGE = {
    Role.SERVER: ExtendedKeyUsageOID.SERVER_AUTH,
    Role.LINK: ExtendedKeyUsageOID.CLIENT_AUTH,
}


@dataclass(frozen=True, kw_only=True)
class Authority:
    """The CA that signs, and the one that it takes over from.

    Attributes
    ----------
    certificate : of the CA that signs.
    older : CAs that are still trusted; empty but during a rotation.
    cross : the key of ``certificate`` signed by the older CA; empty but during a rotation.
    """

    folder: Path
    key: ec.EllipticCurvePrivateKey = field(repr=False, compare=False)
    certificate: x509.Certificate
    older: tuple[x509.Certificate, ...] = ()
    cross: tuple[x509.Certificate, ...] = ()

    def __repr__(self) -> str:
        return f"Authority({str(self.folder)!r})"

    @classmethod
    def create(
        cls, folder: Path, *, federation: str, days: int = 3650, at: datetime | None = None
    ) -> Authority:
        """Make the CA of a new federation.

        Raises
        ------
        IdentityError, StateError
            If the folder holds one already or cannot be written, or the name cannot be one.
        """
        if (folder / CA_KEY).exists():
            raise IdentityError(f"{folder} must be a new folder, it holds a CA already; keep it")
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _root(key, federation=check_name(federation, what="federation"),
                            days=days, at=at or datetime.now(UTC))  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomic(folder / CA, _pem(certificate).encode())
        write_key(folder / CA_KEY, key)
        return cls(folder=folder, key=key, certificate=certificate)

    @classmethod
    def open(cls, folder: Path) -> Authority:
        """Read the CA of a federation.

        Raises
        ------
        IdentityError
            If a file is missing or damaged, or key and certificate do not belong together.
        """
        key = load_authority(folder / CA_KEY)
        roots = Trust.of(folder / CA).authorities
        mine = [one for one in roots if one.public_key() == key.public_key()]
        if not mine:
            raise IdentityError(
                f"{folder / CA} must hold the certificate of {CA_KEY}, it holds another; restore "
                "both from one backup"
            )
        # What stands before it is of a rotation that was cut off: its key was never kept.
        older = roots[roots.index(mine[0]) + 1 :]
        path = folder / CROSS
        cross = load_certificates(path.read_text("ascii")) if older and path.exists() else []
        fitting = tuple(one for one in cross if one.public_key() == key.public_key())
        return cls(folder=folder, key=key, certificate=mine[0], older=older, cross=fitting)

    @property
    def federation(self) -> str:
        (name,) = self.certificate.subject.get_attributes_for_oid(x509.NameOID.ORGANIZATION_NAME)
        return str(name.value)

    @property
    def pem(self) -> str:
        """The CAs in force, the one that signs first: what is in ``ca.pem``."""
        return _pem(self.certificate, *self.older)

    @property
    def announcement(self) -> str:
        """What plants are told: the CAs in force, and what vouches for the new one."""
        return _pem(self.certificate, *self.cross, *self.older)

    @property
    def history(self) -> str:
        """Every CA there ever was, for `Trust` in what is old: log entries, releases."""
        path = self.folder / RETIRED
        return self.pem + (path.read_text("ascii") if path.exists() else "")

    def issue_tls(
        self,
        hosts: Sequence[str],
        *,
        days: int,
        role: Role = Role.SERVER,
        name: str = "centre",
        at: datetime | None = None,
    ) -> tuple[str, str]:
        """Make a TLS key (ECDSA P-256) and its certificate.

        Parameters
        ----------
        hosts : names or addresses that others reach it at; this machine's own are added.
        role : `Role.SERVER`, or `Role.LINK` for a TLS client.

        Returns
        -------
        The key, a secret, and the certificate with the whole chain up to the CAs in force: a plant
        that joins looks for the CA of its token's fingerprint in there.

        Raises
        ------
        IdentityError
            If a host cannot be one.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        names = [_host(host) for host in dict.fromkeys((*hosts, *LOCAL))]
        certificate = self._leaf(key.public_key(), name=name, role=role, days=days, at=at,
                                 hosts=names)  # fmt: skip
        return key_pem(key), _pem(certificate) + _pem(*self.cross, self.certificate, *self.older)

    def issue(
        self,
        public_key: ed25519.Ed25519PublicKey,
        *,
        name: str,
        role: Role,
        days: int,
        at: datetime | None = None,
    ) -> str:
        """Return a certificate for a signing key; during a rotation, with what vouches for it.

        Raises
        ------
        IdentityError
            If the name cannot be one, or the CA itself has ended.
        """
        certificate = self._leaf(public_key, name=name, role=role, days=days, at=at)
        return _pem(certificate, *self.cross)

    def sign_request(
        self, request: str, *, name: str, days: int, at: datetime | None = None
    ) -> str:
        """Return the certificate of a plant that asks for it.

        Raises
        ------
        IdentityError
            If the request is damaged, not signed by its own Ed25519 key, or for another name.
        """
        asked, key = read_request(request)
        if asked != name:
            raise IdentityError(f"certificate request must be for plant {name}, got {asked!a}")
        return self.issue(key, name=name, role=Role.PLANT, days=days, at=at)

    def rotate(self, *, days: int = 3650, at: datetime | None = None) -> Authority:
        """Make the CA that takes over from this one, and return it.

        Raises
        ------
        IdentityError
            If the last rotation has not ended.
        """
        if self.older:
            raise IdentityError(
                f"{self.folder / CA} must hold one CA before the next rotation, it holds "
                f"{1 + len(self.older)}; wait until every plant has renewed"
            )
        at = at or datetime.now(UTC)
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _root(key, federation=self.federation, days=days, at=at)
        cross = self._cross(certificate, at)
        new = Authority(folder=self.folder, key=key, certificate=certificate,
                        older=(self.certificate,), cross=(cross,))  # fmt: skip
        write_atomic(self.folder / CROSS, _pem(cross).encode())
        write_atomic(self.folder / CA, new.pem.encode())
        write_key(self.folder / CA_KEY, key)
        return new

    def retire(self) -> Authority:
        """End the overlap: from here on only the CA that signs is trusted."""
        retired = _pem(*self.older)
        if self.older and retired not in self.history.removeprefix(self.pem):
            kept = self.history.removeprefix(self.pem)
            write_atomic(self.folder / RETIRED, (retired + kept).encode())
        write_atomic(self.folder / CA, _pem(self.certificate).encode())
        (self.folder / CROSS).unlink(missing_ok=True)
        return Authority(folder=self.folder, key=self.key, certificate=self.certificate)

    def issued(self, pem: str) -> bool:
        """Whether the CA that signs, not an older one, issued a certificate."""
        return issued(load_certificates(pem)[0], by=self.certificate)

    def _leaf(
        self,
        key: ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey,
        *,
        name: str,
        role: Role,
        days: int,
        at: datetime | None,
        hosts: Sequence[x509.GeneralName] = (),
    ) -> x509.Certificate:
        at = at or datetime.now(UTC)
        last = self.certificate.not_valid_after_utc
        if at >= last:
            raise IdentityError(
                f"CA must be valid, it ended {last:%Y-%m-%d}; run `transferline-server rotate`"
            )
        federation = self.federation
        holder = subject(federation=federation, name=check_name(name, what="name"))
        builder = _builder(holder, self.certificate.subject, key)
        builder = _valid(builder, at=at, last=min(at + timedelta(days=days), last))
        uri = role_uri(role=role, federation=federation, name=name)
        builder = builder.add_extension(_basic(ca=False), critical=True)
        builder = builder.add_extension(_usage(ca=False), critical=True)
        builder = builder.add_extension(x509.SubjectAlternativeName([uri, *hosts]), critical=False)
        if role in _USAGE:
            usage = x509.ExtendedKeyUsage([_USAGE[role]])
            builder = builder.add_extension(usage, critical=False)
        certificate = self._sign(builder)
        identity_of(certificate)
        return certificate

    def _cross(self, successor: x509.Certificate, at: datetime) -> x509.Certificate:
        last = min(successor.not_valid_after_utc, self.certificate.not_valid_after_utc)
        key = successor.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        builder = _builder(successor.subject, self.certificate.subject, key)
        builder = _valid(builder, at=at, last=last)
        builder = builder.add_extension(_basic(ca=True, length=0), critical=True)
        builder = builder.add_extension(_usage(ca=True), critical=True)
        return self._sign(builder)

    def _sign(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        public = self.key.public_key()
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(public)
        return builder.add_extension(issuer, critical=False).sign(self.key, hashes.SHA256())


def _root(
    key: ec.EllipticCurvePrivateKey, *, federation: str, days: int, at: datetime
) -> x509.Certificate:
    # Each has a name of its own, so that no program takes one for the other while both count.
    holder = subject(federation=federation, name=f"Transferline CA {secrets.token_hex(4)}")
    builder = _builder(holder, holder, key.public_key())
    builder = _valid(builder, at=at, last=at + timedelta(days=days))
    builder = builder.add_extension(_basic(ca=True, length=1), critical=True)
    builder = builder.add_extension(_usage(ca=True), critical=True)
    return builder.sign(key, hashes.SHA256())


def _builder(
    holder: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey,
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(holder).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    identifier = x509.SubjectKeyIdentifier.from_public_key(key)
    return builder.add_extension(identifier, critical=False)


def _valid(
    builder: x509.CertificateBuilder, *, at: datetime, last: datetime
) -> x509.CertificateBuilder:
    """Set the time; it begins a little earlier, for TLS at machines whose clock is behind."""
    return builder.not_valid_before(at - TOLERANCE).not_valid_after(last)


def _basic(*, ca: bool, length: int | None = None) -> x509.BasicConstraints:
    return x509.BasicConstraints(ca=ca, path_length=length)


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        if not HOST.match(host):
            raise IdentityError(
                f"host must be a name or an address, got {host!a}; correct centre.toml"
            ) from None
        return x509.DNSName(host)


def _pem(*certificates: x509.Certificate) -> str:
    return "".join(one.public_bytes(Encoding.PEM).decode() for one in certificates)
