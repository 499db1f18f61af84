"""Joining at a real enrolment service over TLS, and what is left where it fails."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from client.joining.joining import Entry, join, join_again
from client.layout import federation_of, open_settings
from common.config import CentreConfig, FederationConfig
from common.errors import ConfigError, DataError, EngineError, IdentityError
from common.pki import Authority, fingerprint
from common.token import Token
from server.enrolment import Enrolment, serve
from server.state.registry import Registry
from server.state.store import Store


@dataclass(kw_only=True)
class Door:
    """An enrolment service."""

    registry: Registry
    pki: Path
    task: str
    port: int = 0
    keys: list[str] = field(default_factory=list)
    server: Any = None

    def register(self, key: str) -> int:
        self.keys.append(key)
        return len(self.keys)

    def open(self, *, task: str | None = None) -> None:
        centre = CentreConfig(name="acme", address="edge.example:8443", enrolment="localhost:1")
        service = Enrolment(
            self.registry,
            pki=self.pki,
            centre=centre,
            task=lambda: self.task if task is None else task,
            register=self.register,
        )
        self.server, self.port = serve(service, address=f"127.0.0.1:{self.port}", pki=self.pki)

    def close(self) -> None:
        self.server.stop(None).wait()

    def token(self, plant: str = "ash", *, readmit: bool = False) -> Token:
        secret = self.registry.invite(plant, valid=timedelta(hours=1), readmit=readmit)
        authority = fingerprint(Authority.open(self.pki).pem)
        return Token(
            secret=secret,
            authority=authority,
            plant=plant,
            address=f"localhost:{self.port}",
            expires=self.registry.invitations()[0].expires,
        )

    def is_open(self, token: Token) -> bool:
        return token.plant in [row.plant for row in self.registry.invitations()]


@pytest.fixture
def door(tmp_path: Path, small_config: FederationConfig) -> Iterator[Door]:
    pki = tmp_path / "pki"
    authority = Authority.create(pki, federation="acme")
    key, chain = authority.issue_tls(["localhost"], days=30)
    (pki / "server.key").write_text(key)
    (pki / "server.pem").write_text(chain)
    store = Store(tmp_path / "centre")
    found = Door(registry=Registry(store), pki=pki, task=small_config.model_dump_json())
    found.open()
    yield found
    found.close()


@pytest.fixture
def entry(small_plants: Path, tmp_path: Path) -> Callable[..., Entry]:
    """Return ``entry(token, **fields)``."""

    def make(token: Token, **fields: Any) -> Entry:
        told: dict[str, Any] = {"folder": tmp_path / "plant", "data": small_plants / "ash"}
        return Entry(token=token, **(told | fields))

    return make


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_from_a_token_to_a_plant(
    door: Door, entry: Callable[..., Entry], small_config: FederationConfig, small_plants: Path
) -> None:
    wanted = entry(door.token(), good="light")
    counted: list[tuple[int, int]] = []
    found = join(wanted, progress=lambda *step: counted.append(step))
    folder = wanted.folder
    assert counted[-1] == (28, 28)
    settings = open_settings(folder)
    assert settings == found.settings
    assert (settings.name, settings.good) == ("ash", "light")
    assert settings.data == str(small_plants / "ash")
    assert settings.centre.model_dump() == {
        "federation": "acme",
        "fleet": "edge.example:8443",
        "enrolment": f"localhost:{door.port}",
    }
    assert federation_of(folder) == found.federation == small_config
    assert mode(folder) == 0o711
    for name in ("plant.toml", "federation.json", "identity/identity.key", "link/link.key"):
        assert mode(folder / name) == 0o600
    assert (folder / "link" / "link.json").exists()
    assert "# The plant's name in reports." in (folder / "plant.toml").read_text()
    assert door.registry.plant("ash").link_key == door.keys[0]


def test_the_same_folder_twice(door: Door, entry: Callable[..., Entry]) -> None:
    wanted = entry(door.token())
    join(wanted)
    before = (wanted.folder / "plant.toml").read_bytes()
    with pytest.raises(ConfigError, match="it holds a plant already"):
        join(entry(door.token("elm")))
    assert (wanted.folder / "plant.toml").read_bytes() == before
    assert "elm" in [row.plant for row in door.registry.invitations()]


def test_data_that_cannot_train_costs_no_token(
    door: Door, entry: Callable[..., Entry], tmp_path: Path
) -> None:
    token = door.token()
    (tmp_path / "one" / "good").mkdir(parents=True)
    for data, says in ((tmp_path / "one", "must hold image files"), (tmp_path / "no", "exist")):
        with pytest.raises(DataError, match=says):
            join(entry(token, data=data))
    (tmp_path / "one" / "bad").mkdir()
    for name in ("good", "bad"):
        (tmp_path / "one" / name / "0.png").write_text("no image")
    with pytest.raises(DataError, match="usable images"):
        join(entry(token, data=tmp_path / "one"))
    with pytest.raises(ConfigError, match="good must be one of the classes"):
        join(entry(token, good="fine"))
    with pytest.raises(ConfigError, match="data must be given"):
        join(entry(token, data=None))
    assert not (tmp_path / "plant").exists()
    assert door.is_open(token)
    join(entry(token))


def test_a_folder_among_the_images(door: Door, entry: Callable[..., Entry]) -> None:
    wanted = entry(door.token())
    assert wanted.data is not None
    with pytest.raises(ConfigError, match="must lie outside the data"):
        join(entry(wanted.token, folder=wanted.data / "plant"))
    assert not (wanted.data / "plant").exists()


def test_a_table_beside_the_images_does_not_hide_them(
    door: Door, entry: Callable[..., Entry], small_plants: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(small_plants / "ash", tmp_path / "data")
    (data / "labels.csv").write_text("file,label\n1.png,good\n")
    broken = sorted(path for path in data.iterdir() if path.is_dir())[0]
    for image in broken.iterdir():
        image.write_text("no image")
    token = door.token()
    with pytest.raises(DataError, match="usable images"):
        join(entry(token, data=data))
    assert door.is_open(token)


def test_a_centre_that_is_down_costs_no_token(door: Door, entry: Callable[..., Entry]) -> None:
    wanted = entry(door.token())
    door.close()
    with pytest.raises(EngineError, match=r"must answer.*try again"):
        join(wanted, progress=lambda done, count: pytest.fail("images were read"))
    assert not wanted.folder.exists()
    door.open()
    assert door.is_open(wanted.token)
    join(wanted)
    assert open_settings(wanted.folder).name == "ash"
    assert len(door.keys) == 1


def test_a_token_that_was_used(door: Door, entry: Callable[..., Entry], tmp_path: Path) -> None:
    token = door.token()
    join(entry(token))
    with pytest.raises(IdentityError, match="ask the operator for a new one"):
        join(entry(token, folder=tmp_path / "second"))
    assert not (tmp_path / "second" / "plant.toml").exists()


def test_a_token_that_has_ended_is_told_before_data_are_read(
    door: Door, entry: Callable[..., Entry], tmp_path: Path
) -> None:
    token = replace(door.token(), expires=datetime.now(UTC) - timedelta(minutes=30))
    with pytest.raises(
        IdentityError, match=r"it ended at .* UTC .*; ask the operator for a new inv"
    ):
        join(entry(token, data=tmp_path / "no such folder"))
    assert not (tmp_path / "plant").exists()


def test_a_refused_join_is_not_in_the_way_of_the_next(
    door: Door, entry: Callable[..., Entry], tmp_path: Path
) -> None:
    """Also not of one under another name: what the first one left gives way."""
    token = door.token()
    door.registry.revoke("ash", reason="withdrawn")
    with pytest.raises(IdentityError, match="the centre refused it; ask the operator for a new"):
        join(entry(token))
    join(entry(door.token("elm")))
    assert open_settings(tmp_path / "plant").name == "elm"
    assert not (tmp_path / "plant" / "identity" / "joining").exists()


def test_killed_after_the_token_was_used(
    door: Door, entry: Callable[..., Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = entry(door.token())

    def kill(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("client.joining.joining.keep", kill)
        with pytest.raises(KeyboardInterrupt):
            join(wanted)
    assert not door.is_open(wanted.token)
    assert join(wanted).settings.name == "ash"
    assert len(door.keys) == 1


def test_settings_of_another_version(door: Door, entry: Callable[..., Entry]) -> None:
    wanted = entry(door.token())
    door.close()
    door.open(task='{"colour": "red"}')
    with pytest.raises(ConfigError, match="federation's colour must be known to this version"):
        join(wanted)
    assert not (wanted.folder / "plant.toml").exists()


def test_a_readmitted_plant_gets_new_keys_and_keeps_the_rest(
    door: Door, entry: Callable[..., Entry]
) -> None:
    wanted = entry(door.token())
    join(wanted)
    folder = wanted.folder
    (folder / "personal" / "deployed.json").write_text("kept")
    text = (folder / "plant.toml").read_text().replace('good = ""', 'good = "dark"')
    (folder / "plant.toml").write_text(text.replace("edge.example", "old.example"))
    keys = [(folder / name).read_bytes() for name in ("identity/identity.key", "link/link.key")]
    door.registry.revoke("ash", reason="laptop lost")
    again = Entry(token=door.token(readmit=True), folder=folder, data=None)
    found = join_again(again)
    assert found.moved == {"fleet": "edge.example:8443"}
    assert open_settings(folder).good == "dark"
    assert (folder / "personal" / "deployed.json").read_text() == "kept"
    fresh = [(folder / name).read_bytes() for name in ("identity/identity.key", "link/link.key")]
    assert not set(keys) & set(fresh)
    assert door.registry.plant("ash").state == "enrolled"


def test_joining_again_needs_a_plant(door: Door, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be the folder of a plant"):
        join_again(Entry(token=door.token(), folder=tmp_path / "new", data=None))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_the_link_is_handed_to_its_user(door: Door, entry: Callable[..., Entry]) -> None:
    wanted = entry(door.token(), link_user="54321")
    join(wanted)
    link = wanted.folder / "link"
    owners = {path.stat().st_uid for path in (link, *link.rglob("*"))}
    assert owners == {54321}
    for name in ("identity", "identity/identity.key", "plant.toml", "personal"):
        assert (wanted.folder / name).stat().st_uid == 0
    assert open_settings(wanted.folder).link.user == "54321"


def test_a_link_user_must_be_one(door: Door, entry: Callable[..., Entry]) -> None:
    token = door.token()
    with pytest.raises(ConfigError, match="must be a user of this machine"):
        join(entry(token, link_user="no-such-user"))
    assert door.is_open(token)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_without_root(door: Door, entry: Callable[..., Entry], passable: Path) -> None:
    token = door.token()
    closed = passable / "closed"
    closed.mkdir(mode=0o700)
    os.seteuid(54321)
    try:
        with pytest.raises(ConfigError, match="needs root to hand"):
            join(entry(token, folder=passable / "plant", link_user="54322"))
        with pytest.raises(ConfigError, match="cannot be looked into: Permission denied"):
            join(entry(token, folder=closed / "plant"))
    finally:
        os.seteuid(0)
    assert door.is_open(token)
