"""What ``transferline-plant check`` looks at: one line each, and what to do where it is not well.

Nothing is changed and nothing of the plant is sent; the centre is asked for its certificate and
the time. What is quick comes first; torch is loaded only for the last two.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path

from client.desk import policy
from client.desk.ledger import Ledger
from client.desk.peers import ACCEPTED, Peer, Peers
from client.desk.sums import limits_of
from client.identity import AUTHORITY, DUE, IDENTITY, Identity, signer_of
from client.joining.reach import Contact, reach_edge, reach_enrolment
from client.layout import account, federation_of, open_settings
from client.link.zones import SHARED, exposed, is_shared, readable, remedy
from common.config import FederationConfig, PlantConfig
from common.errors import EngineError, TransferlineError
from common.orders import Kind, Order
from common.pki import TOLERANCE, Trust
from common.pki.keys import IDENTITY_KEY

GIGABYTE = 1e9
CLOCK_OFF = timedelta(minutes=1)  #: from here on somebody should look at it
LATE = DUE / 2  #: share of a certificate's time that is left when it should long be renewed
ROOM = 1 * GIGABYTE  #: bytes beyond those that stay free
_NAMED = 5  #: plants that a line names


class State(StrEnum):
    """How something is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"  #: not to be looked at from here


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line: how something is, and what to do about it ("" if nothing)."""

    name: str
    state: State
    says: str
    do: str = ""


@dataclass(frozen=True, kw_only=True)
class Plant:
    """What is looked at.

    Attributes
    ----------
    now : local time, aware.
    """

    folder: Path
    settings: PlantConfig
    federation: FederationConfig
    now: datetime

    @classmethod
    def open(cls, folder: Path, *, now: datetime) -> Plant:
        """Open a plant's folder.

        Raises
        ------
        ConfigError, StateError
            If there is no plant in it, or its settings are wrong.
        """
        settings, federation = open_settings(folder), federation_of(folder)
        return cls(folder=folder, settings=settings, federation=federation, now=now)

    @property
    def data(self) -> Path:
        return (self.folder / self.settings.data).resolve()


def checks(plant: Plant) -> Generator[Check]:
    """Look at everything but data and device, each result as soon as it is there."""
    with ThreadPoolExecutor(2) as pool:
        asked = _ask_centre(plant, pool)
        yield identity(plant)
        yield zones(plant)
        yield orders(plant)
        yield sums(plant)
        yield disk(plant)
        if asked is None:
            says = "the link is in another zone, and only it talks to the centre"
            yield Check(name="centre", state=State.SKIP, says=says)
            return
        edge, enrolment = (one.result() for one in asked)
    yield clock(edge)
    yield connection("fleet", edge)
    yield connection("enrolment", enrolment)


def identity(plant: Plant) -> Check:
    """Look at the certificate: of the pinned CA, of this key, in time, closed to others."""
    folder = plant.folder / IDENTITY
    try:
        said = Identity(folder, name=plant.settings.name, at=plant.now).papers.certificate
    except TransferlineError as error:
        return _failed("identity", error)
    if (folder / IDENTITY_KEY).stat().st_mode & 0o077:
        return Check(
            name="identity",
            state=State.FAIL,
            says=f"other users of this machine may reach {folder / IDENTITY_KEY}",
            do="chmod 600, and join again with a new token: it may have been read",
        )
    left = said.not_after - plant.now
    says = f"{said.name} of {said.federation}, certificate valid for {lasting(left)}"
    if left < LATE * (said.not_after - said.not_before):
        do = "it renews itself while `up` runs; see that the link reaches the centre"
        return Check(name="identity", state=State.WARN, says=says, do=do)
    return Check(name="identity", state=State.OK, says=says)


def zones(plant: Plant) -> Check:
    """Look at what the code that the centre ships could reach."""
    link = plant.settings.link
    if link.listen:
        says = f"the link is in another zone, by mutual TLS at {link.listen}"
        return Check(name="link", state=State.OK, says=says)
    if is_shared(link):
        return Check(
            name="link",
            state=State.WARN,
            says=SHARED,
            do="fit for trials only; set link.user in plant.toml and start `up` as root",
        )
    try:
        user = account(link.user)
        seen = exposed(plant.folder, data=plant.data, link=user)
        can_run = readable(Path(sys.executable), by=user)
    except EngineError as error:
        return Check(
            name="link",
            state=State.WARN,
            says=f"runs as {link.user}; what that user can read was not tried",
            do=str(error).rpartition("; ")[2],
        )
    except TransferlineError as error:
        return _failed("link", error)
    if seen:
        says, do = remedy(seen)
        return Check(
            name="link", state=State.FAIL, says=f"runs as {link.user}, which {says}", do=do
        )
    if not can_run:
        says = f"runs as {link.user}, which cannot run {sys.executable}"
        do = "install Transferline in a folder that others may read, such as /opt"
        return Check(name="link", state=State.FAIL, says=says, do=do)
    says = f"runs as {link.user}, which can read neither data nor keys"
    return Check(name="link", state=State.OK, says=says)


def orders(plant: Plant) -> Check:
    """Ask the policy about an order by the federation's settings."""
    config, limits = plant.federation, plant.settings.policy
    size = max(config.min_plants, limits.minimum_cohort)
    order = Order(
        run="check",
        round=1,
        kind=Kind.TRAIN,
        release="",
        cohort=tuple(f"plant-{number}" for number in range(size)),
        deadline=config.round_deadline,
        config=config,
    )
    at_best = policy.Situation(now=_open_hour(plant), rounds=0, disk=2**62, needed=0)
    if found := policy.objections(order, limits, situation=at_best):
        says = f"it declines every order of this federation: {'; '.join(found)}"
        do = "change [policy] in plant.toml, or ask the operator for other settings"
        return Check(name="policy", state=State.FAIL, says=says, do=do)
    wants = [f"{config.method} on {config.backbone} is allowed"]
    state = State.OK
    if not policy.within(limits.hours, now=plant.now):
        wants.append(f"training waits for {limits.hours}")
        state = State.WARN
    if config.min_plants < limits.minimum_cohort:
        wants.append(
            f"rounds of fewer than {limits.minimum_cohort} plants are declined, and the "
            f"federation may ask {config.min_plants}"
        )
        state = State.WARN
    if config.round_deadline > limits.longest_round:
        wants.append(f"training stops after {limits.longest_round:g} s")
    do = "so says [policy] in plant.toml; change it if that is not meant"
    return Check(name="policy", state=state, says="; ".join(wants), do=do if state != "ok" else "")


def sums(plant: Plant) -> Check:
    """Look at whom the plant would sum its updates with, and what is missing."""
    demanded = policy.SECURE in plant.settings.policy.protection
    asked = plant.federation.secure_aggregation.enabled
    if not (demanded or asked):
        says = "updates are not summed under masks: neither the federation nor [policy] asks for it"
        return Check(name="sums", state=State.SKIP, says=says)
    ledger = Ledger(plant.folder)
    try:
        found = Peers(ledger=ledger).all() if ledger.path.exists() else []
        own = signer_of(plant.folder)
    except TransferlineError as error:
        return _failed("sums", error)
    peers = {one.fingerprint: _called(one) for one in found if one.state == ACCEPTED}
    peers.pop(own.fingerprint, None)
    waiting = sorted(_called(one) for one in found if one.state != ACCEPTED)
    limits = limits_of(plant.settings.policy, accepted=frozenset(peers), own=own.fingerprint)
    fewest = max(limits.minimum_cohort, plant.federation.min_plants if asked else 0)
    says = f"sums with {_listed(sorted(peers.values()))}, at least {fewest} plants a sum"
    accept = "transferline-plant peers PLANT accept FINGERPRINT"
    if (few := fewest - 1 - len(peers)) > 0:
        ask = f"of {_listed(waiting)}" if waiting else "of the others"
        return Check(
            name="sums",
            state=State.FAIL,
            says=f"{says}: {few} more must be accepted, until then it takes part in none",
            do=f"compare fingerprints with the engineers {ask}; {accept}",
        )
    if waiting:
        says += f"; {_listed(waiting)} turned up and is not accepted"
        do = f"if it should take part, compare fingerprints with its engineer; {accept}"
        return Check(name="sums", state=State.WARN, says=says, do=do)
    if not demanded:
        says += "; an order in the clear would be answered too"
        do = f'set policy.protection = ["{policy.SECURE}"] in plant.toml'
        return Check(name="sums", state=State.WARN, says=says, do=do)
    return Check(name="sums", state=State.OK, says=says)


def _called(peer: Peer) -> str:
    """Return what to call an identity: its name, else the beginning of its fingerprint."""
    return peer.name or peer.fingerprint[:8]


def _listed(names: Sequence[str]) -> str:
    """Name a few and count the rest."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "") or "nobody"


def disk(plant: Plant) -> Check:
    """Look at the room on the disk of the plant's folder."""
    free = shutil.disk_usage(plant.folder).free
    least = plant.settings.policy.disk_free * GIGABYTE
    says = f"{free / GIGABYTE:.1f} GB free, of which {least / GIGABYTE:g} GB stay free"
    if free < least:
        do = "orders are declined; free the disk, or lower policy.disk_free"
        return Check(name="disk", state=State.FAIL, says=says, do=do)
    if free < least + ROOM:
        do = "models and answers need room; free the disk"
        return Check(name="disk", state=State.WARN, says=says, do=do)
    return Check(name="disk", state=State.OK, says=says)


def clock(edge: Contact) -> Check:
    """Compare this machine's clock with the centre's."""
    do = "let it be set over the network: timedatectl set-ntp true"
    if edge.ahead is None:
        says = "not compared, the centre did not say what time it is"
        return Check(name="clock", state=State.WARN, says=says, do="mend the connection first")
    off = timedelta(seconds=round(abs(edge.ahead)))
    says = f"{off} {'ahead of' if edge.ahead > 0 else 'behind'} the centre's"
    if off > TOLERANCE:
        return Check(name="clock", state=State.FAIL, says=says, do=do)
    if off > CLOCK_OFF:
        return Check(name="clock", state=State.WARN, says=says, do=do)
    return Check(name="clock", state=State.OK, says="agrees with the centre's")


def connection(name: str, contact: Contact) -> Check:
    """Say whether an address of the centre answers, and is the centre's."""
    if not contact.error:
        says = f"{contact.address} answers, {1000 * contact.seconds:.0f} ms to connect by TLS"
        return Check(name=name, state=State.OK, says=says)
    do = "let this machine reach it (TCP, outgoing), or ask the operator whether it is up"
    if contact.untimely:
        do = "see the clock above; if it is right, the operator must renew the certificate"
    return Check(name=name, state=State.FAIL, says=f"{contact.address}: {contact.error}", do=do)


def _ask_centre(
    plant: Plant, pool: ThreadPoolExecutor
) -> tuple[Future[Contact], Future[Contact]] | None:
    """Start asking both addresses; None where this machine does not talk to the centre."""
    settings = plant.settings
    if settings.link.listen:
        return None
    try:
        authority = Trust.of(plant.folder / IDENTITY / AUTHORITY).pem
    except TransferlineError as error:
        nothing: Future[Contact] = Future()
        nothing.set_result(Contact(address=settings.centre.fleet, error=str(error)))
        return nothing, nothing
    return (
        pool.submit(reach_edge, settings.centre.fleet, authority=authority),
        pool.submit(reach_enrolment, settings.centre.enrolment, authority=authority),
    )


def _open_hour(plant: Plant) -> datetime:
    """Return a moment at which the policy lets the plant train."""
    if not plant.settings.policy.hours:
        return plant.now
    start, _ = policy.window(plant.settings.policy.hours)
    return datetime.combine(plant.now.date(), start, tzinfo=plant.now.tzinfo)


def lasting(span: timedelta) -> str:
    """Say how long something lasts, in the unit that fits: ``29 days``, ``5 h``, ``2 min``."""
    seconds = max(0, round(span.total_seconds()))
    if seconds >= 2 * 86400:
        return f"{round(seconds / 86400)} days"
    if seconds >= 2 * 3600:
        return f"{round(seconds / 3600)} h"
    return f"{round(seconds / 60)} min" if seconds >= 120 else f"{seconds} s"


def _failed(name: str, error: TransferlineError) -> Check:
    """Split an error's line into what is wrong and what to do."""
    says, _, do = str(error).rpartition("; ")
    return Check(name=name, state=State.FAIL, says=says or do, do=do if says else "")
