"""Secure sums in rounds: the exact sum of who is left or a clean end, and always a next round."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import ConfigError
from common.secagg.messages import Masked
from server.releases import Releases
from server.state.registry import Registry
from server.state.store import Store
from tests.server.sums import NAMES, STEADY, Run, Stage, at, summed

# -- who is there to the end -----------------------------------------------------------------------


def test_steady_rounds_take_two_exchanges_and_give_the_plain_sum(run: Callable[..., Run]) -> None:
    found = run()
    found.hold()
    assert found.plants.exchanges == ["hello", "setup", *STEADY * 3]
    for number in (1, 2, 3):
        found.check_sum(number, NAMES, cohort=5)
        assert {reply["weight"] for reply in found.rounds[number]["replies"].values()} == {0}


def test_the_order_of_arrival_changes_no_bit(run: Callable[..., Run]) -> None:
    found = run()
    found.plants.inner.order_of_arrival = lambda names: names[::-1]
    found.hold()
    found.check_sum(3, NAMES, cohort=5)


def test_common_coordinates_are_summed_alone(run: Callable[..., Run]) -> None:
    found = run()
    found.configure(update={"form": "coordinates", "share": 0.25, "values": "fp32"})
    found.hold()
    for number in (1, 2, 3):
        found.check_sum(number, NAMES, cohort=5)


def test_a_cohort_by_lot_has_its_keys_ready(run: Callable[..., Run]) -> None:
    found = run()
    found.configure(fraction=0.8, rounds=5, seed=1)
    found.hold()
    cohorts = [sorted(found.rounds[number]["replies"]) for number in range(1, 6)]
    assert {len(cohort) for cohort in cohorts} == {4}
    # Who was not asked in a round and is in the next is greeted before the sum is opened.
    expected = ["hello", "setup"]
    for cohort, following in zip(cohorts, [*cohorts[1:], []], strict=True):
        expected += ["order", "hello", "unmask"] if set(following) - set(cohort) else STEADY
    assert found.plants.exchanges == expected
    assert expected.count("hello") > 1
    for number, cohort in enumerate(cohorts, 1):
        found.check_sum(number, cohort, cohort=4)


@pytest.mark.parametrize(("lost", "stage"), [([], "hello"), (["fir"], "confirm")])
def test_who_masked_without_keys_for_the_next_round_is_greeted_on_the_way(
    run: Callable[..., Run], lost: list[str], stage: str
) -> None:
    found = run()
    found.plants.kills = at("order", lost, number=1)

    def spoil(at_stage: Stage, plant: str, answer: Any) -> Any:
        if at_stage != Stage(round=1, name="order") or plant != "elm":
            return answer
        masked = Masked.from_json(answer.beside).model_copy(update={"advert": ""})
        return replace(answer, beside=masked.to_json())

    found.plants.spoil = spoil
    found.hold()
    assert found.plants.exchanges == ["hello", "setup", "order", stage, "unmask", *STEADY * 2]
    found.check_sum(2, NAMES, cohort=5)


@pytest.mark.parametrize("fault", ["kills", "silences"])
@pytest.mark.parametrize("stage", ["order", "confirm", "unmask"])
def test_one_of_five_may_be_lost_at_any_stage(
    run: Callable[..., Run], fault: str, stage: str
) -> None:
    found = run()
    lost = ["fir"]
    if stage == "confirm":  # comes only if somebody dropped out before; four must sign
        setattr(found.plants, fault, at("order", lost))
    else:
        setattr(found.plants, fault, at(stage, lost))
    found.hold()
    rows = found.rounds
    assert [rows[n]["outcome"] for n in (1, 2, 3)] == ["committed"] * 3
    left = NAMES if stage == "unmask" else [name for name in NAMES if name not in lost]
    found.check_sum(2, left, cohort=5)
    # In the next round all are there again, greeted while the others confirmed.
    found.check_sum(3, NAMES, cohort=5)


@pytest.mark.parametrize("fault", ["kills", "silences"])
@pytest.mark.parametrize("stage", ["order", "confirm", "unmask"])
def test_too_many_lost_end_the_round_and_the_next_goes_on(
    run: Callable[..., Run], fault: str, stage: str
) -> None:
    found = run()
    lost = ["elm", "fir"]
    first = at("order", lost[:1]) if stage == "confirm" else at(stage, lost)
    second = at("confirm", lost[1:])
    setattr(found.plants, fault, lambda s, plant: first(s, plant) or second(s, plant))
    found.hold()
    rows = found.rounds
    assert rows[2]["outcome"] == "skipped"
    where = {"order": "masking", "confirm": "who is left", "unmask": "unmasking"}[stage]
    assert rows[2]["reason"].startswith(f"secure sum broken off at {where}: ")
    assert Releases(found.centre.home).numbers() == [0, 1, 2]  # the model is as it was
    assert rows[3]["outcome"] == "committed"
    found.check_sum(3, NAMES, cohort=5)


@pytest.mark.parametrize("stage", ["hello", "setup"])
def test_who_is_lost_in_the_set_up_is_not_in_the_sum(run: Callable[..., Run], stage: str) -> None:
    found = run()
    found.plants.kills = at(stage, ["elm"], number=1)
    found.hold()
    row = found.rounds[1]
    assert row["replies"]["elm"]["outcome"] == "failed"
    assert row["replies"]["elm"]["reason"].startswith("aggregation: no ")
    left = [name for name in NAMES if name != "elm"]
    found.check_sum(1, left, cohort=4)
    assert found.rounds[2]["outcome"] == "committed"


def test_a_fixed_point_in_which_nothing_is_left_ends_the_round(run: Callable[..., Run]) -> None:
    found = run(sum_bound=1e6)
    sums = {"enabled": True, "bits": 12, "bound": 1000.0, "stage_deadline": 5.0}
    found.configure(rounds=1, secure_aggregation=sums)
    found.hold()
    assert found.rounds[1]["outcome"] == "skipped"
    assert "nothing is left of the updates, each value is below half" in found.rounds[1]["reason"]
    assert Releases(found.centre.home).numbers() == [0]


def test_a_fixed_point_that_loses_more_than_a_hundredth_is_told(
    run: Callable[..., Run], caplog: pytest.LogCaptureFixture
) -> None:
    found = run()
    sums = {"enabled": True, "bits": 12, "bound": 4.0, "stage_deadline": 5.0}
    found.configure(rounds=1, secure_aggregation=sums)
    found.hold()
    assert found.rounds[1]["outcome"] == "committed"
    assert "rounding takes more than a hundredth" in caplog.text
    assert 0 < summed(found, 1)["steps"] < 500


def test_of_three_nobody_may_be_lost(run: Callable[..., Run]) -> None:
    found = run(3)
    found.plants.kills = at("order", ["fir"])
    found.hold()
    rows = found.rounds
    assert (rows[2]["outcome"], rows[3]["outcome"]) == ("skipped", "committed")
    assert "at least 3 vectors must have arrived, got 2" in rows[2]["reason"]
    found.check_sum(3, NAMES[:3], cohort=3)


def test_two_lost_between_keys_and_shares_are_left_out_by_another_set_up(
    run: Callable[..., Run],
) -> None:
    found = run(sum_cohort=3)
    killed: set[str] = set()

    def kill_once(stage: Stage, plant: str) -> bool:
        if stage.name != "setup" or plant not in ("elm", "oak") or plant in killed:
            return False
        killed.add(plant)
        return True

    found.plants.kills = kill_once
    found.hold()
    assert found.plants.exchanges[:5] == ["hello", "setup", "hello", "setup", "order"]
    found.check_sum(1, ["ash", "fir", "yew"], cohort=3)


def test_with_too_few_plants_no_sum_is_begun(run: Callable[..., Run]) -> None:
    found = run()
    found.plants.kills = at("hello", ["ash", "elm", "fir"], number=1)
    found.hold()
    row = found.rounds[1]
    why = "2 plants sent keys, at least 3 must"
    assert row["reason"] == f"secure sum broken off at set-up: {why}"
    said = {name: (reply["outcome"], reply["reason"]) for name, reply in row["replies"].items()}
    lost = ("failed", "aggregation: no keys within 5 s")
    assert said == {
        **dict.fromkeys(("ash", "elm", "fir"), lost),
        **dict.fromkeys(("oak", "yew"), ("unasked", f"aggregation: {why}")),
    }
    assert {reply["bytes_down"] for reply in row["replies"].values()} == {0}
    assert found.rounds[2]["outcome"] == "committed"


def test_who_is_revoked_in_a_round_that_is_held_again_is_not_called_late(
    run: Callable[..., Run],
) -> None:
    found = run()
    registry = Registry(Store(found.centre.home))
    for number, (name, signer) in enumerate(found.plants.signers.items()):
        key = signer.fingerprint
        secret = registry.invite(name, valid=timedelta(hours=1))
        registry.redeem(secret, plant=name, fingerprint=key, link_key=name)
        registry.enrol(
            plant=name,
            certificate="",
            fingerprint=key,
            serial="1",
            not_after=datetime.now(UTC) + timedelta(days=1),
            link_key=name,
            node_id=number,
        )

    def revoke(stage: Stage, plant: str) -> bool:
        if stage == Stage(round=1, name="unmask") and plant == "yew":
            registry.revoke("elm", reason="stolen")
        return False

    found.plants.kills = revoke
    found.configure(rounds=1)
    found.hold()
    reply = found.rounds[1]["replies"]["elm"]
    assert (reply["outcome"], reply["reason"]) == ("unasked", "revoked: it takes part no more")
    found.check_sum(1, [name for name in NAMES if name != "elm"], cohort=4)


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_lost_no_round_hangs_or_gives_a_wrong_sum(
    data: st.DataObject, make_centre: Any, keys: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("lost")
    found = Run(make_centre(folder / "out"), keys, folder / "desks", names=NAMES)
    stages = st.sampled_from(["hello", "setup", "order", "confirm", "unmask"])
    faults = data.draw(
        st.sets(st.tuples(st.integers(1, 2), stages, st.sampled_from(NAMES)), max_size=4)
    )
    killed = data.draw(st.booleans())
    fault = "kills" if killed else "silences"
    setattr(found.plants, fault, lambda s, plant: (s.round, s.name, plant) in faults)
    found.hold()
    for number, row in found.rounds.items():
        done = [name for name, reply in row["replies"].items() if reply["outcome"] == "done"]
        if row["outcome"] == "committed":
            assert len(done) >= 3
            found.check_sum(number, done, cohort=summed(found, number)["cohort"])
        else:
            assert row["reason"].startswith("secure sum broken off at ")
    assert found.rounds[3]["outcome"] == "committed"


# -- a centre that is killed, or asks again --------------------------------------------------------


class Killed(Exception):  # noqa: N818
    pass


@pytest.mark.parametrize("stage", ["hello", "setup", "order", "unmask"])
def test_a_killed_centre_goes_on_with_new_sessions(run: Callable[..., Run], stage: str) -> None:
    found = run()
    begun: list[Any] = []
    times: list[int] = []

    def kill(at_stage: Stage, plant: str) -> bool:
        number = 1 if stage in ("hello", "setup") else 2
        if at_stage == Stage(round=number, name=stage) and plant == "oak" and not times:
            times.append(1)
            raise Killed
        return False

    found.plants.kills = kill
    ash = found.plants.sums["ash"]
    ash.record = Watched(ash.record, begun)
    with pytest.raises(Killed):
        found.hold()
    found.hold()
    assert len(begun) == len(set(begun))  # no session twice
    assert [found.rounds[n]["outcome"] for n in (1, 2, 3)] == ["committed"] * 3
    for number in (1, 2, 3):
        found.check_sum(number, NAMES, cohort=5)


class Watched:
    """A plant's record that notes which sessions were begun."""

    def __init__(self, record: Any, begun: list[Any]) -> None:
        self._record, self._begun = record, begun

    def begin(self, sid: Any) -> None:
        self._begun.append(sid)
        self._record.begin(sid)

    def check(self, release: str, *, most: int) -> None:
        self._record.check(release, most=most)

    def contribute(self, release: str, *, most: int) -> None:
        self._record.contribute(release, most=most)


def test_contributions_for_one_release_end_in_a_refusal(run: Callable[..., Run]) -> None:
    found = run(3, contributions_per_release=2)
    found.configure(rounds=4)
    found.plants.kills = lambda stage, plant: stage.name == "order" and plant == "fir"
    found.hold()
    rows = found.rounds
    assert [rows[n]["outcome"] for n in (1, 2, 3, 4)] == ["skipped"] * 4
    assert rows[2]["replies"]["ash"]["outcome"] == "done"
    assert "contributions for release" in rows[3]["replies"]["ash"]["reason"]


# -- what is demanded ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        ({"sum_bound": 1.0}, "encoding.bound must be at most 1.0"),
        ({"sum_bits": 8}, "encoding.bits must be at most 8"),
        ({"sum_weight": 10}, "encoding.max_weight must be at most 10"),
        ({"sum_cohort": 6}, "a sum must have at least 6 plants"),
    ],
)
def test_an_order_beyond_a_plants_policy_is_declined(
    run: Callable[..., Run], policy: dict[str, Any], reason: str
) -> None:
    found = run(**policy)
    found.configure(rounds=1)
    found.hold()
    row = found.rounds[1]
    assert row["outcome"] == "skipped"
    assert any(reason in reply["reason"] for reply in row["replies"].values())
    assert not any(reply["outcome"] == "done" for reply in row["replies"].values())


def test_a_plant_that_nobody_accepted_spoils_the_set_up_and_is_named(
    run: Callable[..., Run],
) -> None:
    found = run()
    for name in NAMES[:4]:
        found.plants.accepted[name] -= {found.plants.signers["yew"].fingerprint}
    found.configure(rounds=1)
    found.hold()
    row = found.rounds[1]
    assert row["outcome"] == "skipped"
    assert "plant yew" in row["replies"]["ash"]["reason"]
    assert "must be accepted here" in row["replies"]["ash"]["reason"]


def test_without_keys_there_are_no_secure_sums(run: Callable[..., Run]) -> None:
    found = run()
    found.centre.papers = None
    with pytest.raises(ConfigError, match="needs the keys of a centre"):
        found.hold()
