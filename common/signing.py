"""Signed envelopes: a few typed fields, who signed them, and an Ed25519 signature over all of it.

An envelope is JSON text: version, kind, fields, nonce, the signer's certificate (with what vouches
for it during a CA rotation) and the signature over a label and the canonical JSON of the rest.

Covered: nobody without the key can change a field, move an envelope to another kind or put another
certificate under it; a certificate counts for its role only, under a pinned CA, at a time that is
passed in; text that is too long, not JSON, or has a field twice is refused before anything is used.

Not covered: replay (the nonce tells two sendings apart, the ledger of a plant and the store of the
centre remember what was answered), revocation (the centre's registry), and when it was signed: who
checks an old envelope says what time counts.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from common.errors import IdentityError
from common.pki import Certificate, Role, Trust, load_identity, read_certificate
from common.pki.certificate import key_fingerprint

VERSION = 1
LABEL = b"transferline envelope\x00"  #: no other program's signature is taken for one of these
SEAL_LIMIT = 2**20  #: characters; an order to 10 000 plants takes half of it
DEPTH_LIMIT = 16  #: of lists and tables within each other
NONCE = re.compile(r"[0-9a-f]{32}")
KEYS = {"version", "kind", "fields", "nonce", "certificate", "signature"}


@dataclass(frozen=True, kw_only=True)
class Signer:
    """A signing key and the certificate that says whose it is.

    Attributes
    ----------
    certificate : PEM, with what vouches for it; "" for a key that has none yet (`seal` for joining,
        read by `open_bare`).
    """

    key: Ed25519PrivateKey = field(repr=False)
    certificate: str = field(default="", repr=False)
    name: str = ""

    @classmethod
    def open(cls, key_path: Path, certificate_path: Path) -> Signer:
        """Read key and certificate.

        Raises
        ------
        IdentityError
            If one cannot be read, or they do not belong together.
        """
        key = load_identity(key_path)
        try:
            text = certificate_path.read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise IdentityError(
                f"{certificate_path} must be a certificate, cannot read it: {error}; restore it, "
                "or join again with a new token"
            ) from error
        certificate = read_certificate(text)
        signer = cls(key=key, certificate=text, name=certificate.name)
        if certificate.fingerprint != signer.fingerprint:
            raise IdentityError(
                f"{certificate_path} must be the certificate of {key_path.name}, it is that of "
                "another key; restore both from one backup, or join again with a new token"
            )
        return signer

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the raw public key, hex."""
        return key_fingerprint(self.key.public_key())


@dataclass(frozen=True, kw_only=True)
class Sealed:
    """What a verified envelope says, and who says it."""

    kind: str
    fields: Mapping[str, Any]
    nonce: str
    signer: Certificate


def seal(kind: str, fields: Mapping[str, Any], *, signer: Signer, nonce: str | None = None) -> str:
    """Return a signed envelope.

    Parameters
    ----------
    fields : JSON values; no NaN.
    nonce : 32 hex digits; by default 128 fresh random bits.

    Raises
    ------
    IdentityError
        If it would be longer than anybody reads.
    """
    said = {
        "version": VERSION,
        "kind": kind,
        "fields": dict(fields),
        "nonce": secrets.token_hex(16) if nonce is None else nonce,
        "certificate": signer.certificate,
    }
    signature = signer.key.sign(_signed(said))
    text = json.dumps(said | {"signature": base64.b64encode(signature).decode()}, allow_nan=False)
    if len(text) > SEAL_LIMIT:
        raise IdentityError(
            f"envelope {kind} must have at most {SEAL_LIMIT} characters, got {len(text)}; ask "
            "fewer plants at a time"
        )
    return text


def open_seal(text: str, *, kind: str, trust: Trust, role: Role, at: datetime) -> Sealed:
    """Verify an envelope and return what it says.

    Parameters
    ----------
    at : the time at which the signer's certificate must be valid, aware.

    Raises
    ------
    IdentityError
        If it is too long, damaged, of another kind or version, altered, or signed by somebody who
        is foreign, expired or of another role.
    """
    said = _read(text, kind)
    certificate = trust.verify(said["certificate"], role=role, at=at)
    key = certificate.public_key
    if not isinstance(key, Ed25519PublicKey):
        raise IdentityError(f"envelope {kind} must be signed by an Ed25519 key, got another kind")
    _check(said, key)
    return Sealed(kind=kind, fields=said["fields"], nonce=said["nonce"], signer=certificate)


def open_bare(text: str, *, kind: str, key: Ed25519PublicKey) -> Mapping[str, Any]:
    """Verify an envelope of a key that has no certificate yet, and return its fields.

    Raises
    ------
    IdentityError
        As `open_seal`; also if it does come with a certificate.
    """
    said = _read(text, kind)
    if said["certificate"]:
        raise IdentityError(f"envelope {kind} must come without certificate, got one")
    _check(said, key)
    fields: Mapping[str, Any] = said["fields"]
    return fields


def _check(said: Mapping[str, Any], key: Ed25519PublicKey) -> None:
    try:
        signature = base64.b64decode(said["signature"], validate=True)
        key.verify(signature, _signed({name: said[name] for name in KEYS - {"signature"}}))
    except (ValueError, InvalidSignature) as error:
        raise IdentityError(
            f"envelope {said['kind']} must be as it was signed, its signature does not fit; it was "
            "altered on its way"
        ) from error


def _signed(said: Mapping[str, Any]) -> bytes:
    """Return what is signed: the label, and the one JSON text that these values have."""
    text = json.dumps(said, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return LABEL + text.encode("ascii")


def _read(text: str, kind: str) -> dict[str, Any]:
    """Check an envelope's form; its signature is not checked yet."""
    if not text:
        raise IdentityError(f"message must come with a signed envelope {kind}, got none")
    if len(text) > SEAL_LIMIT:
        raise IdentityError(f"envelope must have at most {SEAL_LIMIT} characters, got {len(text)}")
    try:
        said = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
        sound = (
            isinstance(said, dict)
            and said.keys() == KEYS
            and type(said["version"]) is int
            and isinstance(said["fields"], dict)
            and all(isinstance(said[name], str) for name in KEYS - {"version", "fields"})
            and NONCE.fullmatch(said["nonce"])
            and _depth(said) <= DEPTH_LIMIT
        )
    except (ValueError, RecursionError):
        sound = False
    if not sound:
        raise IdentityError(f"envelope {kind} must be signed JSON text, got something else")
    if said["version"] != VERSION:
        raise IdentityError(
            f"envelope {kind} must have version {VERSION}, got {said['version']}; both sides must "
            "run the same version"
        )
    if said["kind"] != kind:
        raise IdentityError(f"envelope must be of kind {kind}, got {said['kind'][:40]!a}")
    return dict(said)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a field twice")
    return dict(pairs)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, inner), default=0)
