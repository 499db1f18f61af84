"""What the link's user can reach, tried as that user."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from client.layout import Account, account, keep, lay_out
from client.link.zones import exposed, readable
from common.errors import EngineError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")

STRANGER = Account(uid=54321, gid=54321)


@pytest.fixture
def plant(passable: Path) -> Path:
    folder = passable / "plant"
    lay_out(folder, link=STRANGER)
    for name in ("plant.toml", "identity/identity.key", "personal/deployed.json", "ledger.db"):
        keep(folder / name, "secret")
    return folder


@pytest.fixture
def data(passable: Path) -> Path:
    folder = passable / "data"
    (folder / "good").mkdir(parents=True)
    (folder / "good" / "0.png").write_text("x")
    folder.chmod(0o700)
    return folder


def seen(plant: Path, data: Path) -> list[str]:
    return [path.name for path in exposed(plant, data=data, link=STRANGER)]


def test_a_plant_as_it_is_laid_out_is_closed(plant: Path, data: Path) -> None:
    assert seen(plant, data) == []


@pytest.mark.parametrize("name", ["plant.toml", "ledger.db", "personal"])
def test_what_was_opened_is_found(plant: Path, data: Path, name: str) -> None:
    (plant / name).chmod(0o755)
    assert name in seen(plant, data)


def test_data_that_everybody_can_read_is_found(plant: Path, data: Path) -> None:
    data.chmod(0o755)
    assert seen(plant, data)[:2] == ["data", "good"]
    (data / "good").chmod(0o700)
    data.chmod(0o711)
    assert seen(plant, data) == []


def test_a_group_counts(plant: Path, data: Path) -> None:
    os.chown(data, 0, STRANGER.gid)
    data.chmod(0o750)
    assert "data" in seen(plant, data)


def test_further_groups_of_a_user_count(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = account("nobody")
    monkeypatch.setattr(os, "getgrouplist", lambda name, group: [group, 60001])
    os.chown(data, 0, 60001)
    data.chmod(0o750)
    assert readable(data, by=nobody)
    data.chmod(0o710)
    assert not readable(data, by=nobody)


def test_without_root_nothing_is_claimed(passable: Path) -> None:
    os.seteuid(STRANGER.uid)
    try:
        with pytest.raises(EngineError, match=r"cannot act as user 12345.*start as root"):
            readable(passable, by=Account(uid=12345, gid=12345))
    finally:
        os.seteuid(0)
