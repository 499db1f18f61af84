"""What a hostile or broken plant may do to a secure sum: it loses its own part in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from common.pki import Role
from common.secagg.member import CONFIRMED, SHARES, UNMASKED
from common.secagg.messages import Masked
from common.secagg.roster import ADVERT
from common.signing import seal
from tests.server.sums import MORE, NAMES, Run, Stage, at


def test_a_reply_that_is_not_masked_is_refused(run: Callable[..., Run]) -> None:
    found = run()

    def spoil(stage: Stage, plant: str, answer: Any) -> Any:
        if stage != Stage(round=1, name="order") or plant != "elm":
            return answer
        _, plain = found.plants.inner.outbox[plant, "run-00001-train"]
        return plain

    found.plants.spoil = spoil
    found.hold()
    row = found.rounds[1]
    assert row["replies"]["elm"]["outcome"] == "rejected"
    found.check_sum(1, [name for name in NAMES if name != "elm"], cohort=5)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda r: replace(r, payload=r.payload[:-8]), "form"),
        (lambda r: replace(r, payload=bytes(len(r.payload))), "sum"),
        (lambda r: replace(r, weight=5), "weight"),
        (lambda r: replace(r, beside='{"text": ""}'), "sum"),
    ],
)
def test_what_is_wrong_with_a_masked_reply_is_found(
    run: Callable[..., Run], change: Callable[[Any], Any], code: str
) -> None:
    found = run()
    found.plants.spoil = lambda stage, plant, answer: (
        change(answer) if stage == Stage(round=1, name="order") and plant == "elm" else answer
    )
    found.hold()
    reply = found.rounds[1]["replies"]["elm"]
    assert reply["outcome"] == "rejected"
    assert reply["reason"].startswith(f"{code}: ")
    found.check_sum(1, [name for name in NAMES if name != "elm"], cohort=5)


def test_keys_of_another_plant_are_not_taken(run: Callable[..., Run]) -> None:
    found = run()
    kept: dict[str, str] = {}

    def spoil(stage: Stage, plant: str, answer: Any) -> Any:
        if stage.name != "hello":
            return answer
        kept[plant] = answer.advert
        return answer.model_copy(update={"advert": kept["ash"]}) if plant == "elm" else answer

    found.plants.spoil = spoil
    found.hold()
    assert "identity enrolled" in found.rounds[1]["replies"]["elm"]["reason"]


@pytest.mark.parametrize("stage", ["hello", "order"])
@pytest.mark.parametrize(
    ("change", "liars", "reason"),
    [
        (lambda own, ash: own | {"c": own["s"]}, ["yew"], "must be two, got one twice"),
        (lambda own, ash: own | {"s": "00" * 32}, ["yew"], "must be a sound X25519 key"),
        (lambda own, ash: own | {"s": ash["c"]}, ["ash", "yew"], "another plant sent the same"),
    ],
)
def test_unsound_keys_cost_their_plants_alone(
    run: Callable[..., Run],
    change: Callable[..., dict[str, Any]],
    liars: list[str],
    reason: str,
    stage: str,
) -> None:
    """In the set-up of round 1, or in that of round 2 on the way."""
    found, seen = run(sum_cohort=3), {}
    number = 1 if stage == "hello" else 2

    def forge(plant: str, advert: str) -> str:
        fields = json.loads(advert)["fields"]
        first = seen.setdefault(fields["sid"], fields)  # of ash, at the number that matters
        if plant != "yew" or len(seen) != number:
            return advert
        signer = found.plants.signers[plant]
        return seal(ADVERT, change(fields, first), signer=signer)

    def spoil(at_stage: Stage, plant: str, answer: Any) -> Any:
        if at_stage.name == "hello":
            return answer.model_copy(update={"advert": forge(plant, answer.advert)})
        if at_stage.name != "order" or not (masked := Masked.from_json(answer.beside)).advert:
            return answer
        spoiled = masked.model_copy(update={"advert": forge(plant, masked.advert)})
        return replace(answer, beside=spoiled.to_json())

    found.plants.spoil = spoil
    found.hold()
    assert [found.rounds[n]["outcome"] for n in (1, 2, 3)] == ["committed"] * 3
    if stage == "order":  # a set-up of its own when round 2 begins, with sound keys
        for number in (1, 2):
            found.check_sum(number, NAMES, cohort=5)
        return
    for plant in liars:
        row = found.rounds[1]["replies"][plant]
        assert row["outcome"] == "failed"
        assert reason in row["reason"]
    left = [name for name in NAMES if name not in liars]
    found.check_sum(1, left, cohort=len(left))


@pytest.mark.parametrize("stage", ["hello", "order"])
def test_a_certificate_that_ends_in_mid_round_costs_its_plant_alone(
    run: Callable[..., Run], stage: str
) -> None:
    """After its keys came and before the roster is fixed: of this round, and of the next."""
    found, days = run(), [0]
    own = found.plants.signers["ash"]
    short = found.plants.keys.authority.issue(
        own.key.public_key(), name="ash", role=Role.PLANT, days=10
    )
    found.plants.signers["ash"] = replace(own, certificate=short)
    found.plants.restart("ash")

    def pass_time(at_stage: Stage, plant: str, answer: Any) -> Any:
        if at_stage == Stage(round=1, name=stage) and plant == "yew":
            days[0] = 20
        return answer

    federation = found.centre.open(fleet=found.plants)
    federation._gathering._now = lambda: datetime.now(UTC) + timedelta(days=days[0])
    found.plants.spoil = pass_time
    federation.run()
    rows = found.rounds
    assert [rows[n]["outcome"] for n in (1, 2, 3)] == ["committed"] * 3
    first = 1 if stage == "hello" else 2
    for number in range(1, 4):
        left = NAMES if number < first else NAMES[1:]
        found.check_sum(number, left, cohort=len(left))
    for number in range(first, 4):
        assert "certificate of ash must be valid at" in rows[number]["replies"]["ash"]["reason"]


def forged(
    kind: str, change: Callable[[dict[str, Any]], Any], text: str, run: Run, who: str
) -> str:
    """Return a message of a plant with other fields, soundly signed."""
    fields = json.loads(text)["fields"]
    change(fields)
    return seal(kind, fields, signer=run.plants.signers[who])


@pytest.mark.parametrize(
    ("stage", "change"),
    [
        ("confirm", lambda fields: fields.update(order="00" * 32)),
        ("confirm", lambda fields: fields.update(survivors=fields["survivors"][1:])),
        ("confirm", lambda fields: fields.update(padding="x" * 500_000)),
        ("unmask", lambda fields: fields.update(order="00" * 32)),
        ("unmask", lambda fields: fields.update(b=dict.fromkeys(fields["b"], "00"))),
    ],
)
@pytest.mark.parametrize("count", [5, 7])
def test_a_liar_among_the_survivors_is_lost_alone(
    run: Callable[..., Run],
    caplog: pytest.LogCaptureFixture,
    count: int,
    stage: str,
    change: Callable[[dict[str, Any]], Any],
) -> None:
    """Elm drops out and yew lies: two of seven may be lost, of five only one."""
    found = run(count)
    kind, said = {"confirm": (CONFIRMED, "confirmed"), "unmask": (UNMASKED, "unmasked")}[stage]

    def spoil(at_stage: Stage, plant: str, answer: Any) -> Any:
        if at_stage != Stage(round=2, name=stage) or plant != "yew":
            return answer
        lie = forged(kind, change, getattr(answer, said), found, plant)
        return answer.model_copy(update={said: lie})

    found.plants.kills = at("order", ["elm"])
    found.plants.spoil = spoil
    found.hold()
    assert [record for record in caplog.messages if "yew: " in record]
    row = found.rounds[2]
    if count == 7:
        found.check_sum(2, [name for name in MORE if name != "elm"], cohort=7)
    else:
        assert row["outcome"] == "skipped"
        assert "lost after masking: yew" in row["reason"]
    names = MORE[:count]
    found.check_sum(3, names, cohort=count)


@pytest.mark.parametrize("box", ["00", "no hexadecimal", "00" * 81])
def test_ciphertexts_that_cannot_be_any_cost_their_sender_alone(
    run: Callable[..., Run], box: str
) -> None:
    found = run()

    def spoil(stage: Stage, plant: str, answer: Any) -> Any:
        if stage != Stage(round=1, name="setup") or plant != "yew":
            return answer
        lie = forged(
            SHARES, lambda f: f.update(boxes=dict.fromkeys(f["boxes"], box)), answer.shares, found,
            plant,
        )  # fmt: skip
        return answer.model_copy(update={"shares": lie})

    found.plants.spoil = spoil
    found.hold()
    assert "field" in found.rounds[1]["replies"]["yew"]["reason"]
    found.check_sum(1, NAMES[:4], cohort=4)


def test_ciphertexts_that_do_not_open_name_their_sender(run: Callable[..., Run]) -> None:
    """The centre cannot look into them: the round is skipped, and plants say whose they are."""
    found = run()

    def spoil(stage: Stage, plant: str, answer: Any) -> Any:
        if stage != Stage(round=1, name="setup") or plant != "yew":
            return answer
        lie = forged(
            SHARES,
            lambda f: f.update(boxes={one: box[:-2] + "00" for one, box in f["boxes"].items()}),
            answer.shares,
            found,
            plant,
        )
        return answer.model_copy(update={"shares": lie})

    found.plants.spoil = spoil
    found.hold()
    row = found.rounds[1]
    assert row["outcome"] == "skipped"
    for name in NAMES[:4]:
        assert "what plant yew shared with this one" in row["replies"][name]["reason"]
    found.check_sum(2, NAMES, cohort=5)
