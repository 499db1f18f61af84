from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from client import metric_families as m
from client import metrics
from client.desk.ledger import Answer, Ledger
from client.personal import PersonalStore
from common.errors import ConfigError, IdentityError, StateError
from common.metrics import OTHER
from common.pki import Authority, Role, make_identity
from tests.scrape import ERROR_CODES, Scraped

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Desk(Scraped):
    """A plant's folder with a ledger, and what a scrape says of it."""

    prefix = "transferline_daemon_"

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "plant.toml").write_text('name = "ash"\ndata = "data"\n')
        self.folder, self.ledger = folder, Ledger(folder)
        self.ledger.prepare()
        self.registry = self.open()

    def open(self) -> CollectorRegistry:
        return metrics.registry(self.folder, clock=lambda: NOW)

    def add(self, number: int, **fields: Any) -> None:
        head = {"scores": fields.pop("scores", {}), "seconds": fields.pop("phases", {})}
        defaults = {
            "at": NOW - timedelta(hours=30 - number),
            "run": "r1",
            "round": number,
            "kind": "train",
            "release": "a" * 64,
            "digest": f"d{number}",
            "repeated": False,
            "outcome": "done",
            "reason": "",
            "head": json.dumps(head),
            "received": 1000,
            "sent": 500,
            "seconds": 30.0,
        }
        self.ledger.add(Answer(**defaults | fields))

    def samples(self, registry: CollectorRegistry | None = None) -> dict[str, float]:
        found = super().samples(registry)
        return {key: value for key, value in found.items() if not key.startswith("disk_free")}


@pytest.fixture
def bare(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "ash")


@pytest.fixture
def busy(bare: Desk) -> Desk:
    """A plant that has answered everything that can be asked, and is at work."""
    trained = {"incoming": {"balanced_accuracy": 0.6}, "trained": {"balanced_accuracy": 0.7}}
    bare.add(1, scores=trained, phases={"evaluate": 1.0, "train": 20.0, "made-up": 2.0})
    bare.add(2, outcome="declined", reason="method must be one of fedbn, got SECRET")
    bare.add(3, outcome="failed", reason="data")
    bare.add(9, scores={"trained": {"balanced_accuracy": 0.8}}, phases={"train": 22.0})
    bare.add(9, repeated=True, phases={"train": 22.0})
    bare.ledger.note(
        {
            "daemon": {"pid": 1, "version": "0.1.0", "since": "2026-03-01T08:00:00+00:00"},
            "work": {"run": "r1", "round": 10, "kind": "train", "since": NOW.isoformat()},
            "queue": 2,
            "worker": {"pid": 2, "starts": 3, "killed": 1},
            "data": {"train": 30, "validation": 10, "test": 60},
            "training": {"seconds": 22.0, "images": 440, "images_per_second": 20.0, "loss": 0.4},
            "gpu": {"name": "card", "used": 2_000_000_000, "total": 8_000_000_000},
        },
        at=NOW,
    )
    store = PersonalStore(bare.folder / "personal")
    part = {"head": np.zeros(3, np.float32)}
    about: dict[str, Any] = {"run": "r1", "basis": "b"}
    store.add(part, kind="local", round=0, scores={"balanced_accuracy": 0.65}, **about)
    store.add(part, kind="round", round=1, scores={"balanced_accuracy": 0.7}, **about)
    best = store.add(part, kind="federated", round=9, scores={"loss": 0.3}, **about)
    store.deploy(best, why="SECRET")
    return bare


def test_a_plant_that_was_never_asked_can_be_scraped(bare: Desk) -> None:
    samples = bare.samples()
    assert samples["busy"] == samples["waiting_orders"] == samples["last_day_rounds"] == 0
    assert "deployed_version" not in samples
    assert samples["build_info{plant=ash,version=}"] == 1


def test_orders_are_counted_with_a_code(busy: Desk) -> None:
    samples = busy.samples()
    assert samples["orders_total{kind=train,outcome=done,reason=none,repeated=no}"] == 2
    assert samples["orders_total{kind=train,outcome=done,reason=none,repeated=yes}"] == 1
    assert samples["orders_total{kind=train,outcome=declined,reason=policy,repeated=no}"] == 1
    assert samples["orders_total{kind=train,outcome=failed,reason=data,repeated=no}"] == 1
    assert samples["order_seconds_total{kind=train}"] == 150
    assert samples["transfer_bytes_total{direction=down}"] == 5000
    assert samples["transfer_bytes_total{direction=up}"] == 2500
    assert samples["phase_seconds_total{phase=train}"] == 42
    assert samples[f"phase_seconds_total{{phase={OTHER}}}"] == 2
    assert samples["last_order_timestamp_seconds"] == (NOW - timedelta(hours=21)).timestamp()
    assert samples["last_day_rounds"] == 1
    assert "SECRET" not in busy.text()


def test_what_is_so_now_is_told(busy: Desk) -> None:
    samples = busy.samples()
    assert samples["start_timestamp_seconds"] == (NOW - timedelta(hours=4)).timestamp()
    assert (samples["busy"], samples["waiting_orders"]) == (1, 2)
    assert (samples["worker_starts_total"], samples["worker_kills_total"]) == (3, 1)
    assert samples["images{split=validation}"] == 10
    assert samples["images_per_second"] == 20
    assert samples["last_training_seconds"] == 22
    assert samples["training_loss"] == 0.4
    assert samples["gpu_memory_bytes{kind=used}"] == 2e9
    busy.ledger.note({"gpu": None, "work": None, "daemon": None, "training": None}, at=NOW)
    assert busy.samples()["busy"] == 0


def test_models_and_scores_are_told(busy: Desk) -> None:
    samples = busy.samples()
    score = "score{metric=balanced_accuracy,stage="
    told = {key[len(score) : -1]: value for key, value in samples.items() if key.startswith(score)}
    assert told == {"local": 0.65, "incoming": 0.6, "trained": 0.8}
    assert samples["score{metric=loss,stage=deployed}"] == 0.3
    assert samples["deployed_version"] == 3
    assert samples["deployed_source{kind=federated}"] == 1
    assert samples["personal_versions{kind=round}"] == 1


def test_a_restart_tells_the_same_and_new_answers_count_once(busy: Desk) -> None:
    before = busy.samples()
    assert busy.samples() == busy.samples(busy.open()) == before
    busy.add(10, phases={"train": 1.0})
    after = busy.samples()
    assert after["phase_seconds_total{phase=train}"] == 43
    assert busy.samples(busy.open()) == after


def test_a_ledger_that_is_put_back_counts_anew(busy: Desk) -> None:
    old = busy.folder / "ledger.db"
    backup = busy.folder / "backup"
    with busy.ledger.open() as database:
        database.execute("VACUUM INTO ?", (str(backup),))
    busy.add(10, phases={"train": 1.0})
    busy.samples()
    for path in busy.folder.glob("ledger.db*"):
        path.unlink()
    backup.rename(old)
    assert busy.samples()["phase_seconds_total{phase=train}"] == 42


def test_certificates_of_the_plant(bare: Desk) -> None:
    authority = Authority.create(bare.folder / "pki", federation="acme", at=NOW)
    identity = bare.folder / "identity"
    identity.mkdir()
    key = make_identity(identity).public_key()
    pem = authority.issue(key, name="ash", role=Role.PLANT, days=30, at=NOW)
    (identity / "identity.pem").write_text(pem)
    (identity / "ca.pem").write_text(authority.pem)
    samples = bare.samples()
    days = (samples["certificate_expiry_timestamp_seconds{role=plant}"] - NOW.timestamp()) / 86400
    assert days == pytest.approx(30, abs=0.1)
    assert samples["certificate_expiry_timestamp_seconds{role=ca}"] > NOW.timestamp() + 9 * 3e7
    (identity / "identity.pem").write_text("damaged")
    with pytest.raises(IdentityError, match="certificate must be PEM text"):
        bare.samples()


def test_a_damaged_ledger_is_one_line(bare: Desk) -> None:
    bare.samples()
    for path in bare.folder.glob("ledger.db-*"):
        path.unlink()
    (bare.folder / "ledger.db").write_bytes(b"not a database" * 100)
    with pytest.raises(StateError, match="is damaged"):
        bare.samples()


def test_a_folder_without_a_plant_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be the folder of a plant"):
        metrics.registry(tmp_path)


def test_every_label_has_a_value_that_is_declared(busy: Desk) -> None:
    for family in text_string_to_metric_families(busy.text()):
        for sample in family.samples:
            for label, value in sample.labels.items():
                own = label in ("plant", "version")
                assert own or value in (*m.VALUES[label], OTHER), (sample.name, label, value)


def test_every_error_code_is_declared() -> None:
    assert set(m.REASONS) >= ERROR_CODES


def test_it_loads_no_training_code() -> None:
    heavy = "{'torch', 'grpc', 'flwr'} & set(sys.modules)"
    source = f"import sys, client.metrics; sys.exit(bool({heavy}))"
    assert subprocess.run([sys.executable, "-c", source], check=False).returncode == 0


def test_promtool_has_nothing_to_say(busy: Desk) -> None:
    busy.check_by_promtool()
