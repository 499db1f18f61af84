"""What a certificate says, read with care and not yet believed.

A certificate names its holder twice: in the subject (organisation: the federation; common name:
the plant) and, with the role, in a URI ``transferline:<role>/<federation>/<name>``. Both must
agree. `common.pki.trust` decides whether any of it is true.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from urllib.parse import quote, unquote

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from common.errors import IdentityError

TOLERANCE = timedelta(minutes=15)  #: by how much two clocks may differ
TEXT_LIMIT = 16 * 1024  #: characters of a certificate with those that vouch for it; one takes 1000
CHAIN_LIMIT = 4  #: certificates in one text
NAME_LIMIT = 64  #: bytes of UTF-8; X.509 allows no more
SCHEME = "transferline:"

#: What cryptography raises on bytes that are no sound certificate, request or key.
MALFORMED = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


class Role(StrEnum):
    """What a certificate is for; it is good for nothing else."""

    SERVER = "server"  #: TLS of the centre
    RELEASE = "release"  #: signs orders, releases and the centre's log
    PLANT = "plant"  #: signs a plant's updates
    LINK = "link"  #: TLS of a link in another zone than its daemon


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What one certificate says.

    Attributes
    ----------
    pem : the certificate alone, without those that vouch for it.
    fingerprint : SHA-256 of the raw public key, hex: it stays when the certificate is renewed.
    serial : hex.
    issuer : identifier of the CA's key, hex; as the certificate claims.
    not_before, not_after : aware datetimes, UTC.
    """

    pem: str = field(repr=False)
    name: str
    role: Role
    federation: str
    fingerprint: str
    serial: str
    issuer: str
    not_before: datetime
    not_after: datetime

    @property
    def public_key(self) -> CertificatePublicKeyTypes:
        return x509.load_pem_x509_certificate(self.pem.encode()).public_key()


def check_name(name: str, *, what: str = "plant") -> str:
    """Return a name that may stand in certificates, paths, logs and metrics.

    Raises
    ------
    IdentityError
        If it is empty, longer than 64 bytes, or has a slash, a control or another invisible
        character, a space or dot at its edge, or characters in an uncommon composition.
    """
    if (
        0 < len(name.encode("utf-8", "surrogatepass")) <= NAME_LIMIT
        and name.isprintable()
        and not re.search(r"[/\\]", name)
        and name == name.strip()
        and not name.startswith(".")
        and name == unicodedata.normalize("NFC", name)
    ):
        return name
    shown = name if len(name) <= NAME_LIMIT else f"{name[:NAME_LIMIT]}..."
    raise IdentityError(
        f"{what} must be a name of 1 to {NAME_LIMIT} bytes without slashes and control characters, "
        f"got {shown!a}; choose another"
    )


def fingerprint(pem: str) -> str:
    """Return the SHA-256 of a CA's certificate (DER), hex; of several, that of the first.

    It is what ``openssl x509 -noout -fingerprint -sha256`` shows.

    Raises
    ------
    IdentityError
        If the text is no certificate.
    """
    return load_certificates(pem)[0].fingerprint(hashes.SHA256()).hex()


def key_fingerprint(key: CertificatePublicKeyTypes) -> str:
    """Return the SHA-256 of a raw public key, hex; of a key without raw form, that of its DER."""
    if isinstance(key, ed25519.Ed25519PublicKey):
        raw = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    else:
        raw = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(raw).hexdigest()


def load_certificates(text: str) -> list[x509.Certificate]:
    """Parse one or a few certificates; the limit comes first.

    Raises
    ------
    IdentityError
        If the text is too long, or holds none or too many, or one is damaged.
    """
    if len(text) > TEXT_LIMIT:
        raise IdentityError(
            f"certificate must have at most {TEXT_LIMIT} characters, got {len(text)}"
        )
    try:
        found = x509.load_pem_x509_certificates(text.encode())
    except MALFORMED as error:
        raise IdentityError("certificate must be PEM text, got something else") from error
    if len(found) > CHAIN_LIMIT:
        raise IdentityError(f"certificates must be at most {CHAIN_LIMIT}, got {len(found)}")
    return found


def read_certificate(pem: str) -> Certificate:
    """Read what a certificate says, of several the first. Nothing of it is verified.

    Raises
    ------
    IdentityError
        If it is no certificate of a federation.
    """
    return identity_of(load_certificates(pem)[0])


def identity_of(certificate: x509.Certificate) -> Certificate:
    """Read what a parsed certificate says; as `read_certificate`."""
    try:
        _plain_leaf(certificate)
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        uris = alternatives.value.get_values_for_type(x509.UniformResourceIdentifier)
        (uri,) = [uri for uri in uris if uri.startswith(SCHEME)]
        role, federation, name = map(unquote, uri.removeprefix(SCHEME).split("/"))
        said = (
            _attribute(certificate.subject, NameOID.ORGANIZATION_NAME),
            _attribute(certificate.subject, NameOID.COMMON_NAME),
        )
        if said != (federation, name):
            raise ValueError("two different names")
        return Certificate(
            pem=certificate.public_bytes(Encoding.PEM).decode(),
            name=check_name(name, what="name"),
            role=Role(role),
            federation=check_name(federation, what="federation"),
            fingerprint=key_fingerprint(certificate.public_key()),
            serial=f"{certificate.serial_number:x}",
            issuer=_issuer(certificate),
            not_before=certificate.not_valid_before_utc,
            not_after=certificate.not_valid_after_utc,
        )
    except MALFORMED as error:
        raise IdentityError(
            "certificate must be one of a Transferline federation, got another; join again with a "
            "new token"
        ) from error


def role_uri(*, role: Role, federation: str, name: str) -> x509.UniformResourceIdentifier:
    """Return the URI that says who a certificate's holder is."""
    path = "/".join(quote(part, safe="") for part in (role, federation, name))
    return x509.UniformResourceIdentifier(SCHEME + path)


def subject(*, federation: str, name: str) -> x509.Name:
    """Return the subject of a certificate."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, federation),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )


def _issuer(certificate: x509.Certificate) -> str:
    try:
        said = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    except x509.ExtensionNotFound:
        return ""
    return (said.key_identifier or b"").hex()


def _attribute(name: x509.Name, kind: x509.ObjectIdentifier) -> str:
    (found,) = name.get_attributes_for_oid(kind)
    if not isinstance(found.value, str):
        raise TypeError("not text")
    return found.value


def _plain_leaf(certificate: x509.Certificate) -> None:
    """Refuse a CA's certificate, and one with critical demands that nobody here knows."""
    basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    known = (x509.BasicConstraints, x509.KeyUsage, x509.ExtendedKeyUsage)
    strange = [x for x in certificate.extensions if x.critical and not isinstance(x.value, known)]
    if basic.ca or strange:
        raise ValueError("not a leaf")
