"""Each check: well, doubtful, failed, and what to do about it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.console import checks, fitness
from client.console.checks import Plant, State
from client.desk.ledger import Ledger
from client.desk.peers import Peers
from client.identity import signer_of
from client.joining.reach import Contact
from client.layout import account, keep
from client.link.zones import readable
from common.config import (
    CentreSection,
    FederationConfig,
    LinkSection,
    PolicySection,
    SecureAggregationConfig,
)
from common.config.series import SeriesSection
from common.errors import ConfigError

Joined = Callable[..., Path]
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC).astimezone()


def opened(folder: Path, *, now: datetime | None = None) -> Plant:
    return Plant.open(folder, now=now or datetime.now().astimezone())


def change(folder: Path, **fields: Any) -> Plant:
    """Return a plant whose federation has other settings."""
    config = opened(folder).federation.model_copy(update=fields)
    keep(folder / "federation.json", config.model_dump_json())
    return opened(folder)


def test_a_folder_without_a_plant(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be the folder of a plant"):
        opened(tmp_path)


def test_a_certificate_in_time(joined: Joined) -> None:
    found = checks.identity(opened(joined(at=datetime.now(UTC) - timedelta(hours=1))))
    assert found.state is State.OK
    assert found.says == "ash of acme, certificate valid for 30 days"


def test_a_certificate_that_should_long_be_renewed(joined: Joined) -> None:
    found = checks.identity(opened(joined(at=datetime.now(UTC) - timedelta(days=25))))
    assert (found.state, found.says[-6:]) == (State.WARN, "5 days")
    assert "see that the link reaches the centre" in found.do


def test_a_certificate_that_has_ended(joined: Joined) -> None:
    found = checks.identity(opened(joined(at=datetime.now(UTC) - timedelta(days=31))))
    assert found.state is State.FAIL
    assert "got one that ended" in found.says
    assert "join again with a new token" in found.do


def test_keys_that_are_not_as_they_should_be(joined: Joined, other_centre: Any) -> None:
    folder = joined()
    key = folder / "identity" / "identity.key"
    key.chmod(0o640)
    found = checks.identity(opened(folder))
    assert (found.state, found.do[:9]) == (State.FAIL, "chmod 600")
    key.unlink()
    assert checks.identity(opened(folder)).state is State.FAIL
    other_centre.enrol(folder, name="elm")
    found = checks.identity(opened(folder))
    assert found.state is State.FAIL
    assert "must be for ash, got elm" in found.says


def test_who_shares_the_user(joined: Joined) -> None:
    found = checks.zones(opened(joined()))
    assert found.state is State.WARN
    assert found.says.startswith("data and link share a user")
    elsewhere = joined(link=LinkSection(listen="10.0.0.1:9000"))
    found = checks.zones(opened(elsewhere))
    assert (found.state, found.says[-13:]) == (State.OK, "10.0.0.1:9000")
    unknown = joined(link=LinkSection(user="no-such-user"))
    assert checks.zones(opened(unknown)).state is State.FAIL


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_a_link_user_that_could_read_the_data(joined: Joined, passable: Path) -> None:
    images = passable / "images"
    images.mkdir()
    images.chmod(0o755)
    plant = opened(joined(link=LinkSection(user="54321"), data=str(images)))
    found = checks.zones(plant)
    assert (found.state, str(images) in found.says) == (State.FAIL, True)
    assert found.do.startswith("close it: chmod -R o-rwx")
    images.chmod(0o700)
    found = checks.zones(plant)
    if readable(Path(sys.executable), by=account("54321")):
        assert (found.state, found.says[-26:]) == (State.OK, "read neither data nor keys")
    else:
        assert (found.state, "cannot run" in found.says) == (State.FAIL, True)


def test_a_policy_that_fits(joined: Joined) -> None:
    found = checks.orders(opened(joined()))
    assert (found.state, found.do) == (State.OK, "")
    assert found.says == "fedper on shufflenet_v2_x0_5 is allowed"


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        (PolicySection(methods=("fedbn",)), "method must be one of fedbn, got fedper"),
        (PolicySection(backbones=("resnet18",)), "backbone must be one of resnet18"),
        (PolicySection(protection=("noise",)), "protection must include noise"),
    ],
)
def test_a_policy_that_declines_everything(
    joined: Joined, limits: PolicySection, says: str
) -> None:
    found = checks.orders(opened(joined(policy=limits)))
    assert found.state is State.FAIL
    assert says in found.says


def test_a_policy_that_declines_some(joined: Joined) -> None:
    limits = PolicySection(hours="22:00-06:00", minimum_cohort=3, longest_round=60.0)
    plant = opened(joined(policy=limits), now=NOON.replace(hour=12))
    found = checks.orders(plant)
    assert found.state is State.WARN
    for part in ("training waits for 22:00-06:00", "fewer than 3 plants", "stops after 60 s"):
        assert part in found.says
    night = opened(plant.folder, now=NOON.replace(hour=23))
    assert "waits" not in checks.orders(night).says


def test_room_on_the_disk(joined: Joined) -> None:
    assert checks.disk(opened(joined(policy=PolicySection(disk_free=0.0)))).state is State.OK
    found = checks.disk(opened(joined(policy=PolicySection(disk_free=1e6))))
    assert (found.state, "policy.disk_free" in found.do) == (State.FAIL, True)


@pytest.mark.parametrize(
    ("ahead", "state", "says"),
    [
        (2.0, State.OK, "agrees with the centre's"),
        (125.0, State.WARN, "0:02:05 ahead of the centre's"),
        (-1200.0, State.FAIL, "0:20:00 behind the centre's"),
        (None, State.WARN, "not compared, the centre did not say what time it is"),
    ],
)
def test_the_clock(ahead: float | None, state: State, says: str) -> None:
    found = checks.clock(Contact(address="a:1", ahead=ahead))
    assert (found.state, found.says) == (state, says)
    assert bool(found.do) == (state is not State.OK)


def test_a_centre_that_does_not_answer(joined: Joined) -> None:
    places = CentreSection(federation="acme", fleet="localhost:1", enrolment="")
    found = {one.name: one for one in checks.checks(opened(joined(centre=places)))}
    names = ["identity", "link", "policy", "sums", "disk", "clock", "fleet", "enrolment"]
    assert list(found) == names
    assert found["fleet"].state is found["enrolment"].state is State.FAIL
    assert found["fleet"].says == "localhost:1: connection refused"
    assert "must be host:port" in found["enrolment"].says


def test_sums_that_nobody_asks_for(joined: Joined) -> None:
    found = checks.sums(opened(joined()))
    assert (found.state, found.do) == (State.SKIP, "")


def test_whom_a_plant_sums_with_and_what_is_missing(joined: Joined) -> None:
    folder = joined()
    secure = SecureAggregationConfig(enabled=True)
    plant = change(folder, min_plants=3, secure_aggregation=secure)
    found = checks.sums(plant)
    assert found.state is State.FAIL
    assert found.says.startswith("sums with nobody, at least 3 plants a sum: 2 more must be accept")
    peers = Peers(ledger=Ledger(folder))
    peers.ledger.prepare()
    peers.wait("ab" * 32, "elm")
    assert "with the engineers of elm; transferline-plant peers" in checks.sums(plant).do
    peers.accept("ab" * 32)
    peers.accept("cd" * 32)
    found = checks.sums(plant)
    assert found.says.startswith("sums with cdcdcdcd, elm, at least 3 plants")
    assert (found.state, "in the clear" in found.says) == (State.WARN, True)
    demanding = replace(
        plant,
        settings=plant.settings.model_copy(
            update={"policy": PolicySection(protection=("secure-aggregation",))}
        ),
    )
    assert checks.sums(demanding).state is State.OK
    peers.wait("ef" * 32, "yew")
    found = checks.sums(demanding)
    assert (found.state, "yew turned up" in found.says) == (State.WARN, True)
    # Four are known now: of five, four must be in a sum.
    peers.accept("ef" * 32)
    peers.accept("01" * 32, name="oak")
    assert "at least 4 plants" in checks.sums(demanding).says


def test_a_plant_does_not_count_itself_twice(joined: Joined) -> None:
    folder = joined()
    plant = change(folder, min_plants=3, secure_aggregation=SecureAggregationConfig(enabled=True))
    peers = Peers(ledger=Ledger(folder))
    peers.ledger.prepare()
    own = signer_of(folder).fingerprint
    peers.accept(own, name="ash")
    assert "sums with nobody" in checks.sums(plant).says


def test_a_daemon_without_a_network_asks_nobody(joined: Joined) -> None:
    plant = opened(joined(link=LinkSection(listen="10.0.0.1:9000")))
    *_, last = checks.checks(plant)
    assert (last.name, last.state) == ("centre", State.SKIP)


def test_without_the_ca_nobody_is_asked(joined: Joined) -> None:
    folder = joined()
    (folder / "identity" / "ca.pem").unlink()
    found = {one.name: one for one in checks.checks(opened(folder))}
    assert found["identity"].state is found["fleet"].state is State.FAIL
    assert "ca.pem" in found["fleet"].says


def test_data_that_fits(joined: Joined) -> None:
    folder = joined()
    found = fitness.data(opened(folder))
    assert found.state is State.OK
    assert found.says.startswith("2 classes (dark 14, light 14)")
    assert any((folder / "cache").iterdir())


def test_files_that_cannot_be_used(joined: Joined, tmp_path: Path, small_plants: Path) -> None:
    images = tmp_path / "images"
    for name in ("dark", "light"):
        (images / name).mkdir(parents=True)
        for path in (small_plants / "ash" / name).iterdir():
            (images / name / path.name).write_bytes(path.read_bytes())
    (images / "dark" / "x.png").write_text("x")
    found = fitness.data(opened(joined(data=str(images))))
    assert found.state is State.WARN
    assert "1 file skipped, first dark/x.png: not a JPEG" in found.says
    assert found.do == f"all of it: transferline-plant check {images}"


def test_data_that_does_not_fit(joined: Joined, tmp_path: Path) -> None:
    plant = change(joined(), method="fedavg", classes=("good", "bad"))
    found = fitness.data(plant)
    assert found.state is State.FAIL
    assert found.says.endswith(
        "fedavg shares the head, for the classes good, bad; the plant has dark, light"
    )
    fits = change(plant.folder, method="fedavg", classes=("dark", "light"))
    assert fitness.data(fits).state is State.OK
    (tmp_path / "one" / "only").mkdir(parents=True)
    found = fitness.data(opened(joined(data=str(tmp_path / "one"))))
    assert found.state is State.FAIL
    assert "at least two classes" in found.says
    assert found.do == "put images into one folder a class"


def test_what_is_odd_about_series_is_told_whole(joined: Joined, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("good", "worn"):
        (tmp_path / "series" / name).mkdir(parents=True)
        recorded = {"vibration": rng.normal(size=1280), "heat": np.full(1280, 20.0)}
        np.savez(tmp_path / "series" / name / "a.npz", rate=np.float64(1000), **recorded)
    config = FederationConfig(
        name="series",
        task="series-classification",
        backbone="wdcnn",
        series=SeriesSection(
            channels=("vibration", "heat"), window=64, typical={"vibration": 700.0}
        ),
    )
    folder = joined(data=str(tmp_path / "series"))
    keep(folder / "federation.json", config.model_dump_json())
    found = fitness.data(opened(folder))
    assert found.state is State.WARN
    assert "; channel heat is constant here: the network sees 0; " in found.says
    assert "about 700: other units?" in found.says
    assert "series.rate is 0" in found.says
    assert found.do == "see that it is meant so"


def test_the_device(joined: Joined) -> None:
    import torch

    assert fitness.device(opened(joined(device="cpu"))).state is State.OK
    found = fitness.device(opened(joined(device="auto")))
    assert found.state is (State.OK if torch.cuda.is_available() else State.WARN)
    if not torch.cuda.is_available():
        missing = fitness.device(opened(joined(device="cuda")))
        assert (missing.state, missing.do) == (State.FAIL, "use auto or cpu")


def test_how_long_something_lasts() -> None:
    spans = {
        timedelta(days=29, hours=23): "30 days",
        timedelta(hours=30): "30 h",
        timedelta(minutes=90): "90 min",
        timedelta(seconds=61): "61 s",
        timedelta(hours=5, minutes=40): "6 h",
        -timedelta(1): "0 s",
    }
    assert [checks.lasting(span) for span in spans] == list(spans.values())


def test_a_federation_that_was_not_told(joined: Joined) -> None:
    folder = joined()
    assert opened(folder).federation == FederationConfig.model_validate_json(
        (folder / "federation.json").read_bytes()
    )
