"""The plant's part in secure sums: one vector a session, counted on disk, gone with a restart."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.desk.contributions import Contributions
from client.desk.ledger import Ledger
from client.desk.peers import ACCEPTED, WAITING, Peers
from client.desk.spending import Spending
from client.desk.sums import Sums, limits_of
from common.config import FederationConfig, PolicySection
from common.errors import AggregationError, ConfigError, IdentityError, PolicyError
from common.orders import Kind, Order, Outcome, Reply
from common.pki import Role
from common.secagg.coordinator import Coordinator
from common.secagg.encoding import Encoding
from common.secagg.messages import Beside, Call, Masked, Said, Setup
from common.secagg.roster import Roster
from common.secagg.terms import Terms
from common.secagg.transcript import SessionId
from common.signing import Signer

NAMES = ("ash", "elm", "oak", "yew")
SID = SessionId(federation="acme", run="r", round=1, attempt=0)
RELEASE = "ab" * 32
CONFIG = FederationConfig.model_validate({"min_plants": 3, "secure_aggregation": {"enabled": True}})
VECTOR = np.linspace(-0.5, 0.5, 11, dtype=np.float32)


def order_of(**changes: Any) -> Order:
    fields: dict[str, Any] = {
        "run": "r",
        "round": 1,
        "kind": Kind.TRAIN,
        "release": RELEASE,
        "cohort": NAMES,
        "deadline": 60.0,
        "config": CONFIG,
    }
    return Order(**(fields | changes))


def reply_to(order: Order, plant: str) -> Reply:
    return Reply(
        plant=plant,
        run=order.run,
        round=order.round,
        release=order.release,
        outcome=Outcome.DONE,
        payload=VECTOR.tobytes(),
        schema="cd" * 32,
        weight=7,
    )


def encoding_of(order: Order, *, plants: int = len(NAMES)) -> Encoding:
    """Return the encoding that an order's settings say."""
    sums = order.config.secure_aggregation
    return Encoding(
        size=VECTOR.size,
        bits=sums.bits,
        bound=sums.bound,
        max_weight=order.config.server.max_weight,
        plants=plants,
    )


class Table:
    """Four desks and an honest centre."""

    def __init__(self, centre: Any, folder: Path, **policy: Any) -> None:
        self.centre, self.folder = centre, folder
        self.policy = PolicySection(**policy)
        self.clock = 0.0
        self.signers = {name: self._signer(name) for name in NAMES}
        self.accepted = frozenset(one.fingerprint for one in self.signers.values())
        self.strangers: list[str] = []
        self.sums = {name: self.open(name) for name in NAMES}

    def _signer(self, name: str) -> Signer:
        key = Ed25519PrivateKey.generate()
        pem = self.centre.authority.issue(key.public_key(), name=name, role=Role.PLANT, days=30)
        return Signer(key=key, certificate=pem, name=name)

    def open(self, name: str) -> Sums:
        signer, folder = self.signers[name], self.folder / name
        folder.mkdir(exist_ok=True, parents=True)
        ledger = Ledger(folder)
        ledger.prepare()
        return Sums(
            name=name,
            federation="acme",
            papers=lambda: (signer, self.centre.trust),
            limits=lambda: limits_of(self.policy, accepted=self.accepted, own=signer.fingerprint),
            record=Contributions(ledger=ledger),
            charged=Spending(folder).contributions,
            now=lambda: datetime.now(UTC),
            strangers=lambda fingerprint, name: self.strangers.append(name),
            clock=lambda: self.clock,
        )

    def shared(self, sid: SessionId = SID) -> Coordinator:
        """Go through hello and set-up."""
        said = [one.call(Call(hello=sid)).advert for one in self.sums.values()]
        assert all(said)
        by_plant = {self.signers[n].fingerprint: text for n, text in zip(NAMES, said, strict=True)}
        texts = [by_plant[fingerprint] for fingerprint in sorted(by_plant)]
        now = datetime.now(UTC)
        centre = Coordinator(
            Roster.read(texts, sid=sid, trust=self.centre.trust, at=now),
            signer=self.centre.release,
            trust=self.centre.trust,
            now=lambda: now,
        )
        for one in self.sums.values():
            centre.take_shares(one.call(Call(setup=Setup(sid=sid, adverts=centre.setup))).shares)
        return centre

    def beside(self, centre: Coordinator, order: Order, **changes: Any) -> dict[str, str]:
        """Return what goes with an order to each plant."""
        fields: dict[str, Any] = {
            "sid": centre.roster.sid,
            "roster": centre.roster.hash,
            "cohort": centre.cohort,
            "release": order.release,
            "task": order.task,
            "encoding": encoding_of(order, plants=len(centre.cohort)),
        }
        terms = Terms(**(fields | changes)).sealed(self.centre.release)
        centre.order(terms)
        return {
            advert.name: Beside(
                terms=terms.text, boxes=dict(centre.boxes_for(advert.plant))
            ).to_json()
            for advert in centre.roster.adverts
        }


@pytest.fixture
def table(centre: Any, tmp_path: Path) -> Callable[..., Table]:
    return lambda **policy: Table(centre, tmp_path, **policy)


def test_the_update_leaves_under_masks_and_its_weight_too(table: Callable[..., Table]) -> None:
    found, order = table(), order_of()
    beside = found.beside(found.shared(), order)["ash"]
    ash = found.sums["ash"]
    ash.examine(order, beside)
    sent = ash.mask(order, beside, reply_to(order, "ash"))
    assert (sent.weight, len(sent.payload or b"")) == (0, 8 * encoding_of(order).words)
    assert VECTOR.tobytes()[:8] not in (sent.payload or b"")
    assert sent.scores == {}


def test_the_same_order_gets_the_same_bytes_and_another_none(table: Callable[..., Table]) -> None:
    found, order = table(), order_of()
    beside = found.beside(found.shared(), order)["ash"]
    ash = found.sums["ash"]
    first = ash.mask(order, beside, reply_to(order, "ash"))
    again = replace(reply_to(order, "ash"), payload=(VECTOR + 1).tobytes())
    assert ash.mask(order, beside, again) == first
    ash.examine(order, beside)
    other = order_of(cohort=NAMES[:3])
    with pytest.raises(AggregationError, match="for this very order"):
        ash.mask(other, beside, reply_to(other, "ash"))


def test_a_new_attempt_has_fresh_masks_for_the_same_update(table: Callable[..., Table]) -> None:
    found, order = table(), order_of()
    ash = found.sums["ash"]
    sent = []
    for attempt in (0, 1):
        beside = found.beside(found.shared(replace(SID, attempt=attempt)), order)["ash"]
        sent.append(ash.mask(order, beside, reply_to(order, "ash")).payload)
    assert sent[0] != sent[1]


def test_a_restarted_plant_has_dropped_out(table: Callable[..., Table]) -> None:
    found, order = table(), order_of()
    centre = found.shared()
    beside = found.beside(centre, order)
    for name in NAMES:
        one = found.sums[name]
        sent = one.mask(order, beside[name], reply_to(order, name))
        words = np.frombuffer(sent.payload or b"", "<u8").astype(np.uint64)
        centre.take_masked(Masked.from_json(sent.beside).text, words)
    request = centre.unmask_request()
    ash = found.open("ash")
    assert ash.call(Call(unmask=request)) == Said(
        reason="request must be for a session of this plant, got another"
    )
    with pytest.raises(AggregationError, match="restarted"):
        ash.mask(order, beside["ash"], reply_to(order, "ash"))
    # Not even keys for the same session, so no second vector in it.
    assert "must be later" in ash.call(Call(hello=SID)).reason
    assert not list((found.folder / "ash").glob("**/*.key"))


def test_contributions_are_counted_before_anything_is_sent(table: Callable[..., Table]) -> None:
    found, order = table(contributions_per_release=2), order_of()
    for attempt in range(2):
        beside = found.beside(found.shared(replace(SID, attempt=attempt)), order)["ash"]
        found.sums["ash"].mask(order, beside, reply_to(order, "ash"))
        found.sums["ash"] = found.open("ash")  # the count is on disk
    beside = found.beside(found.shared(replace(SID, attempt=2)), order)["ash"]
    with pytest.raises(AggregationError, match="contributions for release"):
        found.sums["ash"].mask(order, beside, reply_to(order, "ash"))


def test_a_limit_that_is_raised_lays_bare_no_update_that_was_charged_for_less(
    table: Callable[..., Table],
) -> None:
    """By the sum's noise, which sums that are subtracted leave a plant's own part of."""
    found = table(contributions_per_release=1)
    privacy = {"unit": "plant", "noise_multiplier": 1.0}
    sums = {"enabled": True, "bits": 20, "bound": 10.0}
    config = FederationConfig.model_validate(
        {"min_plants": 4, "privacy": privacy, "secure_aggregation": sums}
    )
    ash, spending = found.sums["ash"], Spending(found.folder / "ash")

    def send(order: Order, sid: SessionId) -> None:
        beside = found.beside(found.shared(sid), order)["ash"]
        ash.examine(order, beside)
        spending.charge(order, found.policy)  # once: its answer is kept
        ash.mask(order, beside, replace(reply_to(order, "ash"), weight=1))

    order = order_of(config=config)
    send(order, SID)
    found.policy = PolicySection(contributions_per_release=4)
    with pytest.raises(AggregationError, match="must be at most 1, got one more"):
        send(order, replace(SID, attempt=1))
    # Another round is charged anew, by its own part of the noise.
    another = order_of(config=config, round=2)
    for attempt in range(3):
        send(another, replace(SID, round=2, attempt=attempt))
    charged = [one.cost.noise_multiplier for one in spending.charges()]
    assert charged == pytest.approx([1.0, 0.5**0.5])


def test_a_session_that_is_over_is_erased(table: Callable[..., Table]) -> None:
    found, order = table(), order_of()
    beside = found.beside(found.shared(), order)["ash"]
    found.clock = 3601.0
    with pytest.raises(AggregationError, match="session is over"):
        found.sums["ash"].examine(order, beside)


def test_no_thread_waits_for_a_session_that_is_gone(table: Callable[..., Table]) -> None:
    found, before = table(), threading.active_count()
    for number in range(1, 31):
        assert found.sums["ash"].call(Call(hello=replace(SID, round=number), life=9999.0)).advert
    found.sums["ash"].close()
    end = time.monotonic() + 10
    while threading.active_count() > before:  # cancelled ones end at once, but not at this moment
        assert time.monotonic() < end, threading.enumerate()
        time.sleep(0.01)


@pytest.mark.parametrize("secure", [True, False])
def test_an_order_without_the_terms_that_it_announces_is_refused(
    table: Callable[..., Table], secure: bool
) -> None:
    found, order = table(), order_of()
    beside = found.beside(found.shared(), order)["ash"]
    if secure:
        with pytest.raises(PolicyError, match="terms of a secure sum"):
            found.sums["ash"].examine(order, "")
    else:
        plain = order_of(config=FederationConfig())
        with pytest.raises(PolicyError, match="terms of a secure sum"):
            found.sums["ash"].examine(plain, beside)


@pytest.mark.parametrize("other", [{"bits": 2}, {"bound": 1e-6}, {"max_weight": 1}])
def test_a_sum_in_another_fixed_point_than_the_orders_is_refused(
    table: Callable[..., Table], other: dict[str, Any]
) -> None:
    """Of two bits only the sign would be sent, and noise was sized for the order's."""
    found, order = table(), order_of()
    encoding = replace(encoding_of(order), **other)
    beside = found.beside(found.shared(), order, encoding=encoding)["ash"]
    for step in (
        lambda: found.sums["ash"].examine(order, beside),
        lambda: found.sums["ash"].mask(order, beside, reply_to(order, "ash")),
    ):
        with pytest.raises(AggregationError, match="must be those of the order"):
            step()


@pytest.mark.parametrize("early", [True, False])
def test_a_sum_of_fewer_plants_than_the_order_allows_is_refused(
    table: Callable[..., Table], early: bool
) -> None:
    """Each plant's part of the noise is sized for the fewest that the order allows."""
    many = CONFIG.model_copy(update={"min_plants": len(NAMES) + 1})
    found, order = table(), order_of(config=many)
    ash, beside = found.sums["ash"], found.beside(found.shared(), order)["ash"]
    with pytest.raises(AggregationError, match="cohort must be at least 5 plants, got 4"):
        ash.examine(order, beside) if early else ash.mask(order, beside, reply_to(order, "ash"))


def test_an_order_to_adopt_needs_no_sum(table: Callable[..., Table]) -> None:
    table().sums["ash"].examine(order_of(kind=Kind.ADOPT), "")


def test_calls_of_another_federation_change_nothing(table: Callable[..., Table]) -> None:
    found = table()
    found.shared()
    said = found.sums["ash"].call(Call(hello=replace(SID, federation="evil", attempt=1)))
    assert (said.advert, "of federation acme" in said.reason) == ("", True)


def test_the_same_hello_and_set_up_get_the_same_answer(table: Callable[..., Table]) -> None:
    found = table()
    centre = found.shared()
    ash = found.sums["ash"]
    call = Call(setup=Setup(sid=SID, adverts=centre.setup))
    assert ash.call(call).shares == ash.call(call).shares != ""
    assert ash.call(Call(hello=SID)).advert == ash.call(Call(hello=SID)).advert != ""


def test_who_is_not_accepted_is_noted_and_no_secret_is_shared(table: Callable[..., Table]) -> None:
    found = table()
    found.accepted -= {found.signers["yew"].fingerprint}
    with pytest.raises(IdentityError, match="got none"):
        found.shared()
    assert "yew" in found.strangers


def test_the_cohort_demanded_grows_with_the_list() -> None:
    def fewest(count: int, **policy: Any) -> int:
        names = frozenset(f"{number:064x}" for number in range(count))
        policy_ = PolicySection(**policy)
        return limits_of(policy_, accepted=names, own="f" * 64).minimum_cohort

    assert [fewest(n) for n in (0, 2, 3, 5, 9)] == [3, 3, 3, 5, 7]
    assert fewest(9, sum_cohort=4) == 4
    assert fewest(2, minimum_cohort=5) == 5


# -- the accepted list -----------------------------------------------------------------------------


@pytest.fixture
def peers(tmp_path: Path) -> Peers:
    ledger = Ledger(tmp_path)
    ledger.prepare()
    return Peers(ledger=ledger)


def test_a_waiting_peer_is_accepted_by_the_beginning_of_its_fingerprint(peers: Peers) -> None:
    peers.wait("ab" * 32, "elm")
    assert peers.accepted() == frozenset()
    assert [peer.state for peer in peers.all()] == [WAITING]
    assert peers.accept("ABABABAB").name == "elm"
    assert peers.accepted() == {"ab" * 32}
    peers.wait("ab" * 32, "elm")  # it stays accepted
    assert [peer.state for peer in peers.all()] == [ACCEPTED]
    peers.remove("abababab")
    assert peers.all() == []


def test_a_peer_is_accepted_before_it_was_ever_seen(peers: Peers) -> None:
    assert peers.accept("cd" * 32, name="oak").name == "oak"
    assert peers.accepted() == {"cd" * 32}


@pytest.mark.parametrize("text", ["", "abab", "zz" * 32, "ab" * 31, "ababababab"])
def test_what_is_no_fingerprint_is_not_accepted(peers: Peers, text: str) -> None:
    with pytest.raises(ConfigError, match="fingerprint must be 64"):
        peers.accept(text)


def test_a_beginning_that_fits_two_is_refused(peers: Peers) -> None:
    peers.wait("ab" * 32, "elm")
    peers.wait("ab" * 31 + "cd", "oak")
    with pytest.raises(ConfigError, match="name one identity"):
        peers.accept("abababab")


def test_a_centre_cannot_fill_the_list(peers: Peers) -> None:
    for number in range(250):
        peers.wait(f"{number:064x}", f"plant-{number}")
    assert len(peers.all()) == 200
