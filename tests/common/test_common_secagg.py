"""The protocol as a whole: the exact sum, whoever drops out, and what each message must be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from common.errors import AggregationError, IdentityError, TransferlineError, UpdateError
from common.pki import Authority, Role, Trust
from common.secagg import shares
from common.secagg.coordinator import Coordinator
from common.secagg.encoding import Encoding, Packer, Total, decode
from common.secagg.keys import self_key
from common.secagg.limits import Limits
from common.secagg.masks import CHUNK, Words, add_masks
from common.secagg.member import CONFIRM, UNMASK, Session, State
from common.secagg.roster import ADVERT, Roster, threshold
from common.secagg.terms import Terms, listed
from common.secagg.transcript import SessionId
from common.signing import Signer, seal

NOW = datetime.now(UTC)
SID = SessionId(federation="acme", run="r", round=1, attempt=0)
SIZE = 37
#: Whatever float32 holds, beyond the bound and below half a step too.
VECTORS = arrays(np.float32, SIZE, elements=st.floats(-1e3, 1e3, width=32))


@cache
def authority() -> Authority:
    return Authority.create(Path(mkdtemp()) / "pki", federation="acme")


@cache
def signer(name: str, role: Role = Role.PLANT) -> Signer:
    key = Ed25519PrivateKey.generate()
    pem = authority().issue(key.public_key(), name=name, role=role, days=30, at=NOW)
    return Signer(key=key, certificate=pem, name=name)


def trust() -> Trust:
    return Trust.of(authority().pem)


@dataclass
class Book:
    """A `Record` in memory."""

    last: SessionId | None = None
    sent: list[str] = field(default_factory=list)

    def begin(self, sid: SessionId) -> None:
        if self.last is not None and sid <= self.last:
            raise AggregationError(f"session must be later than {self.last}, got {sid}")
        self.last = sid

    def check(self, release: str, *, most: int) -> None:
        if self.sent.count(release) >= most:
            raise AggregationError(f"contributions must be at most {most}")

    def contribute(self, release: str, *, most: int) -> None:
        self.check(release, most=most)
        self.sent.append(release)


def session(name: str, *, names: Sequence[str], sid: SessionId = SID, **limits: object) -> Session:
    accepted = frozenset(signer(one).fingerprint for one in names)
    wanted = {"minimum_cohort": 3, "bound": 1.0, **limits}
    return Session(
        sid,
        signer=signer(name),
        trust=trust(),
        limits=Limits(accepted=accepted, **wanted),  # type: ignore[arg-type]
        record=Book(),
        now=lambda: NOW,
    )


class Meeting:
    """Honest plants and an honest centre, step by step; tests reach in between."""

    def __init__(self, count: int, *, size: int = SIZE, bits: int = 16, sid: SessionId = SID):
        names = [f"plant-{number}" for number in range(count)]
        found = [session(name, names=names, sid=sid) for name in names]
        self.sessions = dict(sorted((bytes.fromhex(s._signer.fingerprint), s) for s in found))
        texts = [one.advert for one in self.sessions.values()]
        self.roster = Roster.read(texts, sid=sid, trust=trust(), at=NOW)
        self.centre = Coordinator(
            self.roster, signer=signer("centre", Role.RELEASE), trust=trust(), now=lambda: NOW
        )
        self.size, self.bits = size, bits
        rng = np.random.default_rng(count)
        self.vectors = {
            plant: rng.normal(0, 0.4, size).astype(np.float32) for plant in self.sessions
        }
        self.weights = {plant: int(rng.integers(1, 100)) for plant in self.sessions}

    def share(self, *, without: Sequence[bytes] = ()) -> None:
        for plant, one in self.sessions.items():
            if plant not in without:
                self.centre.take_shares(one.share(self.centre.setup))

    def terms(self, **changes: object) -> Terms:
        encoding = Encoding(
            size=self.size,
            bits=self.bits,
            bound=1.0,
            max_weight=100,
            plants=len(self.centre.cohort),
        )
        fields = {
            "sid": self.roster.sid,
            "roster": self.roster.hash,
            "cohort": self.centre.cohort,
            "release": "ab" * 32,
            "task": bytes(32),
            "encoding": encoding,
        }
        wanted = Terms(**{**fields, **changes})  # type: ignore[arg-type]
        return wanted.sealed(signer("centre", Role.RELEASE))

    def order(self) -> Terms:
        terms = self.terms()
        self.centre.order(terms)
        return terms

    def masked(self, plant: bytes, terms: Terms) -> tuple[Words, str]:
        return self.sessions[plant].mask(
            terms.text,
            boxes=self.centre.boxes_for(plant),
            vector=self.vectors[plant],
            weight=self.weights[plant],
        )

    def mask(self, terms: Terms, *, without: Sequence[bytes] = ()) -> None:
        for plant in terms.cohort:
            if plant not in without:
                words, text = self.masked(plant, terms)
                self.centre.take_masked(text, words)

    def unmask(self, *, without: Sequence[bytes] = ()) -> Total:
        left = [plant for plant in self.centre.survivors if plant not in without]
        if self.centre.dropped:
            request = self.centre.confirm_request()
            for plant in left:
                self.centre.take_confirmation(self.sessions[plant].confirm(request))
        request = self.centre.unmask_request()
        for plant in left:
            self.centre.take_unmasked(self.sessions[plant].unmask(request))
        return self.centre.total()

    def plain(self, plants: Sequence[bytes], encoding: Encoding) -> Words:
        """The sum without any mask."""
        total = np.zeros(encoding.words, np.uint64)
        for plant in plants:
            words = np.empty(encoding.words, np.uint64)
            packer = Packer(self.vectors[plant], weight=self.weights[plant], encoding=encoding)
            add_masks(words, fill=packer.fill)
            total += words
        return total


def until_masked(count: int, *, dropped: int = 0, **how: int) -> tuple[Meeting, Terms]:
    meeting = Meeting(count, **how)
    meeting.share()
    terms = meeting.order()
    meeting.mask(terms, without=terms.cohort[:dropped])
    return meeting, terms


# -- the sum ---------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(data=st.data(), count=st.integers(3, 10))
def test_the_sum_of_the_survivors_is_exact_whoever_drops_out(
    data: st.DataObject, count: int
) -> None:
    spare = count - threshold(count)
    meeting = Meeting(count, bits=data.draw(st.integers(8, 32)))
    meeting.vectors = {plant: data.draw(VECTORS) for plant in meeting.sessions}
    meeting.weights = {plant: data.draw(st.integers(1, 100)) for plant in meeting.sessions}
    plants = list(meeting.sessions)
    lost = data.draw(st.permutations(plants))[:spare]
    cut = sorted(data.draw(st.lists(st.integers(0, len(lost)), min_size=2, max_size=2)))
    no_share, no_mask, no_unmask = lost[: cut[0]], lost[cut[0] : cut[1]], lost[cut[1] :]
    meeting.share(without=no_share)
    terms = meeting.order()
    meeting.mask(terms, without=no_mask)
    total = meeting.unmask(without=no_unmask)

    kept = [plant for plant in terms.cohort if plant not in no_mask]
    expected = decode(
        meeting.plain(kept, terms.encoding), encoding=terms.encoding, survivors=len(kept)
    )
    assert np.array_equal(total.vector, expected.vector)
    assert total.weight == sum(meeting.weights[plant] for plant in kept)
    assert total.clipped == expected.clipped


def test_the_mean_is_that_of_the_updates() -> None:
    meeting, terms = until_masked(5, dropped=1, bits=24)
    total = meeting.unmask()
    kept = terms.cohort[1:]
    wanted = sum(meeting.weights[p] * np.clip(meeting.vectors[p], -1, 1) for p in kept)
    assert total.vector == pytest.approx(np.asarray(wanted), abs=1e-4)


@pytest.mark.parametrize(("count", "gone"), [(3, 1), (4, 2), (10, 4)])
def test_with_too_few_left_nothing_is_learned(count: int, gone: int) -> None:
    meeting, _ = until_masked(count, dropped=gone)
    with pytest.raises(AggregationError, match="vectors must have arrived"):
        meeting.centre.unmask_request()


def test_too_few_unmask_replies_abort() -> None:
    meeting, _ = until_masked(4)
    with pytest.raises(AggregationError, match="give their shares"):
        meeting.unmask(without=meeting.centre.survivors[:2])


# -- one rule for each message ---------------------------------------------------------------------


def refused(
    one: Session, *, match: str, error: type[TransferlineError] = AggregationError
) -> object:
    """Expect a refusal, and afterwards a session that releases nothing more."""

    class Refusal:
        def __enter__(self) -> None:
            self._raises = pytest.raises(error, match=match)
            self._raises.__enter__()

        def __exit__(self, *raised: object) -> bool:
            result = self._raises.__exit__(*raised)  # type: ignore[arg-type]
            assert one.state is State.CLOSED
            assert one._secrets is None
            assert one._own is None
            assert not one._received
            return bool(result)

    return Refusal()


def first(meeting: Meeting) -> tuple[bytes, Session]:
    return next(iter(meeting.sessions.items()))


def request(kind: str, terms: Terms, who: Signer | None = None, **fields: object) -> str:
    said = {
        "sid": {"federation": "acme", "run": "r", "round": 1, "attempt": 0},
        "order": terms.hash.hex(),
        **fields,
    }
    return seal(kind, said, signer=who or signer("centre", Role.RELEASE))


def test_a_plant_in_both_lists_is_refused() -> None:
    meeting, terms = until_masked(5, dropped=1)
    plant, one = list(meeting.sessions.items())[1]
    survivors, gone = listed(meeting.centre.survivors), listed(terms.cohort[:1])
    both = request(
        UNMASK, terms, survivors=survivors, dropped=[*gone, plant.hex()], confirmations=[]
    )
    with refused(one, match="distinct plants in order|once each"):
        one.unmask(both)


def test_a_second_different_unmask_request_is_refused() -> None:
    meeting, _ = until_masked(5)
    one = first(meeting)[1]
    reply = one.unmask(meeting.centre.unmask_request())
    other = meeting.centre.unmask_request()
    with refused(one, match="it is closed"):
        one.unmask(other)
    assert reply


def test_the_same_unmask_request_gets_the_same_reply() -> None:
    meeting, _ = until_masked(5)
    one = first(meeting)[1]
    asked = meeting.centre.unmask_request()
    assert one.unmask(asked) == one.unmask(asked)


def test_confirmations_cannot_be_split_over_two_sets() -> None:
    """n = 10, t = 7, 3 colluders sign both sets: the honest 7 cannot make 7 for each."""
    meeting, terms = until_masked(10)
    plants = list(meeting.sessions)
    bad, honest = plants[:3], plants[3:]
    sets = [sorted([*bad, *honest[:6]]), sorted([*bad, *honest[1:]])]
    texts: list[list[str]] = [[], []]
    for number, chosen in enumerate(sets):
        ask = request(CONFIRM, terms, survivors=listed(chosen))
        for plant in chosen:
            one = meeting.sessions[plant]
            if plant in bad:  # a colluder signs whatever it is asked
                one.state, one._confirmed = State.MASKED, None
            try:
                texts[number].append(one.confirm(ask))
            except AggregationError:
                assert plant in honest
    # Each honest plant signed one set only, so not both have the threshold of honest signatures.
    assert sorted(len(found) for found in texts) == [4, 9]
    short = min(range(2), key=lambda number: len(texts[number]))
    ask = request(
        UNMASK,
        terms,
        survivors=listed(sets[short]),
        dropped=listed([p for p in plants if p not in sets[short]]),
        confirmations=texts[short],
    )
    one = meeting.sessions[sets[short][-1]]
    with pytest.raises(AggregationError):
        one.unmask(ask)


def test_confirming_one_set_closes_the_way_without_dropouts() -> None:
    meeting, terms = until_masked(5)
    _, one = first(meeting)
    one.confirm(request(CONFIRM, terms, survivors=listed(terms.cohort[:4])))
    with refused(one, match="that were confirmed"):
        one.unmask(meeting.centre.unmask_request())


def test_dropped_plants_need_enough_confirmations() -> None:
    meeting, terms = until_masked(5, dropped=1)
    ask = meeting.centre.confirm_request()
    texts = [meeting.sessions[p].confirm(ask) for p in meeting.centre.survivors]
    plant, one = list(meeting.sessions.items())[1]
    # The same signature three times is one.
    asked = request(
        UNMASK,
        terms,
        survivors=listed(meeting.centre.survivors),
        dropped=listed(terms.cohort[:1]),
        confirmations=[texts[0]] * 3 + texts[:3],
    )
    assert plant
    with refused(one, match="4 survivors must have confirmed"):
        one.unmask(asked)


def test_two_rosters_for_one_advert_are_refused() -> None:
    meeting = Meeting(5)
    one = first(meeting)[1]
    texts = list(meeting.centre.setup)
    one.share(texts[:4])
    with refused(one, match="it is shared"):
        one.share(texts)


def test_a_second_vector_in_a_session_is_refused() -> None:
    meeting = Meeting(4)
    meeting.share()
    terms = meeting.order()
    plant, one = first(meeting)
    meeting.masked(plant, terms)
    with refused(one, match="it is masked"):
        meeting.masked(plant, terms)


def test_no_secret_itself_ever_leaves() -> None:
    """Only shares of ``b`` and ``s`` do: a direct ``b`` would fit the others' shares of ``s``."""
    meeting = Meeting(5)
    plant, one = list(meeting.sessions.items())[2]
    assert one._secrets is not None
    hidden = [one._secrets.b, *(k.private_bytes_raw() for k in (one._secrets.s, one._secrets.c))]
    said = [one.advert, one.share(meeting.centre.setup)]
    meeting.centre.take_shares(said[1])
    for other, theirs in meeting.sessions.items():
        if other != plant:
            meeting.centre.take_shares(theirs.share(meeting.centre.setup))
    terms = meeting.order()
    words, text = meeting.masked(plant, terms)
    meeting.centre.take_masked(text, words)
    assert one._secrets is None  # nothing is left that could be asked for
    meeting.mask(terms, without=(plant, terms.cohort[0]))
    ask = meeting.centre.confirm_request()
    confirmed = {p: meeting.sessions[p].confirm(ask) for p in meeting.centre.survivors}
    for signed in confirmed.values():
        meeting.centre.take_confirmation(signed)
    unmasked = one.unmask(meeting.centre.unmask_request())
    said += [text, confirmed[plant], unmasked]
    for secret in hidden:
        for way in (secret, secret[::-1]):
            assert not any(way.hex() in message for message in said)
            assert way not in words.astype("<u8").tobytes()
    assert unmasked.count(listed([plant])[0]) == 1  # its own share, and no second way to it


def test_two_orders_give_masks_that_do_not_cancel() -> None:
    meeting = Meeting(4)
    meeting.share()
    terms = meeting.order()
    other = meeting.terms(task=b"x" * 32)
    for number, plant in enumerate(terms.cohort):
        words, text = meeting.sessions[plant].mask(
            (other if number == 0 else terms).text,
            boxes=meeting.centre.boxes_for(plant),
            vector=meeting.vectors[plant],
            weight=1,
        )
        if number == 0:
            with pytest.raises(AggregationError, match="for this order"):
                meeting.centre.take_masked(text, words)
            meeting.centre._masked.add(plant)  # a cheating centre adds it all the same
            meeting.centre._sum += words  # type: ignore[operator]
        else:
            meeting.centre.take_masked(text, words)
    ask = meeting.centre.unmask_request()
    for plant in terms.cohort[1:]:
        meeting.centre.take_unmasked(meeting.sessions[plant].unmask(ask))
    total = meeting.centre._sum
    assert total is not None
    total = total.copy()
    with pytest.raises(AggregationError, match="no mask fits"):
        meeting.centre.total()
    # Also one that takes each self mask off as its plant put it on: those of pairs do not cancel.
    minus = [
        self_key(
            meeting.centre._recover_b(plant),
            order=(other if number == 0 else terms).hash,
            plant=plant,
        )
        for number, plant in enumerate(terms.cohort)
    ]
    add_masks(total, minus=minus)
    with pytest.raises(AggregationError, match="no mask fits"):
        decode(total, encoding=terms.encoding, survivors=len(terms.cohort))


def test_a_swapped_key_is_found_by_its_signature() -> None:
    meeting = Meeting(4)
    one = first(meeting)[1]
    texts = list(meeting.centre.setup)
    key = "aa" * 32
    start = texts[1].index('"c": "') + 6
    texts[1] = texts[1][:start] + key + texts[1][start + 64 :]
    with refused(one, match="altered", error=IdentityError):
        one.share(texts)


@pytest.mark.parametrize("own", [True, False])
def test_a_key_that_is_there_twice_is_refused(own: bool) -> None:
    """A colluder repeats another's key under its own name, or its own key for both purposes."""
    meeting = Meeting(4)
    one, other = list(meeting.sessions.values())[0::3]
    assert other._secrets is not None
    assert one._secrets is not None
    taken = (other if own else one)._secrets
    assert taken is not None
    object.__setattr__(other._secrets, "c", taken.s)
    texts = [*meeting.centre.setup[:3], other._advertise()]
    with refused(one, match="must be two, got one twice" if own else "must be distinct, got one"):
        one.share(texts)


@pytest.mark.parametrize("place", ["c", "s"])
@pytest.mark.parametrize(
    "key",
    [
        "00" * 32,
        "01" + "00" * 31,
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ec" + "ff" * 30 + "7f",
        "ed" + "ff" * 30 + "7f",
        "ee" + "ff" * 30 + "7f",
    ],
)
def test_a_key_with_which_everybody_knows_the_secret_is_refused(place: str, key: str) -> None:
    meeting = Meeting(4)
    one, other = list(meeting.sessions.values())[0::3]
    fields = {"c": "09" + "00" * 31, "s": "0a" + "00" * 31, "commitment": "00" * 32, place: key}
    texts = [*meeting.centre.setup[:3], other._seal(ADVERT, fields)]
    with refused(one, match="must be a sound X25519 key"):
        one.share(texts)


def test_a_plant_that_nobody_accepted_is_refused() -> None:
    names = [f"plant-{number}" for number in range(4)]
    sessions = sorted((session(n, names=names) for n in names), key=lambda s: s._plant)
    invented = session("invented", names=names)
    texts = [s.advert for s in sorted([*sessions, invented], key=lambda s: s._plant)]
    with refused(sessions[0], match=r"invented .* must be accepted here"):
        sessions[0].share(texts)


def test_a_replayed_advert_of_another_session_is_refused() -> None:
    names = [f"plant-{number}" for number in range(4)]
    earlier = SessionId(federation="acme", run="r", round=0, attempt=0)
    sessions = sorted((session(n, names=names) for n in names), key=lambda s: s._plant)
    texts = [s.advert for s in sessions]
    texts[1] = session(sessions[1]._signer.name, names=names, sid=earlier).advert
    with refused(sessions[0], match="must be for this session"):
        sessions[0].share(texts)


def test_a_session_is_never_begun_twice() -> None:
    """A server that lost its state reuses a session: the plant does not."""
    book = Book()
    limits = Limits(accepted=frozenset(), minimum_cohort=3, bound=1.0)
    begin = [
        lambda: Session(
            SID,
            signer=signer("plant-0"),
            trust=trust(),
            limits=limits,
            record=book,
            now=lambda: NOW,
        )
    ] * 2
    begin[0]()
    with pytest.raises(AggregationError, match="later than"):
        begin[1]()


@pytest.mark.parametrize(
    ("limits", "match"),
    [
        ({"bound": 0.5}, "encoding.bound must be at most 0.5"),
        ({"bits": 8}, "encoding.bits must be at most 8"),
        ({"max_weight": 10}, "encoding.max_weight must be at most 10"),
    ],
)
def test_an_order_beyond_the_plants_limits_is_refused(
    limits: dict[str, object], match: str
) -> None:
    meeting = Meeting(4)
    plant, one = first(meeting)
    object.__setattr__(one, "limits", Limits(**{**vars(one.limits), **limits}))  # type: ignore[arg-type]
    meeting.share()
    terms = meeting.order()
    with refused(one, match=match):
        meeting.masked(plant, terms)


def test_too_small_a_cohort_is_refused() -> None:
    meeting = Meeting(5)
    plant, one = first(meeting)
    meeting.share()
    meeting.centre.order(meeting.terms())
    few = meeting.terms(cohort=tuple(sorted([plant, *meeting.centre.cohort[1:3]])))
    with refused(one, match="at least 4 plants"):
        one.mask(few.text, boxes={}, vector=meeting.vectors[plant], weight=1)


def test_an_order_of_somebody_else_is_refused() -> None:
    meeting = Meeting(4)
    plant, one = first(meeting)
    meeting.share()
    terms = meeting.terms()
    meeting.centre.order(terms)
    forged = Terms(**{**vars(terms), "text": ""}).sealed(signer("plant-1"))
    with refused(one, match="role", error=IdentityError):
        one.mask(forged.text, boxes={}, vector=meeting.vectors[plant], weight=1)


def test_a_bad_ciphertext_is_refused() -> None:
    meeting = Meeting(4)
    plant, one = first(meeting)
    meeting.share()
    terms = meeting.order()
    boxes = meeting.centre.boxes_for(plant)
    sender = next(iter(boxes))
    boxes[sender] = "00" + boxes[sender][2:]
    with refused(one, match="must open"):
        one.mask(terms.text, boxes=boxes, vector=meeting.vectors[plant], weight=1)


def test_too_few_survivors_are_not_confirmed() -> None:
    meeting, terms = until_masked(5)
    _, one = first(meeting)
    with refused(one, match="survivors must be at least 4"):
        one.confirm(request(CONFIRM, terms, survivors=listed(terms.cohort[:3])))


def test_an_expired_certificate_is_refused() -> None:
    meeting = Meeting(4)
    _, one = first(meeting)
    one._now = lambda: NOW + timedelta(days=60)
    with refused(one, match="ended", error=IdentityError):
        one.share(meeting.centre.setup)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_never_leaves(value: float) -> None:
    meeting = Meeting(4)
    plant, one = first(meeting)
    meeting.share()
    terms = meeting.order()
    meeting.vectors[plant][5] = value
    with refused(one, match="finite", error=UpdateError):
        meeting.masked(plant, terms)


def after_the_last_contribution(meeting: Meeting) -> tuple[str, Session, Terms]:
    """Return a plant that has sent all that it may for a release, and the terms of one more."""
    plant, one = first(meeting)
    one._record.sent = ["ab" * 32] * one.limits.contributions  # type: ignore[attr-defined]
    meeting.share()
    return plant, one, meeting.order()


def test_contributions_for_one_release_are_bounded() -> None:
    meeting = Meeting(4)
    plant, one, terms = after_the_last_contribution(meeting)
    with refused(one, match="contributions"):
        meeting.masked(plant, terms)


def test_contributions_are_looked_at_before_training() -> None:
    meeting = Meeting(4)
    plant, one, terms = after_the_last_contribution(meeting)
    with refused(one, match="contributions"):
        one.examine(terms.text, boxes=meeting.centre.boxes_for(plant))


# -- wrong shares, leaks ---------------------------------------------------------------------------


def test_a_wrong_share_is_found_and_its_plant_named() -> None:
    meeting, terms = until_masked(7, dropped=1)
    liar = meeting.centre.survivors[0]
    one = meeting.sessions[liar]
    one._received = {p: (b, bytes(len(s))) for p, (b, s) in one._received.items()}
    total = meeting.unmask()
    kept = terms.cohort[1:]
    plain = decode(meeting.plain(kept, terms.encoding), encoding=terms.encoding, survivors=6)
    assert np.array_equal(total.vector, plain.vector)
    assert meeting.centre.liars == {one._signer.name}


def test_several_wrong_shares_are_found() -> None:
    """Of ten plants three lie: one choice of seven in 120 is sound."""
    meeting, terms = until_masked(10)
    liars = [meeting.sessions[plant] for plant in meeting.centre.survivors[:3]]
    for one in liars:
        one._received = {p: (bytes(len(b)), s) for p, (b, s) in one._received.items()}
    total = meeting.unmask()
    plain = meeting.plain(terms.cohort, terms.encoding)
    expected = decode(plain, encoding=terms.encoding, survivors=10)
    assert np.array_equal(total.vector, expected.vector)
    assert meeting.centre.liars == {one._signer.name for one in liars}


def test_too_many_wrong_shares_abort() -> None:
    meeting, _ = until_masked(4)
    for plant in meeting.centre.survivors[:2]:
        one = meeting.sessions[plant]
        one._received = {p: (bytes(len(b)), s) for p, (b, s) in one._received.items()}
    with pytest.raises(AggregationError, match="must come out of its shares"):
        meeting.unmask()


@given(secret=st.binary(min_size=32, max_size=32), count=st.integers(2, 12), data=st.data())
def test_shares_give_the_secret_back_and_fewer_fit_every_secret(
    secret: bytes, count: int, data: st.DataObject
) -> None:
    most = data.draw(st.integers(2, count))
    found = shares.split(secret, threshold=most, count=count)
    chosen = data.draw(st.permutations(range(1, count + 1)))[:most]
    held = {index: found[index - 1] for index in chosen}
    assert shares.recover(held, threshold=most) == secret
    # One fewer: for any other secret there is a last share that makes it come out.
    other = data.draw(st.binary(min_size=32, max_size=32))
    known = {index: found[index - 1] for index in chosen[:-1]}
    last = shares.at({0: b"\0" + other, **known}, chosen[-1])
    assert shares.recover({**known, chosen[-1]: last}, threshold=most) == other
    # And the shares of one secret are drawn anew each time.
    again = shares.split(secret, threshold=most, count=count)
    assert not set(found) & set(again)


def test_the_prime_is_one() -> None:
    # Fermat to several bases.
    assert all(pow(base, shares.PRIME - 1, shares.PRIME) == 1 for base in (2, 3, 5, 7, 11, 13))


def test_masked_bytes_look_uniform() -> None:
    meeting = Meeting(3, size=40_000)
    meeting.vectors = {plant: np.zeros(40_000, np.float32) for plant in meeting.sessions}
    meeting.share()
    terms = meeting.order()
    words, _ = meeting.masked(terms.cohort[0], terms)
    counts = np.bincount(words.view(np.uint8), minlength=256)
    expected = counts.sum() / 256
    chi = float(((counts - expected) ** 2 / expected).sum())
    assert 150 < chi < 400  # 255 degrees of freedom: mean 255, deviation 23


def test_a_folded_key_opens_flowers_mask_and_not_ours() -> None:
    """Flower folds a seed to 32 bits, of which 28 vary: who tries them all has the mask."""
    key = bytes(range(32))
    # Another key that folds to the same 32 bits: the same bit flipped in two words.
    twin = bytes([key[0] ^ 1, *key[1:4], key[4] ^ 1, *key[5:]])
    size, most = 1000, 2**32
    theirs = [pseudo_rand_gen(one, most, [(size,)])[0] for one in (key, twin)]
    assert np.array_equal(*theirs)

    # The search itself, with all but 12 of the bits given away.
    fold = int(np.bitwise_xor.reduce(np.frombuffer(key, "<u4")))
    found = [
        guess
        for guess in range(fold & ~0xFFF, (fold | 0xFFF) + 1)
        if np.array_equal(
            pseudo_rand_gen(guess.to_bytes(4, "little"), most, [(4,)])[0], theirs[0][:4]
        )
    ]
    assert found == [fold]

    def mask(key: bytes) -> Words:
        words = np.zeros(size, np.uint64)
        add_masks(words, plus=[key])
        return words

    ours = mask(key)
    assert not np.array_equal(ours, mask(twin))
    assert not any(
        np.array_equal(ours[:4], mask(guess.to_bytes(4, "little") * 8)[:4])
        for guess in range(fold & ~0xFFF, (fold | 0xFFF) + 1, 16)
    )
    # Each of the 256 bits matters.
    flips = ((int.from_bytes(key, "big") ^ (1 << bit)).to_bytes(32, "big") for bit in range(256))
    assert len({mask(one)[:4].tobytes() for one in (key, *flips)}) == 257


@given(
    count=st.integers(1, 100),
    bits=st.integers(2, 32),
    size=st.integers(1, 300),
    seed=st.integers(0, 2**32),
)
def test_fields_never_carry_and_come_back(count: int, bits: int, size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    encoding = Encoding(size=size, bits=bits, bound=0.5, max_weight=7, plants=count)
    total = np.zeros(encoding.words, np.uint64)
    exact = np.zeros(size)
    for _ in range(count):
        # The worst that a plant may send: every value at an edge.
        vector = rng.choice(np.array([-9.0, 9.0], np.float32), size)
        weight = int(rng.choice([1, 7]))
        words = np.empty(encoding.words, np.uint64)
        add_masks(words, fill=Packer(vector, weight=weight, encoding=encoding).fill)
        total += words
        exact += np.sign(vector.astype(float)) * int(weight / 7 * encoding.steps)
    found = decode(total, encoding=encoding, survivors=count)
    unit = 0.5 * 7 / encoding.steps
    assert np.array_equal(np.rint(found.vector / unit), exact)
    assert found.clipped == count * size


@given(
    bits=st.integers(2, 32),
    plants=st.integers(1, 100),
    weight=st.integers(1, 50),
    spread=st.sampled_from([1e-6, 0.1, 1.0, 30.0]),
    seed=st.integers(0, 2**32),
)
@example(bits=28, plants=6, weight=1, spread=0.1, seed=0)  # many bits, of which few are used
def test_each_field_is_its_value_rounded_to_the_nearest(
    bits: int, plants: int, weight: int, spread: float, seed: int
) -> None:
    encoding = Encoding(size=101, bits=bits, bound=1.0, max_weight=50, plants=plants)
    vector = np.random.default_rng(seed).normal(0, spread, 101).astype(np.float32)
    vector[:3] = (0.0, 1.0, -1.0)
    words = np.empty(encoding.words, np.uint64)
    packer = Packer(vector, weight=weight, encoding=encoding)
    add_masks(words, fill=packer.fill)

    edge = int(weight / 50 * encoding.steps)
    kind = np.float32 if bits <= 24 or edge <= 2**22 else np.float64
    factor = kind(weight / 50 * encoding.steps)
    whole = np.clip(np.rint(vector.astype(kind) * factor), -edge, edge).astype(np.int64)
    numbers = [int(number) + 2 ** (bits - 1) for number in whole]
    numbers += [2 ** (bits - 1)] * (encoding.packed * encoding.per_word - 101)
    for place in range(encoding.packed):
        fields = numbers[place :: encoding.packed]
        wanted = sum(number << (at * encoding.field) for at, number in enumerate(fields))
        assert int(words[place]) == wanted
    assert packer.clipped == int((np.abs(vector) > 1.0).sum())


def test_threads_and_chunks_change_nothing() -> None:
    size = 3 * CHUNK * 3 + 11
    encoding = Encoding(size=size, bits=16, bound=1.0, max_weight=10, plants=3)
    vector = np.random.default_rng(0).normal(0, 1, size).astype(np.float32)
    keys = [bytes([number]) * 32 for number in range(3)]
    found = []
    for threads in (1, 2, 3):
        words = np.empty(encoding.words, np.uint64)
        packer = Packer(vector, weight=3, encoding=encoding)
        add_masks(words, plus=keys[:2], minus=keys[2:], fill=packer.fill, threads=threads)
        found.append(words)
    assert all(np.array_equal(found[0], one) for one in found)
    add_masks(found[0], plus=keys[2:], minus=keys[:2])
    plain = np.empty(encoding.words, np.uint64)
    add_masks(plain, fill=Packer(vector, weight=3, encoding=encoding).fill)
    assert np.array_equal(found[0], plain)


def test_an_advert_binds_its_sender() -> None:
    text = seal(ADVERT, {"sid": SID.to_bytes().hex()}, signer=signer("centre", Role.RELEASE))
    with pytest.raises(IdentityError, match="role"):
        Roster.read([text] * 3, sid=SID, trust=trust(), at=NOW)
