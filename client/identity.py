"""The daemon's identity: its key, its certificate, the CAs that it trusts, and their renewal.

A certificate is renewed when half of its time is over, and while one CA takes over from another:
when the centre's own is of another CA, and then until one alone is pinned. The daemon writes the
request, the link carries it to the centre and the certificate back. The key stays, so the plant
stays the same plant. A CA takes over from another only if the pinned one vouches for it
(`Trust.accept`).

Covered: a certificate for another key, name, role or federation, and a CA that nobody vouches for,
are not installed. Not covered: a link that drops renewals; the certificate then ends, and the
plant's log and metrics say so before.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from common.errors import IdentityError
from common.files import write_atomic
from common.pki import Certificate, Role, Trust, make_request
from common.pki.keys import IDENTITY_KEY
from common.signing import Signer, seal
from common.token import RENEWAL, renewal_due

IDENTITY = "identity"  #: in a plant's folder, with `IDENTITY_KEY` and these:
CERTIFICATE, AUTHORITY = "identity.pem", "ca.pem"
DUE = 1 / 2  #: share of a certificate's time that is left when it is renewed (`renewal_due`)


def signer_of(plant: Path) -> Signer:
    """Open key and certificate in a plant's folder; errors as `Signer.open`."""
    folder = plant / IDENTITY
    return Signer.open(folder / IDENTITY_KEY, folder / CERTIFICATE)


@dataclass(frozen=True, kw_only=True)
class Papers:
    """What belongs together at one moment."""

    trust: Trust
    signer: Signer
    certificate: Certificate


class Identity:
    """The identity in a plant's folder.

    Attributes
    ----------
    papers : those in force; taken as a whole, so that a renewal never mixes old and new.

    Raises
    ------
    IdentityError
        If a file is missing or damaged, or the certificate is not the plant's own.
    """

    def __init__(self, folder: Path, *, name: str, at: datetime) -> None:
        self._folder = folder
        self._name = name
        self._lock = threading.Lock()
        self._centre_issuer = ""
        self.papers = self._read(Trust.of(folder / AUTHORITY), at=at)

    def meet(self, centre: Certificate) -> None:
        """Note the certificate of whoever signed an order: a new CA makes the plant's own due."""
        self._centre_issuer = centre.issuer

    def request(self, *, at: datetime) -> str:
        """Return the sealed request for a fresh certificate; "" while none is due."""
        held = self.papers
        rotating = (
            self._centre_issuer not in ("", held.certificate.issuer)
            or len(held.trust.authorities) > 1
        )
        if not rotating and not renewal_due(held.certificate, at=at):
            return ""
        request = make_request(held.signer.key, name=self._name)
        fields = {"request": request, "serial": held.certificate.serial}
        return seal(RENEWAL, fields, signer=held.signer)

    def install(self, certificate: str, *, authority: str = "", at: datetime) -> datetime:
        """Take over what the centre issued; return until when it is valid.

        Parameters
        ----------
        certificate : PEM, with what vouches for it.
        authority : the CAs in force, PEM; "" where they are not told.

        Raises
        ------
        IdentityError
            If it is not for this plant, or from a CA that nobody vouches for; nothing is changed.
        """
        with self._lock:
            held = self.papers
            trust = held.trust.accept(authority, at=at) if authority else held.trust
            fresh = trust.verify(certificate, role=Role.PLANT, at=at)
            now = held.certificate
            for what, got, wanted in (
                ("plant", fresh.name, now.name),
                ("federation", fresh.federation, now.federation),
                ("key", fresh.fingerprint, now.fingerprint),
            ):
                if got != wanted:
                    raise IdentityError(f"certificate must be for the {what} {wanted}, got {got}")
            # Certificates of the CA before count until both files are there.
            both = Trust(tuple(dict.fromkeys((*trust.authorities, *held.trust.authorities))))
            if trust.pem != held.trust.pem:
                write_atomic(self._folder / AUTHORITY, both.pem.encode(), mode=0o600)
            write_atomic(self._folder / CERTIFICATE, certificate.encode(), mode=0o600)
            if trust.pem != held.trust.pem:
                write_atomic(self._folder / AUTHORITY, trust.pem.encode(), mode=0o600)
            self.papers = self._read(trust, at=at)
            return fresh.not_after

    def _read(self, trust: Trust, *, at: datetime) -> Papers:
        signer = Signer.open(self._folder / IDENTITY_KEY, self._folder / CERTIFICATE)
        certificate = trust.verify(signer.certificate, role=Role.PLANT, at=at)
        if certificate.name != self._name:
            raise IdentityError(
                f"{self._folder / CERTIFICATE} must be for {self._name}, got {certificate.name}; "
                "the name in plant.toml stays as it was at joining"
            )
        return Papers(trust=trust, signer=signer, certificate=certificate)
