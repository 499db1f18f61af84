from __future__ import annotations

import ast
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import delete

from common.metrics import OTHER
from server.metrics import families as m
from server.metrics import metrics
from server.metrics.totals import reply_reason, skip_reason
from server.state.store import Store
from server.state.tables import (
    PlantRow,
    ReleaseRow,
    ReplyRow,
    RoundRow,
    RunRow,
    TokenRow,
)
from tests.scrape import ERROR_CODES, Scraped

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ROOT = Path(__file__).resolve().parents[2]


class Centre(Scraped):
    """A store with rows as the centre writes them, and what a scrape says of it."""

    def __init__(self, home: Path, url: str = "") -> None:
        self.home = home
        self.store = Store(home, url)
        self.processes: dict[str, Any] = {}
        self.registry = self.open()

    def open(self) -> CollectorRegistry:
        return metrics.registry(
            self.store, home=self.home, processes=lambda: self.processes, clock=lambda: NOW
        )

    def add(self, *rows: Any) -> None:
        with self.store.writing() as session:
            for row in rows:
                session.merge(row)
                session.flush()

    def told(self, registry: CollectorRegistry | None = None) -> dict[str, float]:
        """Return the samples but for the disk, which changes by itself."""
        samples = self.samples(registry)
        return {key: value for key, value in samples.items() if not key.startswith("disk_")}


@pytest.fixture
def bare(tmp_path: Path) -> Centre:
    return Centre(tmp_path / "centre")


def run(name: str = "r1", number: int = 1, **fields: Any) -> RunRow:
    defaults = {"config": {"rounds": 5}, "created": "2026-03-01T08:00:00+00:00", "fence": 1}
    return RunRow(name=name, number=number, **defaults | fields)


def held(number: int, *, plants: dict[str, dict[str, Any]], **fields: Any) -> RoundRow:
    defaults: dict[str, Any] = {
        "run": "r1",
        "kind": "train",
        "release": "a" * 64,
        "outcome": "committed",
        "reason": "",
        "seconds": 100.0,
        "refused": {},
        "started": "2026-03-01T11:00:00+00:00",
    }
    row = RoundRow(number=number, cohort=sorted(plants), **defaults | fields)
    row.replies = [reply(row, name, **given) for name, given in plants.items()]
    return row


def reply(row: RoundRow, plant: str, **fields: Any) -> ReplyRow:
    defaults = {
        "outcome": "done",
        "reason": "",
        "weight": 37,
        "bytes_up": 10,
        "bytes_down": 20,
        "scores": {},
        "seconds": {},
        "notes": {},
    }
    return ReplyRow(run=row.run, round=row.number, plant=plant, **defaults | fields)


def plant(name: str, **fields: Any) -> PlantRow:
    defaults = {
        "state": "enrolled",
        "fingerprint": "f" * 64,
        "certificate": "PEM",
        "serial": "01",
        "not_after": NOW + timedelta(days=30),
        "link_key": f"ecdsa {name}",
        "node_id": 2**63 + len(name),
        "enrolled_at": NOW - timedelta(days=1),
    }
    return PlantRow(name=name, **defaults | fields)


@pytest.fixture
def busy(bare: Centre) -> Centre:
    fill(bare)
    return bare


def fill(bare: Centre) -> None:
    """Make it a centre in its second run, with everything that can be counted."""
    scores = {"incoming": {"balanced_accuracy": 0.7, "loss": 1.2}}
    fast, slow = {"evaluate": 1.0, "train": 20.0}, {"evaluate": 2.0, "train": 60.0, "protect": 1.0}
    bare.add(
        run(state="finished", fence=3),
        run("r2", 2, state="running", heartbeat=NOW - timedelta(seconds=2)),
        held(
            1,
            plants={
                "ash": {"scores": scores, "seconds": fast},
                "elm": {"scores": scores, "seconds": slow},
                "oak": {"outcome": "rejected", "reason": "norm: 1e9", "scores": {}, "bytes_up": 7},
            },
            refused={"norm": 1, "stale": 2},
        ),
        held(
            2,
            plants={
                "ash": {
                    "outcome": "declined",
                    "reason": "cohort must be at least 5 plants, got 2",
                    "bytes_up": 1,
                },
                "elm": {"outcome": "late", "reason": "no answer within 60 s", "bytes_up": 0},
                "oak": {"outcome": "failed", "reason": "identity: signature must hold, got none"},
            },
            outcome="skipped",
            reason="0 of 2 replies counted",
            seconds=60.0,
        ),
        held(
            3,
            kind="adopt",
            plants={
                "ash": {"notes": {"adopted": True, "why": "SECRET"}},
                "elm": {
                    "notes": {"adopted": False},
                    "scores": {"deployed": {"balanced_accuracy": 0.9}},
                },
            },
        ),
        held(1, run="r2", plants={"ash": {"scores": {"incoming": {"loss": 0.5}}}}),
        held(2, run="r2", plants={}, outcome="open", started="2026-03-01T11:59:00+00:00"),
        plant("ash", last_seen=NOW - timedelta(seconds=20)),
        plant("elm", last_seen=NOW - timedelta(minutes=5)),
        plant("oak", state="revoked", revoked_at=NOW, reason="sold"),
        TokenRow(plant="fir", digest="d1", issued_at=NOW, expires=NOW + timedelta(hours=1)),
        TokenRow(plant="yew", digest="d2", issued_at=NOW, expires=NOW - timedelta(hours=1)),
        ReleaseRow(number=0, run="r1", hash="h0", created="2026-03-01T08:00:00+00:00"),
        ReleaseRow(number=1, run="r1", round=1, hash="h1", created="2026-03-01T11:02:00+00:00"),
        ReleaseRow(number=2, run="r1", restores=0, hash="h0", created="2026-03-01T11:30:00+00:00"),
    )


def test_an_empty_centre_can_be_scraped(bare: Centre) -> None:
    samples = bare.samples()
    assert samples["runs{state=running}"] == 0
    assert samples["plants{state=enrolled}"] == 0
    assert "release_number" not in samples
    # An alert on an increase needs the series before the first event.
    assert samples["refused_replies_total{reason=identity}"] == 0
    assert samples["rounds_total{kind=train,outcome=skipped}"] == 0
    assert {f.name for f in m.FAMILIES} == set(re.findall(r"# HELP (\S+)", bare.text()))


def test_rounds_and_their_time_are_counted(busy: Centre) -> None:
    samples = busy.samples()
    assert samples["rounds_total{kind=train,outcome=committed}"] == 2
    assert samples["rounds_total{kind=train,outcome=skipped}"] == 1
    assert samples["rounds_total{kind=adopt,outcome=committed}"] == 1
    assert samples["skipped_rounds_total{reason=replies}"] == 1
    # Round 1 took 100 s, of which its slowest plant accounts for 63; rounds 2 of r1 and 1 of r2
    # say nothing of themselves.
    phases = {
        key: value
        for key, value in samples.items()
        if key.startswith("round_phase") and "train," in key
    }
    assert phases == {
        "round_phase_seconds_total{kind=train,phase=evaluate}": 2,
        "round_phase_seconds_total{kind=train,phase=train}": 60,
        "round_phase_seconds_total{kind=train,phase=protect}": 1,
        "round_phase_seconds_total{kind=train,phase=exchange}": 37 + 60 + 100,
    }


def test_replies_are_counted_by_plant_with_a_code(busy: Centre) -> None:
    samples = busy.samples()
    assert samples["replies_total{outcome=done,plant=ash,reason=none}"] == 3
    assert samples["replies_total{outcome=rejected,plant=oak,reason=norm}"] == 1
    assert samples["replies_total{outcome=declined,plant=ash,reason=policy}"] == 1
    assert samples["replies_total{outcome=late,plant=elm,reason=late}"] == 1
    assert samples["refused_replies_total{reason=stale}"] == 2
    assert samples["refused_replies_total{reason=identity}"] == 1
    assert samples["transfer_bytes_total{direction=up,plant=ash}"] == 10 + 1 + 10 + 10
    assert samples["transfer_bytes_total{direction=down,plant=elm}"] == 60
    assert samples["plant_phase_seconds_total{phase=train,plant=elm}"] == 60


def test_the_latest_score_of_each_stage_is_told(busy: Centre) -> None:
    samples = busy.samples()
    assert samples["plant_score{metric=loss,plant=ash,stage=incoming}"] == 0.5
    assert samples["plant_score{metric=balanced_accuracy,plant=ash,stage=incoming}"] == 0.7
    assert samples["plant_score{metric=balanced_accuracy,plant=elm,stage=deployed}"] == 0.9
    assert samples["adoptions_total{decision=adopted,plant=ash}"] == 1
    assert samples["adoptions_total{decision=kept,plant=elm}"] == 1
    assert (samples["plant_adopted{plant=ash}"], samples["plant_adopted{plant=elm}"]) == (1, 0)


def test_plants_runs_and_releases_are_told(busy: Centre) -> None:
    samples = busy.samples()
    assert (samples["plants{state=enrolled}"], samples["plants{state=revoked}"]) == (2, 1)
    assert samples["plant_connected{plant=ash}"] == 1
    assert samples["plant_connected{plant=elm}"] == 0
    assert "plant_connected{plant=oak}" not in samples
    assert samples["plant_last_seen_timestamp_seconds{plant=elm}"] == NOW.timestamp() - 300
    assert samples["runs{state=running}"] == samples["runs{state=finished}"] == 1
    assert samples["run_takeovers_total"] == 2
    assert samples["run_heartbeat_timestamp_seconds"] == NOW.timestamp() - 2
    assert (samples["run_rounds"], samples["run_closed_rounds"]) == (5, 1)
    assert samples["round_started_timestamp_seconds"] == NOW.timestamp() - 60
    assert samples["release_number"] == 2
    assert samples["release_created_timestamp_seconds"] == NOW.timestamp() - 1800
    assert samples["rollbacks_total"] == 1
    assert samples["open_tokens"] == 1


def test_a_restart_tells_the_same(busy: Centre) -> None:
    before = busy.told()
    assert busy.told(busy.open()) == before


def test_postgresql_tells_the_same(busy: Centre, postgres: Any, tmp_path: Path) -> None:
    other = Centre(tmp_path / "other", postgres.new_database())
    fill(other)
    assert other.told() == busy.told()
    other.add(*(held(n, run="r2", plants={"ash": {}}) for n in range(3, 6)))
    assert other.told() == other.told(other.open())


def test_a_round_is_counted_once_and_when_it_closes(busy: Centre) -> None:
    key = "replies_total{outcome=done,plant=ash,reason=none}"
    assert busy.samples()[key] == busy.samples()[key] == 3
    row = held(2, run="r2", plants={"ash": {}})
    row.outcome = "open"
    busy.add(row)
    assert busy.samples()[key] == 3
    row = held(2, run="r2", plants={"ash": {}})
    busy.add(row)
    assert busy.samples()[key] == busy.samples(busy.open())[key] == 4
    assert "round_started_timestamp_seconds" not in busy.samples()


def test_a_backup_that_is_put_back_counts_anew(busy: Centre) -> None:
    busy.samples()
    with busy.store.writing() as session:
        for row, number in ((ReplyRow, ReplyRow.round), (RoundRow, RoundRow.number)):
            session.execute(delete(row).where(row.run == "r2", number == 1))
    assert busy.told() == busy.told(busy.open())
    assert busy.samples()["rounds_total{kind=train,outcome=committed}"] == 1


def test_many_rounds_are_read_as_few_are(bare: Centre) -> None:
    bare.add(run(state="running"), *(held(n, plants={"ash": {}}) for n in range(1, 250)))
    first = bare.samples()
    assert first["rounds_total{kind=train,outcome=committed}"] == 249
    assert first["replies_total{outcome=done,plant=ash,reason=none}"] == 249
    bare.add(*(held(n, plants={"ash": {}}) for n in range(250, 260)))
    assert bare.told() == bare.told(bare.open())


def test_what_a_plant_says_of_itself_is_bounded(bare: Centre) -> None:
    junk = {f"made-up-{n}": 1.0 for n in range(50)}
    evil = {
        "scores": {"trained": junk | {"loss": "x"}, "stage-9": junk, "incoming": 3},
        "seconds": junk,
        "reason": "the defect on part 7 of line 3",
        "outcome": "failed",
    }
    bare.add(run(state="running"), held(1, plants={"ash": evil, "elm": evil | {"outcome": "done"}}))
    text = bare.text()
    assert "made-up" not in text
    assert "stage-9" not in text
    assert "defect" not in text
    assert bare.samples()[f"replies_total{{outcome=failed,plant=ash,reason={OTHER}}}"] == 1
    assert bare.samples()[f"plant_phase_seconds_total{{phase={OTHER},plant=ash}}"] == 50


def test_plants_beyond_the_limit_are_summed(bare: Centre, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(m, "MOST_PLANTS", 2)
    names = ("ash", "elm", "fir", "oak")
    joined = [plant(name, last_seen=NOW, enrolled_at=NOW + timedelta(hours=n))
              for n, name in enumerate(names)]  # fmt: skip
    asked = {name: {"scores": {"trained": {"loss": 1.0}}} for name in names}
    bare.add(run(state="running"), *joined, held(1, plants=asked))
    samples = bare.samples()
    assert samples["transfer_bytes_total{direction=up,plant=ash}"] == 10
    assert samples[f"transfer_bytes_total{{direction=up,plant={OTHER}}}"] == 20
    assert samples["plants{state=enrolled}"] == 4
    assert not [key for key in samples if "fir" in key or "oak" in key]


def test_every_label_has_a_value_that_is_declared(busy: Centre) -> None:
    own = {"plant", "name", "process", "version"}
    for family in text_string_to_metric_families(busy.text()):
        for sample in family.samples:
            for label, value in sample.labels.items():
                assert label in own or value in (*m.VALUES[label], OTHER), (sample.name, label)


def test_every_reason_of_the_program_is_declared() -> None:
    """A code that is raised somewhere and not declared here would be counted as other."""
    source = ast.parse((ROOT / "server/admission.py").read_text())
    raised = {
        call.args[0].value
        for call in ast.walk(source)
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "Rejected"
        if isinstance(call.args[0], ast.Constant)
    }
    assert len(raised) > 8
    assert raised | ERROR_CODES <= set(m.REASONS)


@pytest.mark.parametrize(
    ("outcome", "reason", "expected"),
    [
        ("done", "", "none"),
        ("failed", "data", "data"),
        ("rejected", "norm: norm must be at most 10, got 1e9", "norm"),
        ("failed", "stopped after 60 s", OTHER),
        ("declined", "update", "update"),
        ("declined", "method must be one of fedbn, got fedper", "policy"),
        ("declined", "hours: never", "policy"),
        ("late", "no answer within 60 s", "late"),
    ],
)
def test_reasons_are_few_words(outcome: str, reason: str, expected: str) -> None:
    assert reply_reason(outcome, reason) == expected


def test_reasons_of_skipped_rounds_are_few_words() -> None:
    said = (
        "1 of 2 plants connected",
        "0 of 2 replies counted",
        "secure sum broken off at masking: at least 3 vectors must have arrived, got 2",
        "the roof fell in",
    )
    assert [skip_reason(reason) for reason in said] == ["connected", "replies", "sum", OTHER]


def test_secure_sums_tell_dropouts_liars_and_where_they_were_broken_off(bare: Centre) -> None:
    names: dict[str, dict[str, Any]] = {"ash": {}, "elm": {}, "oak": {}}
    opened = {"dropped": ["elm"], "liars": ["oak"], "clipped": 7}
    broken = {"dropped": ["elm", "oak"], "liars": [], "broken": "masking"}
    reason = "secure sum broken off at masking: too few"
    bare.add(
        run(state="running"),
        held(1, plants=names, summed=opened),
        held(2, plants=names, summed=broken, outcome="skipped", reason=reason),
        held(3, plants=names),
    )
    said = bare.samples()
    assert said["secure_sums_total{end=opened}"] == 1
    assert said["secure_sums_total{end=masking}"] == 1
    assert said["secure_sums_total{end=set-up}"] == 0
    assert said["secure_sum_dropouts_total{plant=elm}"] == 2
    assert said["secure_sum_wrong_shares_total{plant=oak}"] == 1
    assert said["secure_sum_wrong_shares_total{plant=elm}"] == 0  # the first lie is an increase
    assert said["secure_sum_clipped_values_total"] == 7
    assert said["skipped_rounds_total{reason=sum}"] == 1


def certificate(path: Path, *ends: datetime) -> None:
    path.parent.mkdir(exist_ok=True)
    text = b""
    for end in ends:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(end - timedelta(days=1))
            .not_valid_after(end)
            .sign(key, hashes.SHA256())
        )
        text += made.public_bytes(serialization.Encoding.PEM)
    path.write_bytes(text)


def test_certificates_and_processes_of_the_centre(busy: Centre) -> None:
    pki = busy.home / "pki"
    soon, late = NOW + timedelta(days=3), NOW + timedelta(days=300)
    certificate(pki / "ca.pem", late, soon)  # the first is in force
    certificate(pki / "server.pem", soon)
    busy.processes = {"superlink": metrics_status(pid=12, restarts=0),
                      "nginx": metrics_status(pid=None, restarts=4)}  # fmt: skip
    samples = busy.samples()
    name = "certificate_expiry_timestamp_seconds"
    assert samples[f"{name}{{name=ca,role=ca}}"] == late.timestamp()
    assert samples[f"{name}{{name=server,role=server}}"] == soon.timestamp()
    assert f"{name}{{name=ash,role=plant}}" in samples
    assert f"{name}{{name=oak,role=plant}}" not in samples  # revoked
    assert samples["process_up{process=superlink}"] == 1
    assert samples["process_up{process=nginx}"] == 0
    assert samples["process_restarts_total{process=nginx}"] == 4
    assert samples["disk_free_bytes"] > 0


def metrics_status(**fields: Any) -> Any:
    from common.supervise import State, Status

    return Status(state=State.RUNNING, exit=None, **fields)


def test_promtool_has_nothing_to_say(busy: Centre) -> None:
    busy.check_by_promtool()
