"""Who sums together: the adverts of a session, checked alike at a plant and at the centre."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from common.errors import AggregationError
from common.pki import Role, Trust
from common.secagg.keys import check_key
from common.secagg.transcript import SessionId, digest
from common.signing import open_seal

ADVERT = "secagg advert"
FEWEST, MOST = 3, 100  #: plants


def threshold(plants: int) -> int:
    """Return how many shares give a secret back: computed by each side, never read."""
    return 2 * plants // 3 + 1


@dataclass(frozen=True, kw_only=True)
class Advert:
    """One plant's public keys for one session.

    Attributes
    ----------
    plant : fingerprint of its identity, raw.
    name : as its certificate says.
    c, s : X25519 public keys, raw.
    commitment : to ``b``.
    text : the signed envelope.
    """

    plant: bytes
    name: str
    c: bytes
    s: bytes
    commitment: bytes
    text: str


@dataclass(frozen=True, kw_only=True)
class Roster:
    """The adverts of a session, sorted by plant; a plant's share index is its position from 1."""

    sid: SessionId
    adverts: tuple[Advert, ...]

    @classmethod
    def read(cls, texts: Sequence[str], *, sid: SessionId, trust: Trust, at: datetime) -> Roster:
        """Open and check the adverts of a session.

        Raises
        ------
        IdentityError
            If an envelope is not sound or not a plant's.
        AggregationError
            If there are too few or too many plants, one of another session, a plant or a key twice,
            a key that hides nothing, or they are not in order.
        """
        if not FEWEST <= len(texts) <= MOST:
            raise AggregationError(
                f"a secure sum must have {FEWEST} to {MOST} plants, got {len(texts)}"
            )
        adverts = tuple(read_advert(text, sid=sid, trust=trust, at=at) for text in texts)
        plants = [advert.plant for advert in adverts]
        if plants != sorted(set(plants)):
            raise AggregationError("adverts must be of distinct plants in order, got others")
        if names := repeated(adverts):
            raise AggregationError(
                f"session keys must be distinct, got one twice, of {' and '.join(names)}"
            )
        return cls(sid=sid, adverts=adverts)

    @property
    def plants(self) -> tuple[bytes, ...]:
        return tuple(advert.plant for advert in self.adverts)

    @property
    def threshold(self) -> int:
        return threshold(len(self.adverts))

    @property
    def hash(self) -> bytes:
        texts = (advert.text.encode() for advert in self.adverts)
        return digest("roster", self.sid.to_bytes(), *texts)

    def advert(self, plant: bytes) -> Advert:
        return self.adverts[self.index(plant) - 1]

    def index(self, plant: bytes) -> int:
        """Return a plant's share index.

        Raises
        ------
        AggregationError
            If it is not in the roster.
        """
        if plant not in self.plants:
            raise AggregationError(f"plant must be in the roster, got {plant.hex()[:12]}")
        return self.plants.index(plant) + 1


def read_advert(text: str, *, sid: SessionId, trust: Trust, at: datetime) -> Advert:
    """Open one advert and check its keys; errors as `Roster.read`."""
    sealed = open_seal(text, kind=ADVERT, trust=trust, role=Role.PLANT, at=at)
    if raw(sealed.fields, "sid") != sid.to_bytes():
        raise AggregationError(f"advert of {sealed.signer.name} must be for this session")
    c, s = raw(sealed.fields, "c", size=32), raw(sealed.fields, "s", size=32)
    if c == s:
        raise AggregationError(f"session keys of {sealed.signer.name} must be two, got one twice")
    check_key(c)
    check_key(s)
    return Advert(
        plant=bytes.fromhex(sealed.signer.fingerprint),
        name=sealed.signer.name,
        c=c,
        s=s,
        commitment=raw(sealed.fields, "commitment", size=32),
        text=text,
    )


def repeated(adverts: Collection[Advert]) -> list[str]:
    """Return the names of the plants that have a key which another one has too, sorted."""
    held = Counter(key for advert in adverts for key in (advert.c, advert.s))
    return sorted(a.name for a in adverts if held[a.c] > 1 or held[a.s] > 1)


def raw(fields: Any, name: str, *, size: int | None = None) -> bytes:
    """Return a hexadecimal field as bytes.

    Raises
    ------
    AggregationError
        If it is missing, no hexadecimal text, or not of ``size`` bytes.
    """
    value = fields.get(name)
    sound = isinstance(value, str) and re.fullmatch("([0-9a-f]{2})*", value)
    if not sound or (size is not None and len(value) != 2 * size):
        raise AggregationError(f"field {name} must be {size or 'whole'} bytes in hexadecimal")
    return bytes.fromhex(value)


def plants_of(fields: Any, name: str) -> tuple[bytes, ...]:
    """Return a field that lists plants, sorted and distinct.

    Raises
    ------
    AggregationError
        If it is not such a list.
    """
    listed = fields.get(name)
    if not isinstance(listed, list) or len(listed) > MOST:
        raise AggregationError(f"field {name} must be a list of at most {MOST} plants")
    found = tuple(raw({name: one}, name, size=32) for one in listed)
    if list(found) != sorted(set(found)):
        raise AggregationError(f"field {name} must list distinct plants in order")
    return found
