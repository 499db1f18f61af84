"""What the daemon does with an order: seal, outbox, ledger, policy, worker, record."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import psutil
import pytest

from client.desk.desk import ClosedError, Desk
from client.desk.ledger import Ledger
from client.desk.worker import Worker
from client.identity import Identity
from client.plant import Plant
from common.config import FederationConfig, PolicySection
from common.errors import AggregationError, IdentityError, UpdateError
from common.orders import Kind, Order, Outcome, Release, Reply
from common.pki import Role
from common.secagg.messages import Call
from common.secagg.transcript import SessionId
from common.signing import open_seal
from common.wire.messages import pack_call, unpack_said
from common.wire.parts import Parts
from common.wire.seals import open_reply, seal_call

OPEN = PolicySection(disk_free=0.0)


def now() -> datetime:
    return datetime.now().astimezone()


class Line:
    """A desk, and what goes over it."""

    def __init__(self, plant: Plant, centre: Any, *, running: bool) -> None:
        self.plant, self.centre = plant, centre
        self.ledger = Ledger(plant.folder)
        self.ledger.prepare()
        self.worker = Worker(plant.folder)
        identity = Identity(plant.folder / "identity", name=plant.name, at=now())
        self.ended = threading.Event()
        self.desk = Desk(
            plant.folder,
            identity=identity,
            ledger=self.ledger,
            worker=self.worker,
            now=now,
            ended=self.ended.set,
        )
        if running:
            self.desk.start()

    def ask(self, order: Order, release: Release) -> Reply:
        sealed = self.centre.seal(order, release)
        end = time.monotonic() + 60
        got = self.desk.answer(sealed, listening=lambda: time.monotonic() < end)
        return self.read(sealed, got)

    def read(self, sealed: Parts, got: Parts | None) -> Reply:
        assert got is not None
        nonce = open_seal(
            sealed.seal, kind="order", trust=self.centre.trust, role=Role.RELEASE, at=now()
        ).nonce
        reply, signer = open_reply(got, trust=self.centre.trust, at=now(), nonce=nonce)
        assert signer.name == self.plant.name
        return reply

    def later(self, order: Order, release: Release) -> tuple[threading.Thread, list[Reply]]:
        got: list[Reply] = []
        thread = threading.Thread(target=lambda: got.append(self.ask(order, release)))
        thread.start()
        return thread, got

    def process(self) -> psutil.Process:
        """Return the training process, once there is one."""
        end = time.monotonic() + 30
        while self.worker.pid is None:
            assert time.monotonic() < end
            time.sleep(0.02)
        return psutil.Process(self.worker.pid)

    def until_at_work(self) -> psutil.Process:
        """Wait until the worker has an order; return its process."""
        end = time.monotonic() + 30
        while not self.ledger.facts().get("work"):
            assert time.monotonic() < end
            time.sleep(0.02)
        return self.process()


@pytest.fixture
def line(enrolled: Callable[..., Plant], centre: Any) -> Iterator[Callable[..., Line]]:
    """Return ``line(running=False, **policy)``."""
    made: list[Line] = []

    def make(*, running: bool = False, **policy: Any) -> Line:
        plant = enrolled(policy=OPEN.model_copy(update=policy))
        made.append(Line(plant, centre, running=running))
        return made[-1]

    yield make
    for one in made:
        one.desk.close()
        one.worker.end()


@pytest.fixture
def release(small_config: FederationConfig, release_of: Callable[..., Release]) -> Release:
    return release_of(small_config)


@pytest.fixture
def order(
    small_config: FederationConfig, release: Release, order_for: Callable[..., Order]
) -> Order:
    return order_for(small_config, release)


def test_a_day_at_the_desk(line: Callable[..., Line], order: Order, release: Release) -> None:
    """One worker for all of it: trained, repeated, joined, left alone, worked out again."""
    at = line(running=True)
    first = at.ask(order, release)
    assert first.outcome is Outcome.DONE
    assert first.payload is not None
    entry = at.ledger.last()
    assert entry is not None
    assert (entry.run, entry.round, entry.outcome) == ("seed-0", 1, "done")
    assert entry.sent > len(first.payload)
    assert entry.scores == first.scores
    facts = at.ledger.facts()
    assert facts["work"] is None
    assert set(facts["data"]) == {"train", "validation", "test"}
    assert facts["training"]["images_per_second"] > 0
    assert facts["disk"]["free"] > 0

    # The same order again: the same bytes, and the ledger says that it was a repetition.
    again = at.ask(order, release)
    assert again.payload is not None
    assert again.payload == first.payload
    assert again.head() == first.head()
    assert [one.repeated for one in at.ledger.history(repeated=True)] == [True, False]

    # Two ask for the same order while it is worked out, one goes away: one training, two answers.
    second = replace(order, round=2)
    process = at.process()
    process.suspend()
    lost = at.centre.seal(second, release)
    assert at.desk.answer(lost, listening=lambda: False) is None
    threads = [at.later(second, release) for _ in range(2)]
    time.sleep(0.5)
    process.resume()
    for thread, _ in threads:
        thread.join()
    one, two = (got[0] for _, got in threads)
    assert one.payload is not None
    assert two.payload is not None
    assert one.payload == two.payload
    assert [entry.round for entry in at.ledger.history()] == [2, 1]
    assert len(at.ledger.history(repeated=True)) == 3

    # An answer that cannot be read is worked out again, to the same bytes.
    path = at.plant.folder / "outbox" / f"{second.key}.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    healed = at.ask(second, release)
    assert healed.payload is not None
    assert healed.payload == one.payload
    assert at.worker.starts == 1


@pytest.mark.timeout(300)
def test_a_bad_day_at_the_desk(line: Callable[..., Line], order: Order, release: Release) -> None:
    """What hangs, dies or is given up; and the end."""
    at = line(running=True)

    # A hung process is killed at the order's deadline; the order may come again.
    third = replace(order, round=3)
    at.process().suspend()
    late = at.ask(replace(third, deadline=1.0), release)
    assert (late.outcome, late.reason) == (Outcome.FAILED, "stopped after 1 s")
    assert at.ask(third, release).outcome is Outcome.DONE

    # A process that dies is replaced, and the order worked out once more.
    at.process().suspend()
    thread, got = at.later(replace(order, round=4, kind=Kind.ADOPT), release)
    at.until_at_work().kill()
    thread.join()
    assert got[0].outcome is Outcome.DONE

    # One that dies again is told with a code.
    fourth = replace(order, round=4)
    at.process().suspend()
    thread, got = at.later(fourth, release)
    first = at.until_at_work()
    first.kill()
    first.wait(30)
    at.process().kill()
    thread.join()
    assert (got[0].outcome, got[0].reason) == (Outcome.FAILED, "engine")

    # The centre goes on: what it gave up makes way.
    thread, got = at.later(fourth, release)
    at.until_at_work().suspend()
    fifth = at.ask(replace(order, round=5), release)
    thread.join()
    assert fifth.outcome is Outcome.DONE
    assert (got[0].outcome, got[0].reason) == (
        Outcome.FAILED,
        "stopped for round 5 of run seed-0",
    )
    replayed = at.ask(replace(order, round=4), release)
    assert replayed.outcome is Outcome.DECLINED
    assert replayed.reason.startswith("round must be 5 or later in run seed-0, got 4")
    assert at.ask(replace(order, round=6, kind=Kind.ADOPT), release).outcome is Outcome.DONE

    # Stopped in the middle: whoever waits is told to come again.
    at.process().suspend()
    failed: list[BaseException] = []

    def wait() -> None:
        try:
            at.ask(replace(order, run="later", round=1), release)
        except ClosedError as error:
            failed.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    process = at.until_at_work()
    at.desk.close()
    thread.join()
    assert failed
    assert at.ended.is_set()
    assert not process.is_running()
    with pytest.raises(ClosedError):
        at.ask(order, release)
    assert "later" not in {answer.run for answer in at.ledger.history()}  # not answered


def test_an_order_of_before_is_refused_after_a_restart(
    line: Callable[..., Line], order: Order, release: Release
) -> None:
    at = line()
    fifth = replace(order, round=5)
    at.plant.answer(fifth, release)  # answered, and killed before it was on record
    assert at.ask(fifth, release).outcome is Outcome.DONE
    assert [one.repeated for one in at.ledger.history(repeated=True)] == [False]

    # The outbox has forgotten it, the ledger has not.
    for path in (at.plant.folder / "outbox").iterdir():
        path.unlink()
    restarted = Line(at.plant, at.centre, running=False)
    old = restarted.ask(replace(order, round=4), release)
    assert (old.outcome, old.reason.split(",")[0]) == (
        Outcome.DECLINED,
        "round must be 5 or later in run seed-0",
    )
    other = restarted.ask(replace(fifth, cohort=("ash", "oak")), release)
    assert (other.outcome, other.reason) == (Outcome.DECLINED, "update")
    assert restarted.worker.starts == 0


def test_a_recorded_order_gets_the_same_bytes_also_after_a_restart(
    line: Callable[..., Line], order: Order, release: Release
) -> None:
    at = line()
    at.plant.answer(order, release)
    recorded = at.centre.seal(order, release)
    first = at.desk.answer(recorded, listening=lambda: True)
    at.desk.close()
    restarted = Line(at.plant, at.centre, running=False)
    again = restarted.desk.answer(recorded, listening=lambda: True)
    assert first is not None
    assert again is not None
    assert (again.head, again.vector) == (first.head, first.vector)
    assert restarted.worker.starts == 0
    assert len(restarted.ledger.history()) == 1


def test_an_answered_order_of_an_old_run_is_no_work_again(
    line: Callable[..., Line], order: Order, release: Release
) -> None:
    """Nor a charge: the outbox has forgotten it, and whoever has the sealed order may replay it."""
    at = line(running=True)
    orders = [replace(order, run=run, kind=Kind.ADOPT) for run in ("a", "b")]
    assert [at.ask(one, release).outcome for one in orders] == [Outcome.DONE] * 2
    for path in (at.plant.folder / "outbox").iterdir():
        path.unlink()
    old, newest = (at.ask(one, release) for one in orders)
    assert old.outcome is Outcome.DECLINED
    assert old.reason.startswith("run must be the newest at this plant")
    assert newest.outcome is Outcome.DONE


def test_the_policy_is_told_in_words_and_other_refusals_are_not(
    line: Callable[..., Line],
    order: Order,
    release: Release,
    changed: Callable[..., FederationConfig],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="client.desk.record")
    at = line(minimum_cohort=5, methods=("fedbn",))
    reply = at.ask(order, release)
    assert reply.outcome is Outcome.DECLINED
    assert reply.reason == (
        "cohort must be at least 5 plants, got 3; method must be one of fedbn, got fedper"
    )
    # Again and again adds nothing to the ledger.
    at.ask(order, release)
    assert len(at.ledger.history()) == 1

    stranger = at.ask(replace(order, cohort=("elm", "oak")), release)
    assert (stranger.outcome, stranger.reason) == (Outcome.DECLINED, "update")

    # The policy is read anew with each order; one that is broken closes the plant.
    settings = at.plant.folder / "plant.toml"
    good = settings.read_text()
    settings.write_text(good.replace("minimum_cohort = 5", "minimum_cohort = 4"))
    assert "at least 4 plants" in at.ask(order, release).reason
    settings.write_text(good.replace("minimum_cohort = 5", 'minimum_cohort = "no"'))
    broken = at.ask(order, release)
    assert (broken.outcome, broken.reason) == (Outcome.FAILED, "config")
    lines = [r.message for r in caplog.records if r.levelno == logging.INFO]
    assert any(one.startswith("round 1 of seed-0: declined after") for one in lines)


def test_an_answered_order_needs_no_policy(
    line: Callable[..., Line], order: Order, release: Release
) -> None:
    at = line(minimum_cohort=9)
    filed = at.plant.answer(order, release)
    got = at.ask(order, release)
    assert got.outcome is Outcome.DONE
    assert got.head() == filed.head()


def test_only_the_centre_gives_orders(
    line: Callable[..., Line], other_centre: Any, order: Order, release: Release
) -> None:
    at = line()
    ask = at.desk.answer
    good = at.centre.seal(order, release)
    assert good.vector is not None
    with pytest.raises(IdentityError):
        ask(other_centre.seal(order, release), listening=lambda: True)
    with pytest.raises(IdentityError):
        ask(replace(good, seal=""), listening=lambda: True)
    with pytest.raises(IdentityError):
        ask(replace(good, head=good.head.replace('"round": 1', '"round": 2')), listening=lambda: 1)
    with pytest.raises(UpdateError):
        ask(replace(good, vector=bytes(len(good.vector))), listening=lambda: True)
    assert at.ledger.history() == []


def test_a_ledger_that_cannot_be_written_gives_no_answer(
    line: Callable[..., Line], order: Order, release: Release
) -> None:
    at = line()
    at.plant.answer(order, release)
    for path in at.plant.folder.glob("ledger.db*"):
        path.unlink()
    got = at.ask(order, release)
    assert (got.outcome, got.reason, got.payload) == (Outcome.FAILED, "state", None)


# -- secure sums (`client.desk.sums` has tests of its own) -----------------------------------------


def test_an_order_to_sum_without_terms_is_declined_before_training(
    line: Callable[..., Line], order: Order, release: Release
) -> None:
    at = line()
    sums = order.config.secure_aggregation.model_copy(update={"enabled": True})
    config = order.config.model_copy(update={"secure_aggregation": sums, "min_plants": 3})
    reply = at.ask(replace(order, config=config), release)
    assert (reply.outcome, reply.payload) == (Outcome.DECLINED, None)
    assert "terms of a secure sum" in reply.reason


def test_what_cannot_be_masked_is_on_record_as_not_sent(
    line: Callable[..., Line], order: Order, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Reply:
        raise AggregationError("no keys for this sum are left here")

    at = line(running=True)
    monkeypatch.setattr(at.desk._sums, "mask", refuse)
    day = now() - timedelta(days=1)
    for outcome, rounds in ((Outcome.FAILED, 1), (Outcome.DECLINED, 1)):  # trained, then kept
        reply = at.ask(order, release)
        assert (reply.outcome, reply.payload) == (outcome, None)
        entry = at.ledger.last()
        assert entry is not None
        assert (entry.outcome, "no keys" in entry.reason) == (outcome, True)
        assert entry.sent == len(reply.head())
        assert at.ledger.rounds_since(day) == rounds


def test_a_plant_that_demands_sums_declines_an_order_in_the_clear(
    line: Callable[..., Line], order: Order, release: Release
) -> None:
    reply = line(protection=("secure-aggregation",)).ask(order, release)
    assert reply.outcome is Outcome.DECLINED
    assert reply.reason.startswith("protection must include secure-aggregation")


def test_a_call_counts_only_from_the_centre_and_for_this_plant(line: Callable[..., Line]) -> None:
    at = line()
    sid = SessionId(federation="acme", run="r", round=1, attempt=0)
    parts = pack_call(Call(hello=sid))
    signer = at.centre.release
    with pytest.raises(IdentityError, match="another plant"):
        at.desk.call(seal_call(parts, plant="elm", signer=signer))
    with pytest.raises(IdentityError):
        at.desk.call(parts)
    sealed = seal_call(parts, plant="ash", signer=signer)
    with pytest.raises(IdentityError, match="altered"):
        at.desk.call(replace(sealed, head=sealed.head.replace('"r', '"s')))
    assert unpack_said(at.desk.call(sealed)).advert
