"""A plant's side of the protocol: a state machine that releases nothing when a check fails.

One `Session` is one attempt at one round. Whatever is wrong closes it and erases its secrets; the
plant is then a dropout of that sum. Secrets are never written to disk; what must survive a restart
(the last session that was begun, contributions per release) is kept by the `Record` before anything
is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from enum import StrEnum

import numpy as np
from cryptography.hazmat.primitives.serialization import (
    Encoding as Form,
)
from cryptography.hazmat.primitives.serialization import (
    NoEncryption,
    PrivateFormat,
)

from common.errors import AggregationError, TransferlineError
from common.pki import Role, Trust
from common.secagg import shares
from common.secagg.encoding import Packer, Vector
from common.secagg.keys import TAG, Secrets, decrypt, encrypt, pair_key, self_key, share_key
from common.secagg.limits import Limits, Record
from common.secagg.masks import Words, add_masks
from common.secagg.roster import ADVERT, FEWEST, Roster, plants_of, raw
from common.secagg.terms import Terms, listed
from common.secagg.transcript import SessionId, digest
from common.signing import Signer, open_seal, seal

SHARES, MASKED = "secagg shares", "secagg masked"
CONFIRM, CONFIRMED = "secagg confirm", "secagg confirmed"
UNMASK, UNMASKED = "secagg unmask", "secagg unmasked"
BOX = 2 * shares.SHARE + TAG  #: bytes of a ciphertext: a share of each secret


class State(StrEnum):
    """Where a session stands."""

    ADVERTISED = "advertised"
    SHARED = "shared"
    MASKED = "masked"
    CONFIRMED = "confirmed"
    CLOSED = "closed"


class Session:
    """One attempt at one round, from the advert to the unmasking.

    Parameters
    ----------
    sid : must be later than any that this plant took part in.
    signer : the plant's identity.
    trust : the pinned CA.
    limits : what the plant demands; the plant may change it, the session looks at each step.
    now : the time; passed in, so that expiry can be tested.

    Raises
    ------
    AggregationError
        From every method: if a check fails. The session is closed then, its secrets erased.
    IdentityError
        From every method: if a signature or a certificate is not sound; closed likewise.
    """

    def __init__(
        self,
        sid: SessionId,
        *,
        signer: Signer,
        trust: Trust,
        limits: Limits,
        record: Record,
        now: Callable[[], datetime],
    ) -> None:
        record.begin(sid)
        self.sid, self.state = sid, State.ADVERTISED
        self._signer, self._trust, self.limits = signer, trust, limits
        self._record, self._now = record, now
        self._plant = bytes.fromhex(signer.fingerprint)
        self._secrets: Secrets | None = Secrets.draw()
        self._own: tuple[bytes, bytes] | None = None
        self._received: dict[bytes, tuple[bytes, bytes]] = {}
        self._answered: dict[str, str] = {}
        self._confirmed: tuple[bytes, ...] | None = None
        self._roster: Roster | None = None
        self._terms: Terms | None = None
        self.advert = self._advertise()

    def share(self, adverts: Sequence[str]) -> str:
        """Answer the set-up: shares of this plant's secrets, one ciphertext for each other."""
        with self._step(State.ADVERTISED) as secrets:
            roster = Roster.read(adverts, sid=self.sid, trust=self._trust, at=self._now())
            self._check_roster(roster)
            count, most = len(roster.plants), roster.threshold
            ours = shares.split(secrets.b, threshold=most, count=count)
            theirs = shares.split(_raw_key(secrets), threshold=most, count=count)
            boxes = {}
            for advert, b, s in zip(roster.adverts, ours, theirs, strict=True):
                if advert.plant == self._plant:
                    self._own = (b, s)
                    continue
                way = (self._plant, advert.plant)
                key = share_key(secrets.c, advert.c, roster=roster.hash, way=way)
                about = (self.sid.to_bytes(), roster.hash, *way)
                boxes[advert.plant.hex()] = encrypt(key, b + s, about=about).hex()
            self._roster, self.state = roster, State.SHARED
            return self._seal(SHARES, {"roster": roster.hash.hex(), "boxes": boxes})

    def examine(self, order: str, *, boxes: Mapping[str, str]) -> Terms:
        """Check an order and its ciphertexts before anything is trained for it."""
        with self._step(State.SHARED) as secrets:
            terms = Terms.read(order, trust=self._trust, at=self._now())
            self._check_terms(terms)
            self._open(terms, boxes, secrets)
            self._record.check(terms.release, most=self.limits.contributions)
            return terms

    def mask(
        self,
        order: str,
        *,
        boxes: Mapping[str, str],
        vector: Vector,
        weight: int,
        threads: int = 1,
    ) -> tuple[Words, str]:
        """Encode and mask the update; then the secrets are erased.

        Parameters
        ----------
        order : the signed `Terms`.
        boxes : ciphertexts addressed to this plant, by sender.
        vector : float32, shape (size,).

        Returns
        -------
        words : uint64, shape (encoding.words,).
        text : the signed envelope that goes with them.
        """
        with self._step(State.SHARED) as secrets:
            terms = Terms.read(order, trust=self._trust, at=self._now())
            self._check_terms(terms)
            received = self._open(terms, boxes, secrets)
            packer = Packer(vector, weight=weight, encoding=terms.encoding)
            plus, minus = self._masks(terms, secrets)
            # Counted before anything is sent: what went out can be subtracted from what did before.
            self._record.contribute(terms.release, most=self.limits.contributions)
            words = np.empty(terms.encoding.words, np.uint64)
            add_masks(words, plus=plus, minus=minus, fill=packer.fill, threads=threads)
            self._terms, self._received = terms, received
            self.state, self._secrets = State.MASKED, None
            return words, self._seal(MASKED, {"order": terms.hash.hex(), "payload": hash_of(words)})

    def concerns(self, request: str, *, kind: str) -> bool:
        """Whether a signed request is for this session; what it asks is not checked here.

        Raises
        ------
        IdentityError
            If the centre did not sign it.
        """
        if request in self._answered:
            return True
        sealed = open_seal(request, kind=kind, trust=self._trust, role=Role.RELEASE, at=self._now())
        return sealed.fields.get("sid") == asdict(self.sid)

    def confirm(self, request: str) -> str:
        """Sign the set of survivors; one set a session."""
        if request in self._answered:
            return self._answered[request]
        with self._closing(State.MASKED):
            said = open_seal(
                request, kind=CONFIRM, trust=self._trust, role=Role.RELEASE, at=self._now()
            ).fields
            survivors = self._survivors(said)
            self._confirmed, self.state = survivors, State.CONFIRMED
            fields = {"order": self._order.hex(), "survivors": listed(survivors)}
            return self._remember(request, self._seal(CONFIRMED, fields))

    def unmask(self, request: str) -> str:
        """Give this plant's shares: of ``b`` for survivors, of ``s`` for those that dropped out."""
        if request in self._answered:
            return self._answered[request]
        with self._closing(State.MASKED, State.CONFIRMED):
            said = open_seal(
                request, kind=UNMASK, trust=self._trust, role=Role.RELEASE, at=self._now()
            ).fields
            survivors, dropped = self._survivors(said), plants_of(said, "dropped")
            assert self._terms is not None
            if sorted((*survivors, *dropped)) != sorted(self._terms.cohort):
                raise AggregationError("survivors and dropped must make up the cohort, once each")
            if dropped:
                self._check_agreement(survivors, said.get("confirmations"))
            elif self._confirmed not in (None, survivors):
                raise AggregationError("survivors must be those that were confirmed, got others")
            b = {plant.hex(): self._share_of(plant)[0].hex() for plant in survivors}
            s = {plant.hex(): self._share_of(plant)[1].hex() for plant in dropped}
            text = self._seal(UNMASKED, {"order": self._order.hex(), "b": b, "s": s})
            self.close()
            return self._remember(request, text)

    def close(self) -> None:
        """Erase every secret; nothing more is released but replies that were given."""
        self.state = State.CLOSED
        self._secrets = self._own = None
        self._received = {}

    @contextmanager
    def _step(self, state: State) -> Iterator[Secrets]:
        with self._closing(state):
            assert self._secrets is not None
            yield self._secrets

    @contextmanager
    def _closing(self, *states: State) -> Iterator[None]:
        """Close the session if a check fails, or if this is not its time."""
        try:
            if self.state not in states:
                raise AggregationError(
                    f"session must be {' or '.join(states)} for this, it is {self.state}"
                )
            yield
        except TransferlineError:
            self.close()
            raise

    def _advertise(self) -> str:
        assert self._secrets is not None
        fields = {
            "c": self._secrets.c.public_key().public_bytes_raw().hex(),
            "s": self._secrets.s.public_key().public_bytes_raw().hex(),
            "commitment": self._secrets.commitment(self.sid, self._plant).hex(),
        }
        return self._seal(ADVERT, fields)

    def _seal(self, kind: str, fields: Mapping[str, object]) -> str:
        return seal(kind, {"sid": self.sid.to_bytes().hex(), **fields}, signer=self._signer)

    def _remember(self, request: str, reply: str) -> str:
        self._answered[request] = reply
        return reply

    @property
    def _order(self) -> bytes:
        assert self._terms is not None
        return self._terms.hash

    def _check_roster(self, roster: Roster) -> None:
        if self._plant not in roster.plants or roster.advert(self._plant).text != self.advert:
            raise AggregationError("set-up must hold this plant's own advert as it was sent")
        fewest = max(FEWEST, self.limits.minimum_cohort)
        if len(roster.plants) < fewest:
            raise AggregationError(
                f"a sum must have at least {fewest} plants, got {len(roster.plants)}; "
                "policy.sum_cohort in plant.toml"
            )
        for advert in roster.adverts:
            known = advert.plant == self._plant or advert.plant.hex() in self.limits.accepted
            if not known:
                raise AggregationError(
                    f"plant {advert.name} ({advert.plant.hex()[:12]}) must be accepted here before "
                    "it is summed with; see `transferline-plant peers`"
                )

    def _check_terms(self, terms: Terms) -> None:
        roster, limits = self._roster, self.limits
        assert roster is not None
        if (terms.sid, terms.roster) != (self.sid, roster.hash):
            raise AggregationError("order must be for this session and this roster, got another")
        fewest = max(roster.threshold, limits.minimum_cohort)
        if not set(terms.cohort) <= set(roster.plants) or self._plant not in terms.cohort:
            raise AggregationError("cohort must be of the roster and hold this plant")
        if len(terms.cohort) < fewest or terms.encoding.plants != len(terms.cohort):
            raise AggregationError(
                f"cohort must be at least {fewest} plants, got {len(terms.cohort)}, encoded for "
                f"{terms.encoding.plants}"
            )
        for name in ("bound", "bits", "max_weight"):
            asked, most = getattr(terms.encoding, name), getattr(limits, name)
            if asked > most:
                raise AggregationError(f"encoding.{name} must be at most {most}, got {asked}")

    def _open(
        self, terms: Terms, boxes: Mapping[str, str], secrets: Secrets
    ) -> dict[bytes, tuple[bytes, bytes]]:
        """Open the shares of the others in the cohort."""
        roster = self._roster
        assert roster is not None
        others = [plant for plant in terms.cohort if plant != self._plant]
        if sorted(boxes) != listed(others):
            raise AggregationError("ciphertexts must be those of the others in the cohort")
        received = {}
        for plant in others:
            way = (plant, self._plant)
            key = share_key(secrets.c, roster.advert(plant).c, roster=roster.hash, way=way)
            about = (self.sid.to_bytes(), roster.hash, *way)
            try:
                plain = decrypt(key, raw(boxes, plant.hex(), size=BOX), about=about)
            except AggregationError as error:
                name = roster.advert(plant).name
                raise AggregationError(
                    f"what plant {name} shared with this one: {error}"
                ) from error
            received[plant] = (plain[: shares.SHARE], plain[shares.SHARE :])
        return received

    def _masks(self, terms: Terms, secrets: Secrets) -> tuple[list[bytes], list[bytes]]:
        """Return keys of masks to add and to subtract: the lower id of a pair adds."""
        roster = self._roster
        assert roster is not None
        plus = [self_key(secrets.b, order=terms.hash, plant=self._plant)]
        minus: list[bytes] = []
        for plant in terms.cohort:
            if plant != self._plant:
                pair = (min(plant, self._plant), max(plant, self._plant))
                key = pair_key(secrets.s, roster.advert(plant).s, order=terms.hash, pair=pair)
                (plus if pair[0] == self._plant else minus).append(key)
        return plus, minus

    def _survivors(self, said: Mapping[str, object]) -> tuple[bytes, ...]:
        terms, roster = self._terms, self._roster
        assert terms is not None
        assert roster is not None
        if said.get("sid") != asdict(self.sid) or raw(said, "order", size=32) != terms.hash:
            raise AggregationError("request must be for this session and order, got another")
        survivors = plants_of(said, "survivors")
        fewest = max(roster.threshold, self.limits.minimum_cohort)
        if not set(survivors) <= set(terms.cohort) or self._plant not in survivors:
            raise AggregationError("survivors must be of the cohort and hold this plant")
        if len(survivors) < fewest:
            raise AggregationError(f"survivors must be at least {fewest}, got {len(survivors)}")
        return survivors

    def _check_agreement(self, survivors: tuple[bytes, ...], texts: object) -> None:
        """See that enough survivors signed this very set."""
        roster = self._roster
        assert roster is not None
        if self._confirmed != survivors:
            raise AggregationError("survivors must be those that were confirmed, got others")
        found = set()
        for text in texts if isinstance(texts, list) else ():
            sealed = open_seal(
                str(text), kind=CONFIRMED, trust=self._trust, role=Role.PLANT, at=self._now()
            )
            said, plant = sealed.fields, bytes.fromhex(sealed.signer.fingerprint)
            same = (
                raw(said, "sid") == self.sid.to_bytes()
                and raw(said, "order") == self._order
                and plants_of(said, "survivors") == survivors
            )
            if plant not in survivors or not same:
                raise AggregationError("confirmations must be of survivors, for this set")
            found.add(plant)
        if len(found) < roster.threshold:
            raise AggregationError(
                f"{roster.threshold} survivors must have confirmed the set, got {len(found)}"
            )

    def _share_of(self, plant: bytes) -> tuple[bytes, bytes]:
        if plant == self._plant:
            assert self._own is not None
            return self._own
        return self._received[plant]


def hash_of(words: Words) -> str:
    """Return SHA-256 of words as little-endian bytes, hex."""
    return digest("payload", words.astype("<u8", copy=False).data).hex()


def _raw_key(secrets: Secrets) -> bytes:
    return secrets.s.private_bytes(Form.Raw, PrivateFormat.Raw, NoEncryption())
