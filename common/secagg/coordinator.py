"""The centre's side: collects, adds, and recovers just enough secrets to take the masks off.

It holds one accumulator, whatever the number of plants. A recovered secret is verified against what
its plant advertised before it is used; a wrong share is found and its plant named, never averaged
in. When too few are left the session fails and nothing was learned.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from itertools import combinations, islice
from math import comb

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from common.errors import AggregationError
from common.pki import Role, Trust
from common.secagg import shares
from common.secagg.encoding import Total, decode
from common.secagg.keys import commit, pair_key, self_key
from common.secagg.masks import Words, add_masks
from common.secagg.member import (
    BOX,
    CONFIRM,
    CONFIRMED,
    MASKED,
    SHARES,
    UNMASK,
    UNMASKED,
    hash_of,
)
from common.secagg.roster import Roster, raw
from common.secagg.terms import Terms, listed
from common.signing import SEAL_LIMIT, Sealed, Signer, open_seal, seal

TRIES = 256  #: choices of shares before a secret is given up: all that there are up to 12 plants
ROOM = SEAL_LIMIT - 2**16  #: characters that confirmations may take in the request to unmask


class Coordinator:
    """One session at the centre.

    Parameters
    ----------
    roster : of the adverts that arrived; what goes out as set-up is its texts.
    signer : the centre's release key.

    Raises
    ------
    AggregationError
        From every method: if a message does not fit or too few plants are left.
    IdentityError
        From every method that takes a message: if its signature is not sound.
    """

    def __init__(
        self,
        roster: Roster,
        *,
        signer: Signer,
        trust: Trust,
        now: Callable[[], datetime],
    ) -> None:
        self.roster = roster
        self._signer, self._trust, self._now = signer, trust, now
        self._boxes: dict[bytes, Mapping[str, str]] = {}
        self._terms: Terms | None = None
        self._sum: Words | None = None
        self._masked: set[bytes] = set()
        self._confirmations: dict[bytes, str] = {}
        self._b: dict[bytes, dict[int, bytes]] = {}
        self._s: dict[bytes, dict[int, bytes]] = {}
        self._unmasked: set[bytes] = set()
        #: Names of plants whose shares were wrong.
        self.liars: set[str] = set()

    # Set-up.

    @property
    def setup(self) -> tuple[str, ...]:
        """The adverts, for every plant."""
        return tuple(advert.text for advert in self.roster.adverts)

    def take_shares(self, text: str) -> bytes:
        """Take one plant's ciphertexts; return the plant."""
        plant, fields = self._open(text, SHARES)
        boxes = fields.get("boxes")
        others = [one for one in self.roster.plants if one != plant]
        if raw(fields, "roster", size=32) != self.roster.hash or not isinstance(boxes, dict):
            raise AggregationError("shares must be for this roster, got others")
        if sorted(boxes) != listed(others):
            raise AggregationError("shares must be one ciphertext for each other plant")
        for other in boxes:  # whether it opens, the plant that it is for will say
            raw(boxes, other, size=BOX)
        self._boxes[plant] = boxes
        return plant

    @property
    def cohort(self) -> tuple[bytes, ...]:
        """Plants whose shares arrived, sorted."""
        return tuple(sorted(self._boxes))

    def boxes_for(self, plant: bytes) -> dict[str, str]:
        """Return the ciphertexts that go to a plant with the order, by sender."""
        assert self._terms is not None
        me = plant.hex()
        return {one.hex(): self._boxes[one][me] for one in self._terms.cohort if one != plant}

    # Masking.

    def order(self, terms: Terms) -> None:
        """Begin to collect vectors for sealed terms."""
        if len(terms.cohort) < self.roster.threshold or terms.cohort != self.cohort:
            raise AggregationError(
                f"the cohort must be the {len(self.cohort)} plants that shared, at least "
                f"{self.roster.threshold}; got {len(terms.cohort)}; set up anew"
            )
        self._terms = terms
        self._sum = np.zeros(terms.encoding.words, np.uint64)

    def take_masked(self, text: str, words: Words, *, by: bytes | None = None) -> bytes:
        """Add one masked vector to the sum; return the plant.

        Parameters
        ----------
        by : the plant that it must be from; None for any of the cohort.
        """
        terms, total = self._terms, self._sum
        assert terms is not None
        assert total is not None
        plant, fields = self._open(text, MASKED)
        if by is not None and plant != by:
            raise AggregationError("a vector must be signed by the plant that sends it")
        if plant not in terms.cohort or plant in self._masked:
            raise AggregationError("a vector must come once from each plant of the cohort")
        if raw(fields, "order", size=32) != terms.hash:
            raise AggregationError("vector must be for this order, got one for another")
        if words.shape != total.shape or words.dtype != np.uint64:
            raise AggregationError(f"vector must be {total.size} words, got {words.shape}")
        if fields.get("payload") != hash_of(words):
            raise AggregationError("vector must be as its plant signed it, it was altered")
        total += words
        self._masked.add(plant)
        return plant

    # Unmasking.

    @property
    def survivors(self) -> tuple[bytes, ...]:
        """Plants whose vectors are in the sum; at least the threshold."""
        if len(self._masked) < self.roster.threshold:
            raise AggregationError(
                f"at least {self.roster.threshold} vectors must have arrived, got "
                f"{len(self._masked)}; the model is unchanged"
            )
        return tuple(sorted(self._masked))

    @property
    def dropped(self) -> tuple[bytes, ...]:
        """Plants of the cohort whose vectors are missing."""
        assert self._terms is not None
        return tuple(plant for plant in self._terms.cohort if plant not in self._masked)

    def confirm_request(self) -> str:
        """Return what survivors are asked to sign; needed only if somebody dropped out."""
        return self._request(CONFIRM, {})

    def take_confirmation(self, text: str) -> bytes:
        """Keep one survivor's signature on the set."""
        plant, fields = self._open(text, CONFIRMED)
        self._check_survivor(plant, fields, {"survivors"})
        if fields["survivors"] != listed(self.survivors):
            raise AggregationError("confirmation must be of the set that was asked for")
        # One that is padded would leave no room for the others in what every survivor must read.
        if len(json.dumps(text)) * self.roster.threshold > ROOM:
            raise AggregationError(f"confirmation must be short, got {len(text)} characters")
        self._confirmations[plant] = text
        return plant

    def unmask_request(self) -> str:
        """Return what asks survivors for their shares; the same text if it is sent again."""
        survivors, dropped = self.survivors, self.dropped
        fields: dict[str, object] = {"dropped": listed(dropped), "confirmations": []}
        if dropped:
            if len(self._confirmations) < self.roster.threshold:
                raise AggregationError(
                    f"{self.roster.threshold} of {len(survivors)} survivors must confirm, got "
                    f"{len(self._confirmations)}; the model is unchanged"
                )
            texts = sorted(self._confirmations.items())[: self.roster.threshold]
            fields["confirmations"] = [text for _, text in texts]
        return self._request(UNMASK, fields)

    def take_unmasked(self, text: str) -> bytes:
        """Keep one survivor's shares."""
        plant, fields = self._open(text, UNMASKED)
        self._check_survivor(plant, fields, {"b", "s"})
        index = self.roster.index(plant)
        b, s = fields["b"], fields["s"]
        if not isinstance(b, dict) or not isinstance(s, dict):
            raise AggregationError("shares must be listed by plant")
        if sorted(b) != listed(self.survivors) or sorted(s) != listed(self.dropped):
            raise AggregationError("shares must be for each survivor and each dropped plant")
        for kept, said, owners in ((self._b, b, self.survivors), (self._s, s, self.dropped)):
            for owner in owners:
                share = raw(said, owner.hex(), size=shares.SHARE)
                kept.setdefault(owner, {})[index] = share
        self._unmasked.add(plant)
        return plant

    def total(self) -> Total:
        """Take the masks off and read the sum."""
        terms, total = self._terms, self._sum
        assert terms is not None
        assert total is not None
        if len(self._unmasked) < self.roster.threshold:
            raise AggregationError(
                f"at least {self.roster.threshold} survivors must give their shares, got "
                f"{len(self._unmasked)}; the model is unchanged"
            )
        plus: list[bytes] = []
        minus = [
            self_key(self._recover_b(plant), order=terms.hash, plant=plant)
            for plant in self.survivors
        ]
        for gone in self.dropped:
            key = self._recover_s(gone)
            for plant in self.survivors:
                pair = (min(plant, gone), max(plant, gone))
                theirs = self.roster.advert(plant).s
                mask = pair_key(key, theirs, order=terms.hash, pair=pair)
                (minus if pair[0] == plant else plus).append(mask)
        add_masks(total, plus=plus, minus=minus)
        self._sum = None
        return decode(total, encoding=terms.encoding, survivors=len(self.survivors))

    def _recover_b(self, plant: bytes) -> bytes:
        advert = self.roster.advert(plant)

        def fits(secret: bytes) -> bool:
            return commit(secret, self.roster.sid, plant) == advert.commitment

        return self._recover(self._b[plant], fits, advert.name)

    def _recover_s(self, plant: bytes) -> X25519PrivateKey:
        advert = self.roster.advert(plant)

        def key_of(secret: bytes) -> X25519PrivateKey:
            return X25519PrivateKey.from_private_bytes(secret)

        def fits(secret: bytes) -> bool:
            return key_of(secret).public_key().public_bytes_raw() == advert.s

        return key_of(self._recover(self._s[plant], fits, advert.name))

    def _recover(
        self, held: Mapping[int, bytes], fits: Callable[[bytes], bool], name: str
    ) -> bytes:
        """Return a secret that fits, trying one choice of shares after another."""
        needed = self.roster.threshold
        # Who lied before comes last.
        indices = sorted(
            held, key=lambda one: (self.roster.adverts[one - 1].name in self.liars, one)
        )
        for chosen in islice(_choices(indices, needed), TRIES):
            secret = shares.recover({index: held[index] for index in chosen}, threshold=needed)
            if secret is not None and fits(secret):
                self._name_liars(held, chosen)
                return secret
        raise AggregationError(
            f"the secret of {name} must come out of its shares, {len(held)} gave none that fits; "
            "the model is unchanged"
        )

    def _name_liars(self, held: Mapping[int, bytes], chosen: Sequence[int]) -> None:
        """Find shares that are not on the polynomial of those that gave the secret."""
        for index in set(held) - set(chosen):
            sound = {one: held[one] for one in chosen}
            if shares.at(sound, index) != held[index]:
                self.liars.add(self.roster.adverts[index - 1].name)

    def _check_survivor(
        self, plant: bytes, fields: Mapping[str, object], wanted: Collection[str]
    ) -> None:
        """Refuse here what other plants would refuse, so that it costs its sender alone."""
        assert self._terms is not None
        if plant not in self._masked:
            raise AggregationError("answer must be of a survivor")
        if fields.keys() != {"sid", "order", *wanted}:
            raise AggregationError(f"answer must have the fields {sorted(wanted)}, got others")
        if raw(fields, "order", size=32) != self._terms.hash:
            raise AggregationError("answer must be for this order, got one for another")

    def _request(self, kind: str, fields: Mapping[str, object]) -> str:
        assert self._terms is not None
        said = {
            "sid": asdict(self.roster.sid),
            "order": self._terms.hash.hex(),
            "survivors": listed(self.survivors),
            **fields,
        }
        return seal(kind, said, signer=self._signer)

    def _open(self, text: str, kind: str) -> tuple[bytes, Mapping[str, object]]:
        sealed: Sealed = open_seal(
            text, kind=kind, trust=self._trust, role=Role.PLANT, at=self._now()
        )
        plant = bytes.fromhex(sealed.signer.fingerprint)
        self.roster.index(plant)
        if raw(sealed.fields, "sid") != self.roster.sid.to_bytes():
            raise AggregationError(f"message of {sealed.signer.name} must be for this session")
        return plant, sealed.fields


def _choices(indices: Sequence[int], count: int) -> Iterator[tuple[int, ...]]:
    """Yield all choices where they are few; else the first, then others by lot.

    By lot because one wrong share spoils most of the choices that are near.
    """
    if comb(len(indices), count) <= TRIES:
        yield from combinations(indices, count)
        return
    yield tuple(indices[:count])
    lot = random.Random(0)  # which is tried first is no secret
    while True:
        yield tuple(sorted(lot.sample(list(indices), count)))
