from __future__ import annotations

import json
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select, text

from common.errors import ConfigError, IdentityError
from server.state.registry import GRACE, Registry
from server.state.store import Store
from server.state.tables import EntryRow, NodeRow

HOUR = timedelta(hours=1)


class Desk:
    """A registry, its clock, and the plants that come to it."""

    def __init__(self, home: Path, url: str = "", signer: Any = None) -> None:
        self.now = datetime(2026, 3, 1, 12, tzinfo=UTC)
        self.store = Store(home, url)
        self.registry = Registry(self.store, clock=lambda: self.now, signer=signer)
        self.nodes = 2**64 - 100  # beyond what an integer column holds

    def invite(self, plant: str = "ash", **changes: Any) -> str:
        return self.registry.invite(plant, valid=changes.pop("valid", HOUR), **changes)

    def redeem(self, secret: str, plant: str = "ash", key: str = "k1", link: str = "l1") -> Any:
        return self.registry.redeem(secret, plant=plant, fingerprint=key, link_key=link)

    def enrol(self, plant: str = "ash", key: str = "k1", link: str = "l1", **changes: Any) -> Any:
        self.nodes += 1
        fields: dict[str, Any] = {
            "plant": plant,
            "certificate": f"pem of {plant}",
            "fingerprint": key,
            "serial": "a1",
            "not_after": self.now + timedelta(days=30),
            "link_key": link,
            "node_id": self.nodes,
        }
        return self.registry.enrol(**(fields | changes))

    def join(self, plant: str = "ash", key: str = "k1", link: str = "l1", **changes: Any) -> Any:
        self.redeem(self.invite(plant, **changes), plant, key, link)
        return self.enrol(plant, key, link)

    def log(self) -> list[tuple[str, Any]]:
        with self.store.reading() as session:
            rows = session.scalars(select(EntryRow).order_by(EntryRow.number))
            return [(row.kind, json.loads(row.body)) for row in rows]


@pytest.fixture
def desk(tmp_path: Path, database: str, keys: Any) -> Desk:
    return Desk(tmp_path, database, keys.signer)


@pytest.fixture
def small(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_plant_joins(desk: Desk) -> None:
    secret = desk.invite()
    assert [token.plant for token in desk.registry.invitations()] == ["ash"]
    token = desk.redeem(secret)
    assert (token.plant, token.used_at) == ("ash", desk.now)
    row = desk.enrol()
    assert row.node_id > 2**63
    held = desk.registry.plant("ash")
    assert (held.state, held.fingerprint, held.link_key) == ("enrolled", "k1", "l1")
    assert held.node_id == row.node_id
    assert held.not_after == desk.now + timedelta(days=30)
    assert held.not_after.tzinfo is not None
    assert desk.registry.invitations() == []
    assert [kind for kind, _ in desk.log()] == ["invitation", "enrolment"]


def test_a_secret_is_stored_nowhere(desk: Desk) -> None:
    secret = desk.invite()
    desk.redeem(secret)
    desk.enrol()
    with desk.store.reading() as session:
        for table in ("tokens", "plants", "journal", "nodes"):
            for row in session.execute(text(f"SELECT * FROM {table}")):
                assert secret not in str(row)
    assert len(secret) >= 43


def test_a_secret_that_nobody_gave_out(small: Desk) -> None:
    small.invite()
    with pytest.raises(IdentityError, match="got an unknown one"):
        small.redeem("guess")


def test_a_secret_is_for_one_plant(small: Desk) -> None:
    with pytest.raises(IdentityError, match="must be for plant elm, got one for ash"):
        small.redeem(small.invite("ash"), "elm")


def test_a_secret_expires(small: Desk) -> None:
    secret = small.invite(valid=HOUR)
    small.now += HOUR
    with pytest.raises(IdentityError, match="must be used by 2026-03-01 13:00 UTC"):
        small.redeem(secret)
    assert small.registry.invitations() == []


def test_a_newer_invitation_voids_the_older(small: Desk) -> None:
    older, newer = small.invite(), small.invite()
    with pytest.raises(IdentityError, match="unknown"):
        small.redeem(older)
    small.redeem(newer)


def test_the_same_keys_may_ask_again_for_a_while(small: Desk) -> None:
    secret = small.invite()
    small.redeem(secret)
    first = small.enrol()
    small.now += GRACE - timedelta(seconds=1)
    small.redeem(secret)
    again = small.enrol(node_id=first.node_id)
    assert again.node_id == first.node_id
    assert small.registry.to_unregister() == []
    small.now += timedelta(seconds=1)
    with pytest.raises(IdentityError, match="got a used one"):
        small.redeem(secret)


def test_a_used_secret_is_good_for_a_while_after_it_expired(small: Desk) -> None:
    """It was used in time; that the answer got lost is nobody's fault."""
    secret = small.invite(valid=timedelta(seconds=10))
    small.redeem(secret)
    small.now += timedelta(seconds=60)
    small.redeem(secret)


@pytest.mark.parametrize(("key", "link"), [("k2", "l1"), ("k1", "l2")])
def test_other_keys_cannot_use_it_again(small: Desk, key: str, link: str) -> None:
    secret = small.invite()
    small.redeem(secret)
    with pytest.raises(IdentityError, match="got a used one"):
        small.redeem(secret, key=key, link=link)
    with pytest.raises(IdentityError, match="must have been invited with these keys"):
        small.enrol(key=key, link=link)


def test_nobody_is_enrolled_without_an_invitation(small: Desk) -> None:
    with pytest.raises(IdentityError, match="must have been invited"):
        small.enrol()
    small.invite()
    with pytest.raises(IdentityError, match="must have been invited"):
        small.enrol()
    assert small.registry.plants() == []


def test_of_many_who_race_with_one_secret_one_wins(desk: Desk) -> None:
    secret, outcomes = desk.invite(), Counter[str]()

    def race(number: int) -> None:
        try:
            desk.redeem(secret, key=f"k{number}", link=f"l{number}")
        except IdentityError as error:
            outcomes[str(error)[:23]] += 1
        else:
            outcomes["won"] += 1

    threads = [threading.Thread(target=race, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == {"won": 1, "token must be new, got a"[:23]: 5}


def test_keys_are_a_plants_own(small: Desk) -> None:
    small.join("ash", "k1", "l1")
    with pytest.raises(IdentityError, match="must be elm's own, got that of ash"):
        small.redeem(small.invite("elm"), "elm", "k1", "l2")
    with pytest.raises(IdentityError, match="link key must be new, got one that ash used"):
        small.redeem(small.invite("elm"), "elm", "k2", "l1")


def test_an_enrolled_plant_is_not_invited(small: Desk) -> None:
    small.join()
    with pytest.raises(IdentityError, match="which is enrolled; if it lost its keys, revoke"):
        small.invite()
    with pytest.raises(IdentityError, match="which is enrolled"):
        small.invite(readmit=True)


def test_a_revoked_plant_is_out_and_may_be_readmitted(desk: Desk) -> None:
    first = desk.join()
    desk.join("elm", "k9", "l9")
    desk.now += HOUR
    desk.registry.revoke("ash", reason="its laptop was stolen")
    held = desk.registry.plant("ash")
    assert (held.state, held.revoked_at, held.reason) == (
        "revoked", desk.now, "its laptop was stolen",
    )  # fmt: skip
    assert desk.registry.to_unregister() == [first.node_id]
    with pytest.raises(IdentityError, match="which is revoked; readmit it first"):
        desk.registry.renewed("ash", certificate="c", serial="2", not_after=desk.now)
    with pytest.raises(IdentityError, match="readmit it if that is meant"):
        desk.invite()
    desk.registry.unregistered(first.node_id)
    assert desk.registry.to_unregister() == []
    secret = desk.invite(readmit=True)
    with pytest.raises(IdentityError, match="link key must be new"):
        desk.redeem(secret)
    desk.redeem(secret, link="l2")
    again = desk.enrol(link="l2")
    held = desk.registry.plant("ash")
    assert (held.state, held.revoked_at, held.reason) == ("enrolled", None, "")
    assert held.node_id == again.node_id != first.node_id
    kinds = [kind for kind, body in desk.log() if body["plant"] == "ash"]
    assert kinds == ["invitation", "enrolment", "revocation", "invitation", "enrolment"]


def test_readmitted_before_the_engine_forgot_the_old_node(small: Desk) -> None:
    first = small.join()
    small.registry.revoke("ash", reason="")
    small.join("ash", "k1", "l2", readmit=True)
    assert small.registry.to_unregister() == [first.node_id]
    small.registry.unregistered(first.node_id)
    with small.store.reading() as session:
        states = {row.link_key: row.state for row in session.scalars(select(NodeRow))}
    assert states == {"l1": "gone", "l2": "registered"}


def test_a_node_that_takes_part_cannot_be_noted_as_forgotten(small: Desk) -> None:
    row = small.join()
    small.registry.unregistered(row.node_id)
    with small.store.reading() as session:
        assert [node.state for node in session.scalars(select(NodeRow))] == ["registered"]


def test_revoking_withdraws_what_was_used_too(small: Desk) -> None:
    secret = small.invite()
    small.redeem(secret)
    small.enrol()
    small.registry.revoke("ash", reason="")
    with pytest.raises(IdentityError, match="unknown"):
        small.redeem(secret)
    with pytest.raises(IdentityError, match="must have been invited"):
        small.enrol()


def test_an_invitation_can_be_withdrawn(small: Desk) -> None:
    secret = small.invite()
    small.registry.revoke("ash", reason="wrong name")
    with pytest.raises(IdentityError, match="unknown"):
        small.redeem(secret)


def test_revoking_twice_is_once(desk: Desk) -> None:
    desk.join()
    desk.registry.revoke("ash", reason="first")
    desk.registry.revoke("ash", reason="second")
    assert desk.registry.plant("ash").reason == "first"
    assert [kind for kind, _ in desk.log()].count("revocation") == 1


def test_names_that_nobody_has(small: Desk) -> None:
    for call in (small.registry.plant, lambda name: small.registry.revoke(name, reason="")):
        with pytest.raises(IdentityError, match="must be one that has joined, got 'yew'"):
            call("yew")
    with pytest.raises(IdentityError, match="which never joined; invite it"):
        small.invite(readmit=True)


def test_a_certificate_is_renewed(desk: Desk) -> None:
    desk.join()
    end = desk.now + timedelta(days=60)
    desk.registry.renewed("ash", certificate="new", serial="b2", not_after=end)
    row = desk.registry.plant("ash")
    assert (row.certificate, row.serial, row.not_after) == ("new", "b2", end)
    assert desk.log()[-1] == ("renewal", {"plant": "ash", "fingerprint": "k1", "serial": "b2"})


def test_who_was_seen(desk: Desk) -> None:
    desk.join("ash", "k1", "l1")
    desk.join("elm", "k2", "l2")
    desk.registry.seen(["elm", "stranger"], at=desk.now + HOUR)
    desk.registry.seen([], at=desk.now)
    assert [row.last_seen for row in desk.registry.plants()] == [None, desk.now + HOUR]


@pytest.mark.parametrize("name", ["", "a/b", "..", " a", "a\n", "x" * 65])
def test_a_name_that_cannot_be_one(small: Desk, name: str) -> None:
    with pytest.raises(IdentityError, match="plant must be a name"):
        small.invite(name)


def test_a_validity_of_nothing(small: Desk) -> None:
    with pytest.raises(ConfigError, match="longer than nothing"):
        small.invite(valid=timedelta(0))


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["invite", "readmit", "redeem", "enrol", "revoke", "wait"]),
        st.sampled_from(["ash", "elm"]),
        st.integers(1, 3),
    ),
    max_size=25,
)


@settings(max_examples=15)
@given(steps=STEPS)
def test_whatever_happens_only_who_was_invited_takes_part(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, int]]
) -> None:
    """A plain model beside the registry: who holds which invitation, and who takes part."""
    desk = Desk(tmp_path_factory.mktemp("desk"))
    secrets: dict[str, str] = {}
    bound: dict[str, int] = {}
    taking_part: dict[str, int] = {}
    for step, plant, key in steps:
        mine = f"{plant}-k{key}", f"{plant}-l{key}"
        try:
            if step in ("invite", "readmit"):
                secrets[plant] = desk.invite(plant, readmit=step == "readmit")
                bound.pop(plant, None)
            elif step == "redeem":
                desk.redeem(secrets.get(plant, "none"), plant, *mine)
                assert bound.setdefault(plant, key) == key
            elif step == "enrol":
                desk.enrol(plant, *mine)
                assert bound[plant] == key
                taking_part[plant] = key
            elif step == "revoke":
                desk.registry.revoke(plant, reason="")
                for table in (secrets, bound, taking_part):
                    table.pop(plant, None)  # type: ignore[attr-defined]
            else:
                desk.now += GRACE
        except IdentityError:
            pass
        rows = {row.name: row for row in desk.registry.plants() if row.state == "enrolled"}
        assert {name: row.fingerprint for name, row in rows.items()} == {
            name: f"{name}-k{key}" for name, key in taking_part.items()
        }
        leaving = desk.registry.to_unregister()
        assert not {row.node_id for row in rows.values()} & set(leaving)
