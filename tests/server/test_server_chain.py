"""Several runs on one chain of releases, rollback, stopping, and plants that are revoked."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from common.errors import StateError
from common.orders import Kind, Order, Release, Reply
from server.chain import Place
from server.events import RoundStarted
from server.releases import Releases
from server.rollback import roll_back
from server.state.audit import verify
from server.state.registry import Registry
from server.state.store import Store, history
from server.state.tables import ReleaseRow, RunRow, timestamp

HOUR = timedelta(hours=1)


class Several:
    """A centre and its registry: runs are submitted, taken and held."""

    def __init__(self, centre: Any, keys: Any) -> None:
        self.centre, self.keys = centre, keys
        self.store = Store(centre.home, centre.database)
        self.registry = Registry(self.store, signer=keys.signer)

    def submit(self, name: str) -> None:
        config = self.centre.config.model_dump(mode="json")
        self.registry.submit(RunRow(name=name, config=config, created=timestamp()))

    def take(self, name: str, **changes: Any) -> Any:
        """Take a run and open a federation on it."""
        fence = self.registry.take(name)
        return self.centre.open(fence=fence, run=name, **changes)

    def hold(self, name: str, **changes: Any) -> Release:
        self.submit(name)
        last: Release = self.take(name, **changes).run()
        return last

    def join(self, plant: str, *, key: str = "", readmit: bool = False) -> None:
        key = key or f"key of {plant}"
        secret = self.registry.invite(plant, valid=HOUR, readmit=readmit)
        self.registry.redeem(secret, plant=plant, fingerprint=key, link_key=f"link {key}")
        self.registry.enrol(
            plant=plant,
            certificate="c",
            fingerprint=key,
            serial="1",
            not_after=datetime.now(UTC) + HOUR,
            link_key=f"link {key}",
            node_id=abs(hash(key)),
        )

    def join_all(self) -> None:
        for plant in self.centre.plants.names:
            self.join(plant)

    def rows(self) -> list[ReleaseRow]:
        with self.store.reading() as session:
            return list(session.scalars(select(ReleaseRow).order_by(ReleaseRow.number)))

    def check(self) -> None:
        """Check that folders, rows and log agree."""
        releases = Releases(self.centre.home)
        rows = self.rows()
        assert releases.numbers() == list(range(len(rows)))
        assert not list(releases.folder.glob(".*"))
        for row in rows:
            assert releases.read(row.number).hash == row.hash
        assert verify(self.store, trust=self.keys.trust).faults == ()


@pytest.fixture
def several(make_centre: Any, tmp_path: Path, database: str, keys: Any) -> Several:
    centre = make_centre(tmp_path / "out", database, keys.signer)
    centre.configure(rounds=2)
    return Several(centre, keys)


@pytest.fixture
def small(make_centre: Any, tmp_path: Path, keys: Any) -> Several:
    centre = make_centre(tmp_path / "out", "", keys.signer)
    centre.configure(rounds=2)
    return Several(centre, keys)


def shifted(source: Release) -> Release:
    return replace(source, vector=source.vector + np.float32(1))


# -- one chain for all runs ----------------------------------------------------------------------


def test_a_run_starts_from_the_release_in_force(several: Several) -> None:
    first = several.hold("one")
    assert first.number == 2
    last = several.hold("two", source=replace(first, number=0))
    assert last.number == 4
    assert [(row.number, row.run, row.round) for row in several.rows()] == [
        (0, "one", None),
        (1, "one", 1),
        (2, "one", 2),
        (3, "two", 1),
        (4, "two", 2),
    ]
    several.check()
    releases = Releases(several.centre.home)
    assert releases.manifest(3).parent == releases.manifest(2).hash == first.hash
    bases = [row.base for row in several.registry.runs()]
    assert bases == [0, 2]
    assert len(history(several.centre.home, url=several.centre.database)) == 4


def test_other_weights_become_a_release_first(small: Several) -> None:
    small.hold("one")
    last = small.hold("two", source=shifted(small.centre.source))
    assert last.number == 5
    rows = small.rows()
    assert [(row.run, row.round, row.parent is None) for row in rows[3:]] == [
        ("two", None, True),
        ("two", 1, False),
        ("two", 2, False),
    ]
    assert rows[3].hash == shifted(small.centre.source).hash
    small.check()


def test_each_run_starts_with_a_fresh_optimiser(small: Several, make_centre: Any) -> None:
    """The same as a run of its own from the same weights."""
    small.centre.configure(server={"optimiser": "fedyogi", "learning_rate": 0.01})
    first = small.hold("one")
    last = small.hold("two", source=replace(first, number=0))
    alone = make_centre(small.centre.home.parent / "alone")
    alone.config, alone.source = small.centre.config, replace(first, number=0)
    assert alone.open(run="two").run().hash == last.hash


@pytest.mark.parametrize("round_", [1, 2])
def test_a_second_run_goes_on_where_it_was(several: Several, make_centre: Any, round_: int) -> None:
    several.centre.configure(server={"optimiser": "fedyogi", "learning_rate": 0.01})
    source = replace(several.hold("one"), number=0)
    several.submit("two")
    asked: list[int] = []

    class Killed(BaseException):
        pass

    def die(plant: str, order: Order) -> None:
        asked.append(order.round)
        if order.round == round_ and asked.count(round_) == 2:
            raise Killed

    several.centre.plants.before = die
    with pytest.raises(Killed):
        several.take("two", source=source).run()
    several.centre.plants.before = lambda plant, order: None
    last = several.take("two", source=source).run()
    assert last.number == 4
    assert several.registry.run("two").fence == 2
    several.check()
    alone = make_centre(several.centre.home.parent / "alone")
    alone.config, alone.source = several.centre.config, source
    assert alone.open(run="two").run().hash == last.hash


def test_a_run_that_nobody_submitted_is_another_run(small: Several) -> None:
    small.hold("one")
    with pytest.raises(StateError, match="holds another run: run was one, is two"):
        small.centre.open(run="two")


def test_a_run_that_waits_does_not_begin(small: Several) -> None:
    small.submit("one")
    small.submit("two")
    small.registry.take("one")
    with pytest.raises(StateError, match="run two must wait for run one"):
        small.centre.open(run="two")


def test_what_was_submitted_is_what_must_run(small: Several) -> None:
    small.submit("one")
    small.centre.configure(rounds=5)
    with pytest.raises(StateError, match="rounds was 2, is 5"):
        small.take("one")


def test_a_run_that_was_left_behind_cannot_go_on(small: Several) -> None:
    small.submit("one")
    federation = small.take("one")
    small.registry.finish("one", fence=1, state="failed", reason="broken")
    small.hold("two", source=shifted(small.centre.source))
    assert federation.release.number == 0
    with pytest.raises(StateError, match=r"got one that was left behind by run two; start a new"):
        small.take("one")


def test_the_end_of_a_run_is_written_down(several: Several) -> None:
    several.hold("one")
    assert several.registry.run("one").state == "finished"
    assert several.registry.run("one").reason == ""


# -- stopping ------------------------------------------------------------------------------------


def test_a_run_stops_after_the_round_in_progress(several: Several) -> None:
    several.centre.configure(rounds=5)
    several.submit("one")
    federation = several.take("one")

    def stop(plant: str, order: Order) -> None:
        if (plant, order.round) == ("elm", 2):
            several.registry.request_stop("one")

    several.centre.plants.before = stop
    assert federation.run().number == 2
    row = several.registry.run("one")
    assert (row.state, row.reason) == ("stopped", "stopped by the operator")
    assert {kind for kind, _, _ in several.centre.plants.asked} == {Kind.TRAIN}
    several.check()


def test_a_run_that_is_to_stop_and_is_killed_finishes_its_round_first(several: Several) -> None:
    several.centre.configure(rounds=5)
    several.submit("one")

    def die(plant: str, order: Order) -> None:
        if (plant, order.round) == ("elm", 2):
            several.registry.request_stop("one")
            raise KeyboardInterrupt

    several.centre.plants.before = die
    with pytest.raises(KeyboardInterrupt):
        several.take("one").run()
    several.centre.plants.before = lambda plant, order: None
    assert several.take("one").run().number == 2
    row = several.registry.run("one")
    assert (row.state, row.reason) == ("stopped", "stopped by the operator")
    assert {(kind, number) for kind, number, _ in several.centre.plants.asked} == {
        (Kind.TRAIN, 1),
        (Kind.TRAIN, 2),
    }
    several.check()


def test_a_run_that_waits_for_plants_stops_at_once(small: Several) -> None:
    small.centre.configure(min_plants=4, round_deadline=3600.0)
    small.submit("one")
    federation = small.take("one")
    small.centre.events.clear()
    waited: list[object] = []

    def stop(event: object) -> None:
        waited.append(event)
        small.registry.request_stop("one")

    federation._events = stop
    federation.run()
    assert len(waited) == 1
    assert small.registry.run("one").state == "stopped"


def test_a_stopped_run_that_is_taken_again_goes_on(small: Several) -> None:
    small.submit("one")
    small.registry.take("one")
    small.registry.request_stop("one")
    small.centre.open(fence=1, run="one").run()
    assert small.rows()[-1].number == 0
    assert small.take("one").run().number == 2


# -- plants that are revoked ---------------------------------------------------------------------


def revoke_at(several: Several, plant: str, *, at: tuple[str, int]) -> Any:
    """Return a `before` that revokes a plant while another is asked."""

    def before(name: str, order: Order) -> None:
        if (name, order.round) == at and several.registry.plant(plant).state == "enrolled":
            several.registry.revoke(plant, reason="stolen")

    return before


def test_a_revoked_plant_is_refused_at_admission(several: Several) -> None:
    several.join_all()
    several.centre.plants.before = revoke_at(several, "oak", at=("ash", 1))
    several.hold("one")
    first, second = history(several.centre.home, url=several.centre.database)
    reply = first["replies"]["oak"]
    assert (reply["outcome"], reply["weight"]) == ("rejected", 0)
    assert reply["reason"] == "revoked: plant must take part, got oak, which is revoked"
    assert set(Releases(several.centre.home).manifest(1).replies) == {"ash", "elm"}
    assert set(second["replies"]) == {"ash", "elm"}  # it is not even asked
    several.check()


def test_a_counted_plant_that_is_revoked_before_the_commit(
    several: Several, make_centre: Any
) -> None:
    """The same order again, without it: the others answer from their outboxes."""
    several.join_all()
    several.centre.configure(rounds=1)
    several.centre.plants.before = revoke_at(several, "ash", at=("oak", 1))
    last = several.hold("one")
    trained = [plant for kind, _, plant in several.centre.plants.asked if kind is Kind.TRAIN]
    assert sorted(trained) == ["ash", "elm", "oak"]
    orders = [e.cohort for e in several.centre.events if isinstance(e, RoundStarted)]
    assert orders[:2] == [("ash", "elm", "oak")] * 2
    (row,) = history(several.centre.home, url=several.centre.database)
    assert row["replies"]["ash"]["outcome"] == "rejected"
    assert set(Releases(several.centre.home).manifest(1).replies) == {"elm", "oak"}
    several.check()
    other = make_centre(several.centre.home.parent / "other")
    other.config, other.plants = several.centre.config, type(several.centre.plants)()

    def without(reply: Reply) -> list[Reply]:
        return [] if reply.plant == "ash" else [reply]

    other.plants.spoil = without
    assert other.open(run="one").run().hash == last.hash


def test_revoked_just_before_the_commit_nothing_is_written(small: Several) -> None:
    """Between the last look and the transaction: what happens there decides alone."""
    small.join_all()
    small.submit("one")
    federation = small.take("one")
    tenure = federation._chain.tenure
    counted = tenure.standing()
    small.registry.revoke("elm", reason="")
    published: list[int] = []
    release = ReleaseRow(run="one", number=1, hash="h", parent=None, created=timestamp())
    with pytest.raises(StateError, match=r"must still take part, got \['elm'\]"):
        tenure.close(None, release=release, publish=lambda: published.append(1), counted=counted)
    assert published == []
    assert len(small.rows()) == 1
    small.check()


def test_revoked_and_readmitted_within_a_round_does_not_count(small: Several) -> None:
    """What the old key signed is not the new one's."""
    small.join_all()
    small.centre.configure(rounds=1)

    def swap(plant: str, order: Order) -> None:
        if (plant, order.round) == ("oak", 1) and small.registry.plant("ash").fingerprint != "new":
            small.registry.revoke("ash", reason="")
            small.join("ash", key="new", readmit=True)

    small.centre.plants.before = swap
    small.hold("one")
    rounds = [e.round for e in small.centre.events if isinstance(e, RoundStarted)]
    assert rounds == [1, 1, 2]
    small.check()


def test_too_few_are_left_after_a_revocation(small: Several) -> None:
    small.join_all()
    small.centre.configure(min_plants=3, round_deadline=0.5)
    small.centre.plants.before = revoke_at(small, "ash", at=("oak", 1))
    small.hold("one")
    first, second = history(small.centre.home)
    assert (first["outcome"], first["reason"]) == ("skipped", "2 of 3 replies counted")
    assert second["outcome"] == "skipped"
    assert small.rows()[-1].number == 0


def test_a_begun_round_does_not_wait_for_who_was_revoked(small: Several) -> None:
    """Its deadline is an hour: a test that waits for it fails."""
    small.join_all()
    small.centre.configure(rounds=1, round_deadline=3600.0)
    small.submit("one")

    class Killed(BaseException):
        pass

    def die(plant: str, order: Order) -> None:
        raise Killed

    small.centre.plants.before = die
    with pytest.raises(Killed):
        small.take("one").run()
    small.centre.plants.before = lambda plant, order: None
    small.registry.revoke("ash", reason="")
    small.centre.plants.names = ("elm", "oak")
    assert small.take("one").run().number == 1


# -- rollback ------------------------------------------------------------------------------------


def place(several: Several) -> Place:
    found: Place = several.centre.place()
    return found


def test_a_rollback_is_a_new_release_with_the_old_content(several: Several) -> None:
    several.hold("one")
    row = roll_back(place(several), 1)
    assert (row.number, row.restores, row.round) == (3, 1, None)
    releases = Releases(several.centre.home)
    assert releases.read(3).hash == releases.read(1).hash
    manifest = releases.manifest(3)
    assert (manifest.restores, manifest.parent) == (1, releases.read(2).hash)
    several.check()
    last = several.hold("two", source=replace(releases.read(3), number=0))
    assert last.number == 5
    assert releases.manifest(4).parent == row.hash
    several.check()


def test_a_rollback_carries_no_optimiser(small: Several) -> None:
    small.centre.configure(server={"optimiser": "fedyogi", "learning_rate": 0.01})
    small.hold("one")
    roll_back(place(small), 1)
    assert Releases(small.centre.home).manifest(1).optimiser
    assert Releases(small.centre.home).optimiser(3) == {}


@pytest.mark.parametrize("state", ["queued", "running", "stopping"])
def test_no_rollback_while_a_run_is_active(small: Several, state: str) -> None:
    small.hold("one")
    small.submit("two")
    if state != "queued":
        small.registry.take("two")
    if state == "stopping":
        small.registry.request_stop("two")
    with pytest.raises(StateError, match=f"run two must have ended .*, it is {state}; stop it"):
        roll_back(place(small), 0)
    assert len(small.rows()) == 3
    assert not list(Releases(small.centre.home).folder.glob(".*"))


def test_a_run_that_begins_meanwhile_wins(small: Several, monkeypatch: pytest.MonkeyPatch) -> None:
    small.hold("one")
    small.submit("two")
    small.registry.request_stop("two")
    write = Releases.write

    def late(self: Releases, *arguments: Any) -> Path:
        staged = write(self, *arguments)
        small.registry.take("two")
        return staged

    monkeypatch.setattr(Releases, "write", late)
    with pytest.raises(StateError, match="run two must have ended"):
        roll_back(place(small), 0)
    small.check()


def test_a_rollback_to_nothing(small: Several) -> None:
    with pytest.raises(StateError, match="must be one that was made, none, got 3"):
        roll_back(place(small), 3)
    small.hold("one")
    with pytest.raises(StateError, match="must be one that was made, 0 to 2, got 3"):
        roll_back(place(small), 3)
    with pytest.raises(StateError, match="must not be in force already, got 2"):
        roll_back(place(small), 2)


def test_a_rollback_to_a_damaged_release(small: Several) -> None:
    small.hold("one")
    path = Releases(small.centre.home).path(1) / "backbone.safetensors"
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)
    with pytest.raises(StateError, match=r"backbone\.safetensors is damaged"):
        roll_back(place(small), 1)
