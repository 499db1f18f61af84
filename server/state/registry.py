"""Who takes part: plants, their invitations, and the nodes that the engine knows them by.

The operator's commands, the centre's daemon, its enrolment service and the ServerApp meet here and
in the queue of runs (`server.state.runs`), and nowhere else. Each method is one transaction; with a
signer it writes the log in the same one (`server.state.journal`).

An invitation's secret is drawn here, handed out once and stored as SHA-256 only. The first plant
that shows it binds it to its two keys (`Registry.redeem`). For `GRACE` the same keys may show it
again, because an answer can get lost; other keys never. Only keys that a secret was bound to are
enrolled (`Registry.enrol`).

Not covered: what a certificate says (`common.pki`), and who may call this: whoever can write the
database can do all of it.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from datetime import datetime, timedelta

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from common.errors import ConfigError, IdentityError
from common.pki import check_name
from server.state.runs import Runs
from server.state.tables import (
    ENROLLED,
    GONE,
    LEAVING,
    REGISTERED,
    REVOKED,
    NodeRow,
    PlantRow,
    TokenRow,
)

#: How long the keys that used a secret may show it again.
GRACE = timedelta(minutes=10)


class Registry(Runs):
    """The plants of a store, and its runs (`server.state.runs.Runs`).

    Parameters
    ----------
    store : of the centre.
    clock : the time, with a zone.
    signer : of the log; None writes none.

    Raises
    ------
    StateError
        From every method: if the database cannot be used.
    """

    def invite(self, plant: str, *, valid: timedelta, readmit: bool = False) -> str:
        """Make an invitation and return its secret, which is not kept; an older one is void.

        Parameters
        ----------
        valid : how long it may be used.
        readmit : for a plant that was revoked.

        Raises
        ------
        ConfigError
            If ``valid`` is not positive.
        IdentityError
            If the name cannot be one, or the plant is enrolled, or is revoked and not to be
            readmitted, or the reverse.
        """
        check_name(plant)
        if valid <= timedelta(0):
            raise ConfigError(f"valid must be longer than nothing, got {valid}; try 24h")
        secret, now = secrets.token_urlsafe(32), self._clock()
        with self._store.writing() as session:
            row = session.get(PlantRow, plant)
            _check_invited(plant, row, readmit=readmit)
            token = TokenRow(
                plant=plant,
                digest=_digest(secret),
                issued_at=now,
                expires=now + valid,
                used_at=None,
                fingerprint="",
                link_key="",
            )
            session.merge(token)
            body = {"plant": plant, "expires": token.expires.isoformat(), "readmit": readmit}
            self._journal.append(session, "invitation", body)
        return secret

    def invitations(self) -> list[TokenRow]:
        """Return the invitations that nobody has used yet and that are still valid, by plant."""
        open_ = select(TokenRow).where(TokenRow.used_at.is_(None), TokenRow.expires > self._clock())
        with self._store.reading() as session:
            return list(session.scalars(open_.order_by(TokenRow.plant)))

    def redeem(self, secret: str, *, plant: str, fingerprint: str, link_key: str) -> TokenRow:
        """Bind an invitation to the keys of the plant that shows its secret.

        Parameters
        ----------
        plant : the name that the plant asks for.
        fingerprint : of its identity key.
        link_key : public key of its SuperNode, OpenSSH format.

        Returns
        -------
        TokenRow
            The same again for the same keys, within `GRACE`.

        Raises
        ------
        IdentityError
            If the secret is unknown, expired, of another plant or bound to other keys, or a key is
            another plant's or a revoked one.
        """
        digest, now = _digest(secret), self._clock()
        with self._store.writing() as session:
            token = session.scalars(select(TokenRow).where(TokenRow.digest == digest)).first()
            if token is None or not hmac.compare_digest(token.digest, digest):
                raise IdentityError("token must be one of this centre's, got an unknown one")
            _check_token(token, plant=plant, keys=(fingerprint, link_key), now=now)
            _check_keys(session, plant, fingerprint=fingerprint, link_key=link_key)
            if token.used_at is None:
                token.used_at, token.fingerprint, token.link_key = now, fingerprint, link_key
        return token

    def enrol(
        self,
        *,
        plant: str,
        certificate: str,
        fingerprint: str,
        serial: str,
        not_after: datetime,
        link_key: str,
        node_id: int,
    ) -> PlantRow:
        """Take a plant in whose keys an invitation is bound to; harmless when repeated.

        Parameters
        ----------
        certificate, serial, not_after : that it was given.
        node_id : Flower's, of ``link_key``.

        Raises
        ------
        IdentityError
            If no invitation is bound to these keys.
        """
        now = self._clock()
        with self._store.writing() as session:
            token = session.get(TokenRow, plant)
            if token is None or (token.fingerprint, token.link_key) != (fingerprint, link_key):
                raise IdentityError(
                    f"plant {plant} must have been invited with these keys, got others or a "
                    "withdrawn invitation; invite it again"
                )
            self._leave(session, plant, but=node_id)
            row = session.merge(
                PlantRow(
                    name=plant,
                    state=ENROLLED,
                    fingerprint=fingerprint,
                    certificate=certificate,
                    serial=serial,
                    not_after=not_after,
                    link_key=link_key,
                    node_id=node_id,
                    enrolled_at=now,
                    revoked_at=None,
                    reason="",
                    last_seen=None,
                )
            )
            session.flush()
            session.merge(
                NodeRow(node_id=node_id, plant=plant, link_key=link_key, state=REGISTERED)
            )
            body = {"plant": plant, "fingerprint": fingerprint, "serial": serial}
            self._journal.append(session, "enrolment", {**body, "node": str(node_id)})
        return row

    def renewed(
        self, plant: str, *, certificate: str, serial: str, not_after: datetime
    ) -> PlantRow:
        """Note a plant's new certificate.

        Raises
        ------
        IdentityError
            If the plant is not enrolled.
        """
        with self._store.writing() as session:
            row = session.get(PlantRow, plant)
            if row is None or row.state != ENROLLED:
                raise IdentityError(_stranger(plant, row))
            row.certificate, row.serial, row.not_after = certificate, serial, not_after
            body = {"plant": plant, "fingerprint": row.fingerprint, "serial": serial}
            self._journal.append(session, "renewal", body)
        return row

    def plants(self) -> list[PlantRow]:
        """Return every plant that ever joined, by name."""
        with self._store.reading() as session:
            return list(session.scalars(select(PlantRow).order_by(PlantRow.name)))

    def plant(self, name: str) -> PlantRow:
        """Return one plant, enrolled or revoked.

        Raises
        ------
        IdentityError
            If there is none of that name.
        """
        with self._store.reading() as session:
            row = session.get(PlantRow, name)
        if row is None:
            raise IdentityError(_stranger(name, row))
        return row

    def moved(self, name: str, *, node_id: int) -> None:
        """Note that the engine, whose own state was lost, knows a plant by another node.

        Raises
        ------
        IdentityError
            If the plant is not enrolled.
        """
        with self._store.writing() as session:
            row = session.get(PlantRow, name)
            if row is None or row.state != ENROLLED:
                raise IdentityError(_stranger(name, row))
            self._leave(session, name, but=node_id)
            row.node_id = node_id
            session.merge(
                NodeRow(node_id=node_id, plant=name, link_key=row.link_key, state=REGISTERED)
            )
            self._journal.append(session, "node", {"plant": name, "node": str(node_id)})

    def revoke(self, name: str, *, reason: str) -> None:
        """Shut a plant out from now on, and withdraw its invitation; harmless when repeated.

        Its updates in flight do not count. The engine is to forget `to_unregister`.

        Raises
        ------
        IdentityError
            If there is neither a plant nor an invitation of that name.
        """
        with self._store.writing() as session:
            row, token = session.get(PlantRow, name), session.get(TokenRow, name)
            if row is None and token is None:
                raise IdentityError(_stranger(name, row))
            if token is not None:
                session.delete(token)
            if row is not None and row.state == ENROLLED:
                row.state, row.revoked_at, row.reason = REVOKED, self._clock(), reason
                self._leave(session, name)
            elif token is None:
                return
            self._journal.append(session, "revocation", {"plant": name, "reason": reason})

    def to_unregister(self) -> list[int]:
        """Return the nodes that the engine is to forget: of revoked plants, and replaced ones."""
        query = select(NodeRow.node_id).where(NodeRow.state == LEAVING).order_by(NodeRow.node_id)
        with self._store.reading() as session:
            return list(session.scalars(query))

    def unregistered(self, node_id: int) -> None:
        """Note that the engine has forgotten a node."""
        with self._store.writing() as session:
            session.execute(
                update(NodeRow)
                .where(NodeRow.node_id == node_id, NodeRow.state == LEAVING)
                .values(state=GONE)
            )

    def seen(self, names: Iterable[str], *, at: datetime) -> None:
        """Note that plants were connected."""
        with self._store.writing() as session:
            session.execute(
                update(PlantRow).where(PlantRow.name.in_(list(names))).values(last_seen=at)
            )

    @staticmethod
    def _leave(session: Session, plant: str, *, but: int | None = None) -> None:
        """Have the engine forget a plant's nodes but one."""
        query = select(NodeRow).where(NodeRow.plant == plant, NodeRow.state == REGISTERED)
        for node in session.scalars(query):
            if node.node_id != but:
                node.state = LEAVING


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _check_invited(plant: str, row: PlantRow | None, *, readmit: bool) -> None:
    if row is not None and row.state == ENROLLED:
        if readmit:
            raise IdentityError(
                f"plant must be a revoked one, got {plant}, which is enrolled; revoke it first"
            )
        raise IdentityError(
            f"plant must be a new one, got {plant}, which is enrolled; if it lost its keys, revoke "
            "it, then readmit it"
        )
    if row is not None and not readmit:
        raise IdentityError(
            f"plant must not be a revoked one, got {plant}; readmit it if that is meant"
        )
    if row is None and readmit:
        raise IdentityError(
            f"plant must be a revoked one, got {plant}, which never joined; invite it"
        )


def _check_token(token: TokenRow, *, plant: str, keys: tuple[str, str], now: datetime) -> None:
    if token.plant != plant:
        raise IdentityError(f"token must be for plant {plant}, got one for {token.plant}")
    if token.used_at is None:
        if now >= token.expires:
            raise IdentityError(
                f"token must be used by {token.expires:%Y-%m-%d %H:%M} UTC, got it later; invite "
                f"{plant} again"
            )
    elif keys != (token.fingerprint, token.link_key) or now >= token.used_at + GRACE:
        raise IdentityError(f"token must be new, got a used one; invite {plant} again")


def _check_keys(session: Session, plant: str, *, fingerprint: str, link_key: str) -> None:
    owner = session.scalars(
        select(PlantRow.name).where(PlantRow.fingerprint == fingerprint, PlantRow.name != plant)
    ).first()
    if owner is not None:
        raise IdentityError(f"identity key must be {plant}'s own, got that of {owner}")
    node = session.scalars(select(NodeRow).where(NodeRow.link_key == link_key)).first()
    if node is not None and (node.plant, node.state) != (plant, REGISTERED):
        raise IdentityError(
            f"link key must be new, got one that {node.plant} used before; make another"
        )


def _stranger(name: str, row: PlantRow | None) -> str:
    if row is None:
        return f"plant must be one that has joined, got {name!r}; list them with `plants`"
    return f"plant must be enrolled, got {name}, which is {row.state}; readmit it first"
