"""What the commands say of a plant's folder."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.console import views
from client.desk.ledger import Answer, Ledger
from client.layout import open_settings
from client.link.files import LinkStatus, write_status
from client.personal import PersonalStore
from common.orders import Outcome, Reply

NOW = datetime.now().astimezone()


def answer(number: int, *, kind: str = "train", release: str = "", **fields: Any) -> Answer:
    told: dict[str, Any] = {"outcome": Outcome.DONE, "scores": {}, "reason": ""} | fields
    reply = Reply(
        plant="ash", run="run-1", round=number, release=release or f"{number:064x}", **told
    )
    return Answer(
        at=datetime(2026, 11, 20, 12, number, tzinfo=UTC),
        run="run-1",
        round=number,
        kind=kind,
        release=reply.release,
        digest=f"{number}{kind}",
        repeated=False,
        outcome=str(reply.outcome),
        reason=reply.reason,
        head=reply.head(),
        received=4_000_000,
        sent=4_000_000,
        seconds=31.4,
    )


def scores(stage: str, value: float) -> dict[str, Any]:
    return {stage: {"balanced_accuracy": value}}


def add_model(store: PersonalStore, kind: str, **fields: Any) -> int:
    told = {"run": "", "round": 0, "basis": kind, "scores": {"balanced_accuracy": 0.8}} | fields
    return store.add({"head.bias": np.zeros(2, np.float32)}, kind=kind, **told).number


def test_models_with_the_one_that_inspects_parts(tmp_path: Path) -> None:
    store = PersonalStore(tmp_path)
    assert views.models(store) == []
    add_model(store, "round")
    local, federated = add_model(store, "local"), add_model(store, "federated", run="a", round=3)
    store.deploy(store.version(federated), why="better")
    found = views.models(store)
    assert [model.version.number for model in found] == [local, federated]
    assert [model.deployed for model in found] == [False, True]
    assert [model.why for model in found] == ["", "better"]
    assert found[0].origin == "trained at this plant alone"
    assert found[1].origin == "a release of run a"
    facts = json.loads(json.dumps(found[1].facts()))
    assert facts["deployed"] is True
    ago = datetime.now().astimezone() - datetime.fromisoformat(facts["made"])
    assert timedelta(seconds=-2) < ago < timedelta(minutes=1)


def test_releases_from_what_was_asked(tmp_path: Path) -> None:
    store = PersonalStore(tmp_path)
    last = answer(3, kind="adopt", release="c" * 64)
    answers = [
        answer(1, scores=scores("trained", 0.7)),
        answer(2, scores=scores("incoming", 0.75)),
        last,
    ]
    ledger = Ledger(tmp_path)
    ledger.prepare()
    for one in answers:
        ledger.add(one)
    add_model(store, "federated", run="run-1", round=3)
    newest_first = ledger.history()
    found = views.received(newest_first, deployed=store.version(1))
    assert [one.release for one in found] == [one.release for one in answers]
    assert [one.incoming for one in found] == [None, 0.75, None]
    assert [one.deployed for one in found] == [False, False, True]
    assert not any(one.deployed for one in views.received(newest_first, deployed=None))
    other = store.version(add_model(store, "federated", run="run-2", round=3))
    assert not any(one.deployed for one in views.received(newest_first, deployed=other))


def test_the_score_that_says_most() -> None:
    both = scores("incoming", 0.6) | scores("trained", 0.7) | scores("deployed", 0.8)
    assert views.score(answer(1, scores=both)) == 0.7
    assert views.score(answer(1, kind="adopt", scores=both)) == 0.8
    assert views.score(answer(1)) is None


def test_a_daemon_runs_only_if_it_holds_the_lock(tmp_path: Path) -> None:
    facts: dict[str, Any] = {"daemon": {"pid": os.getpid()}}
    lock = tmp_path / "lock"
    assert views.running(tmp_path, facts={}) is None
    assert views.running(tmp_path, facts=facts) is None
    with lock.open("w") as held:
        assert views.running(tmp_path, facts=facts) is None
        fcntl.flock(held, fcntl.LOCK_EX)
        assert views.running(tmp_path, facts=facts) == facts["daemon"]
        gone = {"daemon": {"pid": 2**22 + 1}}
        assert views.running(tmp_path, facts=gone) is None


def test_an_overview_of_a_plant_that_never_ran(joined: Callable[..., Path]) -> None:
    folder = joined()
    found = views.overview(folder, settings=open_settings(folder), now=NOW)
    facts = json.loads(json.dumps(found.facts()))
    assert facts["plant"] == "ash"
    assert [facts[name] for name in ("daemon", "link", "work", "last", "model")] == [None] * 5
    assert datetime.fromisoformat(facts["certificate"]) > NOW
    assert facts["trouble"] == ""


def test_an_overview_of_one_that_runs(joined: Callable[..., Path]) -> None:
    folder = joined()
    ledger = Ledger(folder)
    ledger.prepare()
    work = {"run": "run-1", "round": 2, "kind": "train", "since": NOW.isoformat()}
    daemon = {"pid": os.getpid(), "since": NOW.isoformat(), "version": "1", "address": "unix:x"}
    ledger.note({"daemon": daemon, "work": work, "queue": 1}, at=NOW)
    ledger.add(answer(1, scores=scores("trained", 0.7)))
    write_status(folder / "link", LinkStatus(state="connected", since=NOW.isoformat(), node="7"))
    settings = open_settings(folder)
    assert views.overview(folder, settings=settings, now=NOW).work is None
    with (folder / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        facts = views.overview(folder, settings=settings, now=NOW).facts()
    assert (facts["daemon"], facts["work"], facts["queue"]) == (daemon, work, 1)
    assert facts["link"]["state"] == "connected"
    assert facts["last"]["scores"] == scores("trained", 0.7)
    assert "digest" not in facts["last"]


def test_the_score_of_a_round_with_noise_is_shown_at_the_plant(
    joined: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = joined()
    ledger = Ledger(folder)
    ledger.prepare()
    entry = answer(1)
    ledger.add(entry, facts={"scores": scores("trained", 0.6)})
    settings = open_settings(folder)
    assert views.overview(folder, settings=settings, now=NOW).score is None
    monkeypatch.setattr(views, "private_runs", lambda folder: frozenset({entry.run}))
    assert views.overview(folder, settings=settings, now=NOW).score == 0.6


def test_an_identity_in_trouble_is_told(joined: Callable[..., Path]) -> None:
    folder = joined()
    (folder / "identity" / "identity.pem").unlink()
    facts = views.overview(folder, settings=open_settings(folder), now=NOW).facts()
    assert facts["certificate"] is None
    assert "identity.pem" in facts["trouble"]


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (9_031_936, "9.0 MB")]
)
def test_bytes_in_words(count: int, text: str) -> None:
    assert views.size(count) == text
