"""What a certificate is verified against: one pinned CA, or two while one takes over from another.

A certificate may come with a **cross certificate**: the new CA's key, signed by the old CA. So a
plant that knows the old CA only accepts what the new one issued, and takes the new one over when
the centre announces it (`Trust.accept`). A centre whose TLS key was stolen cannot announce a CA of
its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from common.errors import IdentityError
from common.pki.certificate import (
    MALFORMED,
    TOLERANCE,
    Certificate,
    Role,
    identity_of,
    load_certificates,
)


@dataclass(frozen=True)
class Trust:
    """The pinned CAs.

    Attributes
    ----------
    authorities : self-signed CA certificates, the one in force first; at least one.
    """

    authorities: tuple[x509.Certificate, ...] = field(repr=False)

    @classmethod
    def of(cls, source: str | Path) -> Trust:
        """Read pinned CAs from PEM text or a file.

        Raises
        ------
        IdentityError
            If the file cannot be read, or something in it is no self-signed CA certificate.
        """
        name = "CA"
        if isinstance(source, Path):
            name = str(source)
            try:
                source = source.read_text(encoding="ascii")
            except (OSError, UnicodeDecodeError) as error:
                raise IdentityError(
                    f"{name} must be the CA's certificate, cannot read it: {error}; restore it, or "
                    "join again with a new token"
                ) from error
        found = tuple(load_certificates(source))
        if not all(is_authority(one) and issued(one, by=one) for one in found):
            raise IdentityError(f"{name} must hold self-signed CA certificates only, got another")
        return cls(found)

    @property
    def pem(self) -> str:
        """The pinned CAs, one after the other."""
        return "".join(one.public_bytes(Encoding.PEM).decode() for one in self.authorities)

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """SHA-256 of each pinned certificate, hex."""
        return tuple(one.fingerprint(hashes.SHA256()).hex() for one in self.authorities)

    def verify(self, pem: str, *, role: Role, at: datetime) -> Certificate:
        """Return what a certificate says, if it is true.

        Parameters
        ----------
        pem : the certificate, and after it any cross certificates that it came with.
        at : the time that counts, aware; clocks may differ by 15 minutes.

        Raises
        ------
        IdentityError
            If it is foreign, of another role, expired or not valid yet.
        """
        leaf, *others = load_certificates(pem)
        said = identity_of(leaf)
        path = self._path(leaf, others)
        if said.role is not role:
            raise IdentityError(
                f"certificate of {said.name} must have the role {role}, got {said.role}"
            )
        for one in (leaf, *path):
            _check_time(one, said.name, at)
        return said

    def accept(self, text: str, *, at: datetime) -> Trust:
        """Return the trust in those announced CAs that this trust vouches for.

        Those in ``text`` that are neither pinned here nor signed by a CA that is are left out, so
        a foreign announcement adds nothing.

        Parameters
        ----------
        text : self-signed CA certificates and cross certificates, PEM.

        Raises
        ------
        IdentityError
            If none is left.
        """
        found = load_certificates(text)
        vouched = [one for one in found if self._issued(one) and _in_time(one, at)]
        keys = {_holder(one) for one in vouched}
        kept = [one for one in found if issued(one, by=one) and _holder(one) in keys]
        if not kept:
            raise IdentityError(
                "CA must be the pinned one or vouched for by it, got another; ask the operator, "
                "then join again with a new token"
            )
        return Trust(tuple(dict.fromkeys(kept)))

    def _path(
        self, leaf: x509.Certificate, others: Sequence[x509.Certificate]
    ) -> list[x509.Certificate]:
        """Return who issued a certificate, up to a pinned CA."""
        for authority in self.authorities:
            if issued(leaf, by=authority):
                return [authority]
        for cross in others:
            if is_authority(cross) and issued(leaf, by=cross):
                for authority in self.authorities:
                    if issued(cross, by=authority):
                        return [cross, authority]
        raise IdentityError(
            "certificate must be issued by the federation's CA, got one of another; join again "
            "with a new token"
        )

    def _issued(self, certificate: x509.Certificate) -> bool:
        return is_authority(certificate) and any(
            issued(certificate, by=authority) for authority in self.authorities
        )


def is_authority(certificate: x509.Certificate) -> bool:
    """Whether a certificate may issue others."""
    try:
        extensions = certificate.extensions
        return (
            extensions.get_extension_for_class(x509.BasicConstraints).value.ca
            and extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
        )
    except MALFORMED:
        return False


def issued(certificate: x509.Certificate, *, by: x509.Certificate) -> bool:
    """Whether one certificate carries the name and the valid signature of another."""
    try:
        certificate.verify_directly_issued_by(by)
    except (*MALFORMED, InvalidSignature):
        return False
    return True


def _holder(certificate: x509.Certificate) -> tuple[x509.Name, bytes]:
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return certificate.subject, key


def _in_time(certificate: x509.Certificate, at: datetime) -> bool:
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return first - TOLERANCE <= at <= last + TOLERANCE


def _check_time(certificate: x509.Certificate, name: str, at: datetime) -> None:
    at = at.astimezone(UTC)
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if at < first - TOLERANCE:
        raise IdentityError(
            f"certificate of {name} must be valid at {at:%Y-%m-%d %H:%M} UTC, got one from "
            f"{first:%Y-%m-%d %H:%M} on; set this machine's clock"
        )
    if at > last + TOLERANCE:
        raise IdentityError(
            f"certificate of {name} must be valid at {at:%Y-%m-%d %H:%M} UTC, got one that ended "
            f"{last:%Y-%m-%d %H:%M}; check the clock, else join again with a new token"
        )
