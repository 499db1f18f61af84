"""The plants' desks in simulation, as far as secure sums need them.

At a plant the daemon lives long and keeps the sessions' secrets in memory. In simulation that is
the process that runs it: it outlives every message, which a worker process or a Ray actor need not.
So all simulated plants keep their sessions in one process; they are one machine's anyway. Their
identities are real ones, of a CA made for the run folder, and they accept each other without
asking anybody, which no real plant does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.desk.contributions import Contributions
from client.desk.ledger import Ledger
from client.desk.spending import Spending
from client.desk.sums import Sums, limits_of
from client.identity import CERTIFICATE, IDENTITY, signer_of
from common.config import load_plant
from common.errors import AggregationError, PolicyError, TransferlineError
from common.files import write_atomic
from common.orders import Order, Outcome, Reply
from common.pki import Authority, Role, Trust, load_identity, read_certificate
from common.pki.keys import IDENTITY_KEY, write_key
from common.secagg.messages import Call, Said
from common.signing import Signer
from server.seals import CA, RELEASE, RELEASE_KEY

PKI = "pki"
DAYS = 825  #: that the certificates of a run folder are valid


@dataclass(frozen=True, kw_only=True)
class Desks:
    """The desks of all plants of a run folder.

    Attributes
    ----------
    sums : by plant.
    """

    sums: Mapping[str, Sums]

    @classmethod
    def open(cls, home: Path, *, plants: Sequence[str]) -> Desks:
        """Open the desks of a run folder that `make_identities` has prepared.

        Raises
        ------
        TransferlineError
            If a file is missing or damaged.
        """
        trust = Trust.of(home / PKI / CA)
        signers = {name: signer_of(home / "plants" / name) for name in plants}
        accepted = frozenset(signer.fingerprint for signer in signers.values())
        return cls(
            sums={
                name: _sums(home / "plants" / name, signer, trust=trust, accepted=accepted)
                for name, signer in signers.items()
            }
        )

    def call(self, plant: str, call: Call) -> Said:
        """Answer a call of the centre."""
        return self.sums[plant].call(call)

    def refusal(self, plant: str, order: Order, beside: str) -> Reply | None:
        """Look at an order; return the reply that refuses it, None if it may be worked out."""
        try:
            self.sums[plant].examine(order, beside)
        except TransferlineError as error:
            return refused(plant, order, error)
        return None

    def mask(self, plant: str, order: Order, beside: str, reply: Reply) -> Reply:
        """Return what is sent in place of a worker's reply."""
        try:
            return self.sums[plant].mask(order, beside, reply)
        except TransferlineError as error:
            return refused(plant, order, error)


def refused(plant: str, order: Order, error: TransferlineError) -> Reply:
    """Return the reply that an error is."""
    told = isinstance(error, PolicyError | AggregationError)
    return Reply(
        plant=plant,
        run=order.run,
        round=order.round,
        release=order.release,
        outcome=Outcome.DECLINED,
        reason=f"{error.code}: {error}" if told else error.code,
    )


def make_identities(home: Path, *, plants: Sequence[str], federation: str) -> None:
    """Make a CA, a release key and the plants' identities in a run folder, where they are missing.

    Raises
    ------
    TransferlineError
        If the folder cannot be written.
    """
    folder = home / PKI
    authority = (
        Authority.open(folder)
        if (folder / CA).exists()
        else Authority.create(folder, federation=federation)
    )
    if not (folder / RELEASE).exists():
        _certify(authority, folder / RELEASE_KEY, folder / RELEASE, "centre", Role.RELEASE)
    for name in plants:
        own = home / "plants" / name / IDENTITY
        if not (own / CERTIFICATE).exists():
            _certify(authority, own / IDENTITY_KEY, own / CERTIFICATE, name, Role.PLANT)


def _certify(authority: Authority, key: Path, certificate: Path, name: str, role: Role) -> None:
    made = load_identity(key) if key.exists() else Ed25519PrivateKey.generate()
    write_key(key, made)
    pem = authority.issue(made.public_key(), name=name, role=role, days=DAYS)
    write_atomic(certificate, pem.encode())


def _sums(folder: Path, signer: Signer, *, trust: Trust, accepted: frozenset[str]) -> Sums:
    policy = load_plant(folder / "plant.toml").policy
    ledger = Ledger(folder)
    ledger.prepare()
    return Sums(
        name=signer.name,
        federation=read_certificate(signer.certificate).federation,
        papers=lambda: (signer, trust),
        limits=lambda: limits_of(policy, accepted=accepted, own=signer.fingerprint),
        record=Contributions(ledger=ledger),
        charged=Spending(folder).contributions,
        now=lambda: datetime.now(UTC),
    )
