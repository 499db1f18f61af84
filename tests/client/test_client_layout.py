"""Modes and owners of a plant's folder, tried as another user."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from client.layout import (
    CLOSED,
    Account,
    account,
    federation_of,
    hand_over,
    keep,
    lay_out,
    open_settings,
)
from client.link.files import LINK
from common.config import FederationConfig
from common.errors import ConfigError, StateError

STRANGER = Account(uid=54321, gid=54321)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_all_but_the_passage_is_closed(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "plant"
    before = os.umask(0)
    try:
        lay_out(folder, link=None)
        keep(folder / "plant.toml", "x")
    finally:
        os.umask(before)
    assert mode(folder) == 0o711
    assert {mode(folder / name) for name in (*CLOSED, LINK)} == {0o700}
    assert mode(folder / "plant.toml") == 0o600
    (folder / "identity").chmod(0o755)
    lay_out(folder, link=None)
    assert mode(folder / "identity") == 0o700


@needs_root
def test_the_link_has_its_folder_and_no_other(passable: Path) -> None:
    folder = passable / "plant"
    lay_out(folder, link=STRANGER)
    keep(folder / "identity" / "identity.key", "secret")
    keep(folder / "link" / "link.key", "secret")
    hand_over(folder / "link", to=STRANGER)

    def may(*command: str) -> bool:
        user = {"user": STRANGER.uid, "group": STRANGER.gid, "extra_groups": []}
        return subprocess.run(command, **user, cwd="/", check=False).returncode == 0

    assert may("test", "-r", str(folder / "link" / "link.key"))
    assert not may("test", "-r", str(folder))
    assert not may("test", "-e", str(folder / "identity" / "identity.key"))
    assert not may("test", "-w", str(folder))


@needs_root
def test_handing_over_does_not_follow_links(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "file").write_text("x")
    link = tmp_path / "link"
    (link / "flwr").mkdir(parents=True)
    (link / "way").symlink_to(tmp_path / "secret")
    (link / "flwr" / "way").symlink_to(tmp_path / "others")
    hand_over(link, to=STRANGER)
    assert link.stat().st_uid == (link / "flwr").stat().st_uid == STRANGER.uid
    for path in (tmp_path / "secret", tmp_path / "others", tmp_path / "others" / "file"):
        assert path.stat().st_uid == 0


def test_users_by_name_and_number() -> None:
    assert account("54321") == STRANGER
    assert account("nobody").uid > 0
    with pytest.raises(ConfigError, match="must be a user of this machine, got 'no-such-user'"):
        account("no-such-user")
    for root in ("root", "0"):
        with pytest.raises(ConfigError, match="must not be root"):
            account(root)


def test_a_folder_without_a_plant(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"got one without plant\.toml"):
        open_settings(tmp_path)
    with pytest.raises(StateError, match="which `transferline-plant join` writes"):
        federation_of(tmp_path)


def test_the_federations_settings_come_back(joined: Callable[..., Path]) -> None:
    folder = joined()
    assert open_settings(folder).name == "ash"
    assert federation_of(folder).backbone == "shufflenet_v2_x0_5"
    (folder / "federation.json").write_text(FederationConfig().model_dump_json()[:-20])
    with pytest.raises(StateError, match="is damaged or of another version"):
        federation_of(folder)
