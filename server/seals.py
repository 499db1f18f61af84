"""The centre's end of the signatures: orders are sealed by the release key, replies are opened.

Key and CAs are read anew for each order, so that a certificate that was renewed, and a CA that is
being rotated, count from the next round on, in a run that takes days.

Covered: a reply counts as a plant's only if the identity that is enrolled now has signed it, over
this very sending. Not covered: what the reply says (`server.admission`), and a revocation between
its arrival and the commit (the commit looks again).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from common.errors import IdentityError
from common.orders import Order, Reply
from common.pki import Trust
from common.signing import Signer
from common.wire.parts import Parts
from common.wire.seals import open_reply, seal_call, seal_order
from server.state.tables import utcnow

CA, RELEASE_KEY, RELEASE = "ca.pem", "release.key", "release.pem"


@dataclass(frozen=True, kw_only=True)
class Papers:
    """What the centre signs with, and whom it trusts, at one moment."""

    signer: Signer
    trust: Trust


def papers_of(folder: Path) -> Papers:
    """Read the papers in a centre's ``pki``.

    Raises
    ------
    IdentityError
        If a key or a certificate cannot be read.
    """
    signer = Signer.open(folder / RELEASE_KEY, folder / RELEASE)
    return Papers(signer=signer, trust=Trust.of(folder / CA))


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """One sealed order (`server.fleet.grid.Envelope`).

    Attributes
    ----------
    parts : what is sent.
    nonce : what a reply to it must carry.
    """

    parts: Parts
    nonce: str
    trust: Trust
    clock: Callable[[], datetime]

    def open(self, parts: Parts, *, fingerprint: str) -> Reply:
        """Verify and read a reply.

        Parameters
        ----------
        fingerprint : of the identity that is enrolled for the plant that was asked.

        Raises
        ------
        IdentityError
            If that identity did not sign it, or it answers another sending.
        UpdateError
            If it is no reply.
        """
        reply, signer = open_reply(parts, trust=self.trust, at=self.clock(), nonce=self.nonce)
        if signer.fingerprint != fingerprint:
            raise IdentityError(
                f"reply of {reply.plant} must be signed by the identity that is enrolled, got an "
                "earlier one"
            )
        return reply


@dataclass(frozen=True, kw_only=True)
class Seals:
    """Seals orders (`server.fleet.grid.Seals`).

    Attributes
    ----------
    folder : the centre's ``pki``.
    clock : the time, with a zone.
    """

    folder: Path
    clock: Callable[[], datetime] = utcnow

    def envelope(self, parts: Parts, order: Order) -> Envelope:
        """Seal a packed order.

        Raises
        ------
        IdentityError
            If a key or a certificate cannot be read.
        """
        papers = papers_of(self.folder)
        sealed = seal_order(parts, order, signer=papers.signer)
        return Envelope(
            parts=sealed,
            nonce=json.loads(sealed.seal)["nonce"],
            trust=papers.trust,
            clock=self.clock,
        )

    def call(self, parts: Parts, *, plant: str) -> Parts:
        """Seal a packed message of a secure sum to one plant; errors as `envelope`."""
        return seal_call(parts, plant=plant, signer=papers_of(self.folder).signer)
