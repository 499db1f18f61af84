from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from common.errors import AggregationError, ConfigError, UpdateError
from common.orders import Kind, Outcome, Reply
from server.events import ReplyArrived, RoundClosed, RoundStarted, Waiting
from server.releases import Releases
from server.state.store import Store, history
from server.state.tables import FINISHED, ReplyRow, RunRow


def spoiled(plant: str, **changes: Any) -> Any:
    """Return a `spoil` that changes what one plant replies to training."""

    def spoil(reply: Reply) -> list[Reply]:
        trains = reply.payload is not None
        return [replace(reply, **changes) if reply.plant == plant and trains else reply]

    return spoil


def test_rounds_then_one_order_to_adopt(centre: Any) -> None:
    last = centre.open().run()
    assert last.number == 3
    assert [asked[:2] for asked in centre.plants.asked[::3]] == [
        (Kind.TRAIN, 1),
        (Kind.TRAIN, 2),
        (Kind.TRAIN, 3),
        (Kind.ADOPT, 4),
    ]
    releases = Releases(centre.home)
    assert releases.numbers() == [0, 1, 2, 3]
    assert releases.latest().hash == last.hash
    with Store(centre.home).reading() as session:
        answers = session.scalars(select(ReplyRow).where(ReplyRow.round == 4)).all()
    assert [answer.notes for answer in answers] == [{"adopted": "federated"}] * 3


def test_the_release_is_the_weighted_mean_of_the_updates(centre: Any) -> None:
    centre.configure(rounds=1, server={"max_weight": 100})
    last = centre.open().run()
    replies = [reply for _, reply in centre.plants.outbox.values() if reply.payload is not None]
    weights = [min(reply.weight, 100) for reply in replies]
    assert max(reply.weight for reply in replies) > 100
    vectors = [np.frombuffer(reply.payload, np.float32).astype(float) for reply in replies]
    step = np.average(vectors, axis=0, weights=weights)
    before = centre.source.schema.unflatten(centre.source.vector)
    after = last.schema.unflatten(last.vector)
    assert np.array_equal(before["backbone.norm"], after["backbone.norm"])
    assert after["backbone.a"].ravel() == pytest.approx(
        before["backbone.a"].ravel() + step[:120], abs=1e-6
    )
    assert after["backbone.b"] == pytest.approx(before["backbone.b"] + step[120:], abs=1e-6)


def test_the_order_of_arrival_changes_no_bit(centre: Any, make_centre: Any) -> None:
    centre.configure(server={"optimiser": "fedadam", "learning_rate": 0.01})
    other = make_centre(centre.home.parent / "other")
    other.config = centre.config
    other.plants.order_of_arrival = lambda names: names[::-1]
    assert centre.open().run().hash == other.open().run().hash


def test_history_is_what_results_json_lists(centre: Any) -> None:
    results = pytest.importorskip("simulation.results")
    centre.configure(seed=5)
    last = centre.open().run()
    rounds = history(centre.home)
    assert [row["round"] for row in rounds] == [1, 2, 3]
    assert rounds[-1]["release"] == last.hash
    assert {row["seed"] for row in rounds} == {5}
    for row in rounds:
        results.RoundResults.model_validate(row)
    reply = rounds[0]["replies"]["ash"]
    assert reply["outcome"] == "done"
    assert reply["weight"] >= 1
    assert reply["scores"]["incoming"]["balanced_accuracy"] > 0
    assert reply["bytes_up"] > 131 * 4
    assert reply["bytes_down"] > centre.source.vector.nbytes


def test_the_manifest_makes_a_release_usable_alone(centre: Any) -> None:
    centre.open().run()
    releases = Releases(centre.home)
    first, second = releases.manifest(1), releases.manifest(2)
    assert second.parent == first.hash == releases.read(1).hash
    assert (second.backbone, second.image_size) == ("mobilenet_v2", 96)
    assert (second.mean, second.std) == ((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    assert set(second.replies) == {"ash", "elm", "oak"}
    assert second.scale is not None
    assert second.scale & (second.scale - 1) == 0
    assert releases.manifest(0).parent is None


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("finite", {"payload": np.full(131, np.nan, np.float32).tobytes()}),
        ("norm", {"payload": np.full(131, 50, np.float32).tobytes()}),
        ("form", {"payload": bytes(4)}),
        ("schema", {"schema": "another"}),
        ("weight", {"weight": 0}),
    ],
)
def test_a_bad_reply_is_dropped_and_counted(centre: Any, code: str, changes: Any) -> None:
    centre.plants.spoil = spoiled("elm", **changes)
    last = centre.open().run()
    assert last.number == 3
    assert np.isfinite(last.vector).all()
    for row in history(centre.home):
        bad = row["replies"]["elm"]
        assert (bad["outcome"], bad["weight"]) == ("rejected", 0)
        assert bad["reason"].startswith(f"{code}: ")
        assert row["outcome"] == "committed"
    assert set(Releases(centre.home).manifest(1).replies) == {"ash", "oak"}


def test_a_second_or_stale_or_foreign_reply_does_not_take_a_plants_place(centre: Any) -> None:
    untouched = Releases(centre.home.parent / "other")
    other = type(centre)(centre.home.parent / "other")
    other.open().run()

    def spoil(reply: Reply) -> list[Reply]:
        return [
            replace(reply, round=reply.round + 1),
            replace(reply, plant="yew"),
            reply,
            replace(reply, weight=reply.weight + 1),
        ]

    centre.plants.spoil = spoil
    assert centre.open().run().hash == untouched.latest().hash
    assert all(set(row["replies"]) == {"ash", "elm", "oak"} for row in history(centre.home))
    refused = [
        e.reason.split(":")[0] for e in centre.events if getattr(e, "outcome", "") == "rejected"
    ]
    assert refused[:3] == ["stale", "stranger", "twice"]


def test_a_plant_that_fails_or_declines_is_recorded(centre: Any) -> None:
    centre.plants.spoil = spoiled(
        "oak", outcome=Outcome.DECLINED, reason="not on Sundays", payload=None, weight=0
    )
    centre.open().run()
    reply = history(centre.home)[0]["replies"]["oak"]
    assert (reply["outcome"], reply["reason"]) == ("declined", "not on Sundays")


def test_too_few_replies_skip_the_round_and_leave_the_model(centre: Any) -> None:
    centre.configure(min_plants=3)

    def spoil(reply: Reply) -> list[Reply]:
        if reply.round == 2 and reply.plant == "ash":
            return [replace(reply, weight=0)]
        return [reply]

    centre.plants.spoil = spoil
    assert centre.open().run().number == 2
    rows = history(centre.home)
    assert [row["outcome"] for row in rows] == ["committed", "skipped", "committed"]
    assert rows[1]["reason"] == "2 of 3 replies counted"
    assert rows[1]["release"] is None
    assert Releases(centre.home).manifest(2).round == 3


def test_too_few_plants_wait_until_the_deadline_then_skip(centre: Any) -> None:
    centre.configure(min_plants=4, round_deadline=0.05, rounds=2)
    assert centre.open().run().number == 0
    assert [row["reason"] for row in history(centre.home)] == ["3 of 4 plants connected"] * 2
    assert Waiting(round=1, connected=3, needed=4) in centre.events
    assert {asked[0] for asked in centre.plants.asked} == {Kind.ADOPT}
    with Store(centre.home).reading() as session:
        row = session.get_one(RunRow, "run")
    assert (row.state, row.reason) == (
        FINISHED,
        "no round was committed, the model is as it was; the last was skipped: 3 of 4 plants "
        "connected",
    )


def test_a_round_starts_when_the_missing_plant_comes(centre: Any) -> None:
    centre.configure(min_plants=3, rounds=1)
    centre.plants.names = ("ash", "elm")

    def connect(event: object) -> None:
        if isinstance(event, Waiting):
            centre.plants.names = ("ash", "elm", "oak")

    centre.open(events=connect).run()
    assert set(history(centre.home)[0]["replies"]) == {"ash", "elm", "oak"}


def test_the_deadline_cuts_stragglers(centre: Any) -> None:
    now = [0.0]

    def slow(plant: str, order: Any) -> None:
        now[0] += 30.0 if (plant, order.round) == ("oak", 1) else 1.0

    centre.plants.before = slow
    centre.open(clock=lambda: now[0]).run()
    first, second, _ = history(centre.home)
    assert first["replies"]["oak"]["outcome"] == "late"
    assert first["replies"]["oak"]["reason"] == "no answer within 20 s"
    assert first["replies"]["oak"]["bytes_down"] > 0
    assert first["outcome"] == "committed"
    assert second["replies"]["oak"]["outcome"] == "done"
    assert second["seconds"] == 3.0


def test_a_cut_fleet_is_closed(centre: Any) -> None:
    closed = []
    now = [0.0]

    class Careful(type(centre.plants)):  # type: ignore[misc]
        def ask(self, order: Any, release: Any) -> Iterator[Reply]:
            try:
                now[0] += 15.0
                yield self.answer("ash", order, release)
                now[0] += 15.0
                yield self.answer("elm", order, release)
            finally:
                closed.append(order.round)

    centre.configure(rounds=1)
    centre.open(fleet=Careful(), clock=lambda: now[0]).run()
    assert closed == [1, 2]


def test_a_fraction_is_drawn_by_seed_and_round(centre: Any, make_plants: Any) -> None:
    centre.plants = make_plants(tuple(f"p{i}" for i in range(8)))
    centre.configure(fraction=0.5, rounds=6)
    centre.open().run()
    cohorts = [e.cohort for e in centre.events if isinstance(e, RoundStarted)]
    assert [len(cohort) for cohort in cohorts] == [4] * 6 + [8]
    assert all(list(cohort) == sorted(cohort) for cohort in cohorts)
    assert len(set(cohorts)) > 3
    again = type(centre)(centre.home.parent / "again")
    again.plants, again.config = make_plants(centre.plants.names[::-1]), centre.config
    again.open().run()
    assert [e.cohort for e in again.events if isinstance(e, RoundStarted)] == cohorts
    other = type(centre)(centre.home.parent / "other")
    other.plants, other.config = make_plants(centre.plants.names), centre.config
    other.configure(seed=1)
    other.open().run()
    assert [e.cohort for e in other.events if isinstance(e, RoundStarted)] != cohorts


def test_a_small_fraction_still_asks_the_quorum(centre: Any) -> None:
    centre.configure(fraction=0.01, min_plants=2, rounds=1)
    centre.open().run()
    assert len(history(centre.home)[0]["replies"]) == 2


def test_no_rounds_is_an_order_to_adopt_the_source(centre: Any) -> None:
    centre.configure(rounds=0)
    assert centre.open().run().hash == centre.source.hash
    assert history(centre.home) == []
    assert [asked[:2] for asked in centre.plants.asked] == [(Kind.ADOPT, 1)] * 3


def test_what_is_told_and_one_log_line_a_round(
    centre: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="server"):
        centre.open().run()
    assert len(caplog.records) == 4
    assert "round 2 of 3 (train) committed: 3 of 3 replies" in caplog.messages[1]
    kinds = [type(event) for event in centre.events]
    assert kinds == [RoundStarted, ReplyArrived, ReplyArrived, ReplyArrived, RoundClosed] * 4
    assert centre.events[-6].release == centre.open().release.hash


def test_a_learning_rate_that_explodes_is_one_error(centre: Any) -> None:
    centre.configure(server={"learning_rate": 1e40})
    with pytest.raises(AggregationError, match=r"lower server\.learning_rate"):
        centre.open().run()
    assert Releases(centre.home).numbers() == [0]


def test_numbers_without_room_for_a_sum_are_one_error(centre: Any) -> None:
    centre.configure(server={"max_update_norm": 1e30})
    with pytest.raises(AggregationError, match="max_update_norm"):
        centre.open().run()
    assert centre.plants.asked == []


def test_what_cannot_be_run_is_refused_before_anything_is_written(centre: Any) -> None:
    with pytest.raises(UpdateError, match=r"got \['head.weight'\]"):
        centre.open(travelling=frozenset({"head.weight"}))
    with pytest.raises(UpdateError, match="got none"):
        centre.open(travelling=frozenset())
    with pytest.raises(ConfigError, match="mean and std"):
        centre.open(config=centre.config.model_copy(update={"std": None}))
    training = centre.config.training.model_copy(update={"batch_norm": "adapt"})
    centre.configure(server={"optimiser": "fedadam"})
    with pytest.raises(ConfigError, match=r"training\.batch_norm must be 'frozen'"):
        centre.open(config=centre.config.model_copy(update={"training": training}))
    assert not centre.home.exists()
