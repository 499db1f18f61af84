"""Keys of a plant: made where they are used, 0600, and never sent.

The identity (Ed25519) signs updates and certificate requests. The link's key (EC P-384, OpenSSH
format) is what Flower's SuperNode proves itself with; it belongs to the link's user.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    SSHPrivateKeyTypes,
    load_pem_private_key,
    load_ssh_private_key,
    load_ssh_public_key,
)
from cryptography.x509.oid import NameOID

from common.errors import IdentityError
from common.files import write_atomic
from common.pki.certificate import MALFORMED, check_name

IDENTITY_KEY = "identity.key"
LINK_KEY = "link.key"
LINK_PUBLIC = "link.pub"
KEY_LIMIT = 8 * 1024  #: bytes of a key file, characters of a key in text
REQUEST_LIMIT = 4 * 1024  #: characters of a certificate request


def make_identity(folder: Path) -> ed25519.Ed25519PrivateKey:
    """Return the identity key in a folder; make one where there is none.

    Raises
    ------
    IdentityError, StateError
        If there is one that cannot be read, or the folder cannot be written.
    """
    path = folder / IDENTITY_KEY
    if path.exists():
        return load_identity(path)
    key = ed25519.Ed25519PrivateKey.generate()
    write_key(path, key)
    return key


def load_identity(path: Path) -> ed25519.Ed25519PrivateKey:
    """Read an identity key.

    Raises
    ------
    IdentityError
        If the file is missing, unreadable or no Ed25519 key.
    """
    key = _read(path, _load_pem)
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise _damaged(path)
    return key


def load_authority(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read a CA's key.

    Raises
    ------
    IdentityError
        If the file is missing, unreadable or no elliptic-curve key.
    """
    key = _read(path, _load_pem)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise _damaged(path)
    return key


def make_link_key(folder: Path) -> str:
    """Return the public half of the link's key in a folder, OpenSSH text; make it if need be.

    Raises
    ------
    IdentityError, StateError
        As `make_identity`.
    """
    path = folder / LINK_KEY
    if path.exists():
        found = _read(path, _load_ssh)
        if not isinstance(found, ec.EllipticCurvePrivateKey):
            raise _damaged(path)
        key = found
    else:
        key = ec.generate_private_key(ec.SECP384R1())
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        write_atomic(path, secret, mode=0o600)
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    write_atomic(folder / LINK_PUBLIC, f"{public}\n".encode())
    return public


def check_link_key(text: str) -> str:
    """Return a link's public key as it is registered: one line, without comment.

    Raises
    ------
    IdentityError
        If it is no EC P-384 key in OpenSSH format.
    """
    try:
        if len(text) > KEY_LIMIT:
            raise ValueError("too long")
        key = load_ssh_public_key(text.encode("ascii"))
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
            raise ValueError("another kind of key")
        return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    except MALFORMED as error:
        raise IdentityError(
            "link key must be an EC P-384 public key in OpenSSH format, got another; join again"
        ) from error


def make_request(key: ed25519.Ed25519PrivateKey, *, name: str) -> str:
    """Return a certificate request (PKCS#10, PEM) for a name, signed by its key."""
    common_name = x509.NameAttribute(NameOID.COMMON_NAME, check_name(name))
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([common_name]))
    return builder.sign(key, None).public_bytes(Encoding.PEM).decode()


def read_request(text: str) -> tuple[str, ed25519.Ed25519PublicKey]:
    """Check a certificate request; return the name and the key that it is for.

    Raises
    ------
    IdentityError
        If it is too long, damaged, not signed by its own key, or for another kind of key.
    """
    if len(text) > REQUEST_LIMIT:
        raise IdentityError(
            f"certificate request must have at most {REQUEST_LIMIT} characters, got {len(text)}"
        )
    try:
        request = x509.load_pem_x509_csr(text.encode())
        (common_name,) = request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        key, signed = request.public_key(), request.is_signature_valid
    except MALFORMED as error:
        raise IdentityError("certificate request must be PKCS#10, got something else") from error
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise IdentityError(f"identity key must be Ed25519, got {type(key).__name__}")
    if not signed:
        raise IdentityError("certificate request must be signed by its own key, got another's")
    return check_name(str(common_name.value)), key


def write_key(path: Path, key: PrivateKeyTypes) -> None:
    """Write a private key, 0600, atomically."""
    write_atomic(path, key_pem(key).encode(), mode=0o600)


def key_pem(key: PrivateKeyTypes) -> str:
    """Return a private key as text; it is a secret."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _read(
    path: Path, load: Callable[[bytes], PrivateKeyTypes | SSHPrivateKeyTypes]
) -> PrivateKeyTypes | SSHPrivateKeyTypes | None:
    """Return the key in a file, None if it is damaged; no message shows any of the content."""
    try:
        with path.open("rb") as file:
            data = file.read(KEY_LIMIT)
    except OSError as error:
        raise IdentityError(
            f"{path} must be a private key, cannot read it: {error.strerror}; restore it, or join "
            "again with a new token"
        ) from error
    try:
        return load(data)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None


def _damaged(path: Path) -> IdentityError:
    return IdentityError(
        f"{path} must be a private key, it is damaged or of another kind; restore it, or join "
        "again with a new token"
    )


def _load_pem(data: bytes) -> PrivateKeyTypes:
    return load_pem_private_key(data, None)


def _load_ssh(data: bytes) -> SSHPrivateKeyTypes:
    return load_ssh_private_key(data, None)
