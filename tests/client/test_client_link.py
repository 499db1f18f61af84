"""The link with stand-ins for flower-supernode, which is tried for real in tests/e2e."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from client.daemon import Daemon
from client.joining.enrolment import join
from client.layout import Account
from client.link import link as linked
from client.link import presence
from client.link.files import LinkStatus, hand_settings, read_settings, read_status, write_status
from client.link.link import Link, link_folder, link_program, renew
from common.config import PlantConfig
from common.errors import ConfigError, EngineError, IdentityError, StateError
from common.pki import Trust, read_certificate
from tests.enrolment import running
from tests.other_user import ROOT, UID, needs_root

CENTRE = {"federation": "acme", "fleet": "127.0.0.1:1", "enrolment": "127.0.0.1:1"}
PLANT = PlantConfig.model_validate({"name": "ash", "data": "data", "centre": CENTRE})

#: Says what the real one says; how it goes on is told by files beside the log.
STAND_IN = """#!/bin/sh
cd "$FLWR_HOME/.."
echo $$ > pid
echo start >> starts
env > environment
if [ -e cut-off ]; then
    echo '[code: 2004] Failed to activate SuperNode.'
    exit 1
fi
echo 'INFO :      SuperNode ID: 42'
while [ ! -e cut-off ]; do sleep 0.05; done
exit 0
"""


#: Without the one that stands in for Flower's.
OURS = {"flwr-clientapp": "client.link.entry"}


def until(condition: Callable[[], object], *, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a link, with a SuperNode that is quick."""
    monkeypatch.setattr("client.link.supernode.FIRST", 0.1)
    monkeypatch.setattr("client.link.supernode.SCRIPTS", OURS)
    monkeypatch.setattr(linked, "LOOK", 0.05)
    link = tmp_path / "link"
    (link / "bin").mkdir(parents=True)
    for name, text in (("link.key", "key"), ("ca.pem", "ca"), ("bin/flower-supernode", STAND_IN)):
        (link / name).write_text(text)
    (link / "bin/flower-supernode").chmod(0o700)
    hand_settings(tmp_path, PLANT, link=None)
    return link


@contextmanager
def run(link: Link) -> Iterator[Link]:
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(link.run)
        try:
            yield link
        finally:
            link.stop()
            future.result(20)


def state(folder: Path) -> str:
    status = read_status(folder.parent)
    return status.state if status else ""


def starts(folder: Path) -> int:
    path = folder / "starts"
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_it_connects_says_so_and_stops(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="client.link.link")
    with run(Link(folder)):
        until(lambda: state(folder) == "connected")
        status = read_status(folder.parent)
        assert status is not None
        assert (status.node, status.restarts) == ("42", 0)
        until(lambda: (folder / "environment").exists())
    assert "FLWR_TELEMETRY_ENABLED=0" in (folder / "environment").read_text()
    assert (folder / "bin/flwr-clientapp").exists()
    assert "ash: connected to 127.0.0.1:1" in caplog.text


def test_a_cut_off_link_rests_until_its_key_is_another(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="client.link.link")
    with run(Link(folder)):
        until(lambda: state(folder) == "connected")
        (folder / "cut-off").touch()
        until(lambda: state(folder) == "revoked")
        before = starts(folder)
        time.sleep(0.6)
        assert starts(folder) == before  # the longest delay would have been over
        (folder / "cut-off").unlink()
        (folder / "link.key").write_text("another")
        until(lambda: state(folder) == "connected")
        assert starts(folder) == before + 1
    assert caplog.text.count("this plant is revoked") == 1


def test_a_cut_off_link_is_tried_now_and_then(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linked, "AGAIN", 1.0)
    with run(Link(folder)):
        until(lambda: state(folder) == "connected")
        (folder / "cut-off").touch()
        until(lambda: state(folder) == "revoked")
        before = starts(folder)
        until(lambda: starts(folder) > before)
        time.sleep(0.3)
        assert state(folder) == "revoked"
        (folder / "cut-off").unlink()
        until(lambda: state(folder) == "connected")


def test_a_killed_supernode_is_signed_off_before_the_next(folder: Path) -> None:
    with run(Link(folder)):
        until(lambda: state(folder) == "connected")
        until(lambda: (folder / "pid").exists())
        os.kill(int((folder / "pid").read_text()), signal.SIGKILL)
        until(lambda: starts(folder) == 2)
        until(lambda: state(folder) == "connected")
    assert "node 42 is not signed off: " in (folder / "supernode.log").read_text()  # nobody there
    assert state(folder) == "stopped"


def test_a_killed_link_signs_its_node_off_when_it_is_back(folder: Path) -> None:
    write_status(folder, LinkStatus(state="connected", since="", node="42"))
    with run(Link(folder)):
        until(lambda: starts(folder) == 1)
    assert "node 42 is not signed off: " in (folder / "supernode.log").read_text()


def test_it_signs_off_while_the_daemon_is_silent_and_comes_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = False

    class Daemon:
        def __init__(self, address: str, *, folder: Path) -> None: ...
        def __enter__(self) -> Daemon:
            return self

        def __exit__(self, *error: object) -> None: ...
        def describe(self) -> None:
            if not answers:
                raise EngineError("daemon must be running")

    monkeypatch.setattr(presence, "PlantClient", Daemon)
    monkeypatch.setattr(presence, "PERIOD", 0.05)
    monkeypatch.setattr(presence, "SILENT", 1.0)
    with run(Link(folder)):
        until(lambda: state(folder) == "connected")
        until(lambda: state(folder) == "without daemon")
        before = starts(folder)
        time.sleep(0.5)
        assert starts(folder) == before
        answers = True
        until(lambda: state(folder) == "connected")
        assert starts(folder) == before + 1


def test_another_ca_starts_it_anew(folder: Path) -> None:
    with run(Link(folder)):
        until(lambda: state(folder) == "connected")
        (folder / "ca.pem").write_text("both")
        until(lambda: starts(folder) == 2)
        until(lambda: state(folder) == "connected")


def test_sigterm_ends_the_link_and_all_below_it(folder: Path) -> None:
    with subprocess.Popen(
        [
            *(sys.executable, "-W", "ignore", "-c"),
            "import sys; from client.link import link, supernode; "
            f"supernode.SCRIPTS = {OURS}; sys.exit(link.main(sys.argv[1:]))",
            str(folder.parent),
        ],
        env={"PATH": os.defpath, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        until(lambda: state(folder) == "connected")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert "ash: link to 127.0.0.1:1 stopped" in process.stderr.read()


def test_a_folder_that_is_none_is_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert linked.main([str(tmp_path)]) == 1
    assert "must be a plant's folder or its link/" in caplog.text


def test_settings_come_from_plant_toml(tmp_path: Path) -> None:
    hand_settings(tmp_path, PLANT, link=None)
    settings = read_settings(link_folder(tmp_path))
    assert settings == read_settings(link_folder(tmp_path / "link"))
    assert (settings.plant, settings.fleet) == ("ash", "127.0.0.1:1")
    assert settings.daemon == f"unix:{tmp_path}/link/plant.sock"
    assert (tmp_path / "link/link.json").stat().st_mode & 0o777 == 0o600
    tcp = PLANT.model_copy(update={"link": PLANT.link.model_copy(update={"listen": "h:9000"})})
    hand_settings(tmp_path, tcp, link=None)
    assert read_settings(tmp_path / "link").daemon == "h:9000"


def test_what_is_missing_or_damaged_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="join a federation"):
        hand_settings(tmp_path, PlantConfig(name="ash", data="d"), link=None)
    with pytest.raises(StateError, match="writes it at the plant"):
        read_settings(tmp_path)
    for text in ("", "[]", "{}", '{"plant": 1}'):
        (tmp_path / "link.json").write_text(text)
        with pytest.raises(StateError, match=r"is damaged; start"):
            read_settings(tmp_path)


def test_a_status_is_believed_no_further_than_it_goes(tmp_path: Path) -> None:
    (tmp_path / "link").mkdir()
    path = tmp_path / "link" / "status.json"
    assert read_status(tmp_path) is None
    status = LinkStatus(state="connected", since="2026-01-01T00:00:00+00:00", node="7", restarts=3)
    write_status(tmp_path / "link", status)
    assert read_status(tmp_path) == status
    for text in ("", "7", '{"state": "connected"}', "x" * 100_000, '{"restarts": "many"}'):
        path.write_text(text)
        assert read_status(tmp_path) is None
    path.write_text(json.dumps({"state": "x" * 999, "since": [], "node": "", "restarts": 0}))
    said = read_status(tmp_path)
    assert said is not None
    assert len(said.state) == 20
    path.unlink()
    (tmp_path / "secret").write_text(json.dumps({"state": "s", "since": "", "node": "",
                                                 "restarts": 0}))  # fmt: skip
    path.symlink_to(tmp_path / "secret")
    assert read_status(tmp_path) is None
    path.unlink()
    os.mkfifo(path)  # would block whoever reads it
    assert read_status(tmp_path) is None


@needs_root
def test_up_starts_it_as_its_user_with_a_clean_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "hidden")
    monkeypatch.setattr(linked, "_check_python", lambda link, env: None)
    program = link_program(tmp_path, PLANT, link=Account(uid=UID, gid=UID))
    assert (program.user, program.group) == (UID, UID)
    assert "SECRET" not in program.env
    path = tmp_path / "link/link.json"
    assert (path.stat().st_uid, path.stat().st_gid) == (UID, UID)


@needs_root
def test_an_installation_that_the_user_cannot_run_is_told_before_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "closed" / "python"
    python.parent.mkdir(mode=0o700)
    shutil.copy("/bin/true", python)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(EngineError, match=r"must be able to run .*Permission denied.*/opt"):
        link_program(tmp_path, PLANT, link=Account(uid=UID, gid=UID))


@contextmanager
def daemon(folder: Path, *, ahead: timedelta) -> Iterator[str]:
    """Run the real daemon of a joined plant in a thread; yield its address."""
    here: list[str] = []
    up = Daemon(folder, now=lambda: datetime.now(UTC) + ahead, ready=here.append)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(up.run)
        try:
            until(lambda: here or future.done())
            yield here[0]
        finally:
            up.stop()
            future.result(30)


def test_a_certificate_is_carried_over_and_back_and_a_new_ca_with_it() -> None:
    """Twenty days after joining, when a third of the certificate's time is left."""
    later = timedelta(days=21)
    with (
        tempfile.TemporaryDirectory(prefix="tl-") as top,  # a socket's path is short
        running(Path(top) / "centre") as centre,
    ):
        folder = Path(top) / "plant"
        joined = join(centre.invite(), folder)
        (Path(top) / "data").mkdir()
        (folder / "plant.toml").write_text(
            f'name = "ash"\ndata = "{top}/data"\n[centre]\nfleet = "{joined.fleet}"\n'
            f'enrolment = "{joined.enrolment}"\n'
        )
        old = read_certificate((folder / "identity/identity.pem").read_text())
        rotated = centre.authority.rotate()
        centre.certify(rotated)
        centre.clock.ahead = later
        link = folder / "link"
        with daemon(folder, ahead=later) as address:
            assert renew(link, address=address, enrolment_address=centre.address)
            assert set(Trust.of(link / "ca.pem").fingerprints) == set(
                Trust.of(rotated.pem).fingerprints
            )
            rotated.retire()  # until it hears of that, the plant asks on
            assert renew(link, address=address, enrolment_address=centre.address)
            assert not renew(link, address=address, enrolment_address=centre.address)
            centre.registry.revoke("ash", reason="sold")
        with (
            daemon(folder, ahead=2 * later) as address,
            pytest.raises(IdentityError, match="readmit"),
        ):
            renew(link, address=address, enrolment_address=centre.address)
        fresh = read_certificate((folder / "identity/identity.pem").read_text())
        assert fresh.not_after > old.not_after + timedelta(days=20)
        assert fresh.fingerprint == old.fingerprint
        pinned = Trust.of(link / "ca.pem").fingerprints
        assert pinned == Trust.of(rotated.pem).fingerprints[:1]
