"""Tokens, certificates, replays, and things that must be there only once."""

from __future__ import annotations

import json
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from client.desk.outbox import KEPT
from common.pki import Authority, Role, load_identity
from common.token import Token
from tests.e2e.harness import Centre, Plant, wait_connected
from tests.e2e.moments import at, round_closed
from tests.e2e.processes import environment
from tests.e2e.scene import Case, Scene

RECORDER = Path(__file__).with_name("recording_plant.py")


def last(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1].strip()[:200] if lines else ""


def refused_join(scene: Scene, token: str) -> str:
    """Try to join with a token and return the exit code and what was said."""
    thief = Plant(scene.root / f"thief-{time.monotonic_ns()}", centre=None)
    done = thief.try_command(
        *("join", "--token", token, "--data", str(scene.root / "data/ash")),
        *("--dir", str(thief.folder)),
    )
    assert "Traceback" not in done.stderr, done.stderr
    return f"{done.returncode}: {last(done.stderr)}"


def forged(token: str) -> str:
    """Return the token with a secret of our own, and otherwise whole."""
    return replace(Token.parse(token), secret=secrets.token_urlsafe(32)).text()


def expired(scene: Scene) -> str:
    token = scene.centre.invite("gum", "--valid", "1m")
    time.sleep(61)
    return refused_join(scene, token)


def used_after_restart(scene: Scene) -> str:
    centre = scene.centre
    centre.kill("daemon")
    centre.up()
    return refused_join(scene, scene.plant.token)


def with_certificate(scene: Scene, make: Callable[[Plant, Path], None]) -> str:
    """Start the plant with another certificate, and say what it says; then put its own back."""
    plant, folder = scene.plant, scene.plant.folder / "identity"
    plant.stop()
    backup = scene.root / "identity.backup"
    shutil.rmtree(backup, ignore_errors=True)
    shutil.copytree(folder, backup)
    since = len(plant.output())
    make(plant, folder)
    plant.start()
    end = time.monotonic() + 60
    while plant.is_up() and time.monotonic() < end:
        time.sleep(0.5)
    said = last(plant.output()[since:])
    if plant.is_up():
        said = f"still up: {said}"
        plant.stop()
    shutil.rmtree(folder)
    shutil.copytree(backup, folder)
    plant.start()
    return said


def ended_certificate(centre: Centre) -> Callable[[Plant, Path], None]:
    """Return what gives a plant a certificate of the centre's that ended a month ago."""

    def make(plant: Plant, folder: Path) -> None:
        key = load_identity(folder / "identity.key").public_key()
        at = datetime.now(UTC) - timedelta(days=60)
        pem = Authority.open(centre.folder / "pki").issue(
            key, name=plant.folder.name, role=Role.PLANT, days=30, at=at
        )
        (folder / "identity.pem").write_text(pem)

    return make


def foreign_certificate(plant: Plant, folder: Path) -> None:
    """Give a plant a certificate of another federation's CA, for its own key and name."""
    other = Authority.create(folder.parent.parent / "other-pki", federation="other")
    key = load_identity(folder / "identity.key").public_key()
    pem = other.issue(key, name=plant.folder.name, role=Role.PLANT, days=30)
    (folder / "identity.pem").write_text(pem)


def handed_in(scene: Scene, number: int) -> str:
    """Hand in what the link brought in a round, byte for byte; say what comes of it."""
    plant = scene.plant
    socket_ = plant.folder / "link/plant.sock"
    arguments = ["again", str(plant.folder), f"{scene.run}-{number}", str(socket_)]
    done = subprocess.run(
        [sys.executable, str(RECORDER), *arguments],
        capture_output=True, text=True, env=environment(), timeout=400, check=False,
    )  # fmt: skip
    return last(done.stdout) or last(done.stderr)


def twice(scene: Scene, number: int) -> str:
    """Hand recorded bytes in, kill the daemon, and hand them in again."""
    before = handed_in(scene, number)
    scene.plant.kill("daemon")
    scene.plant.start()
    return f"{before}; after a restart: {handed_in(scene, number)}"


def replayed(scene: Scene) -> str:
    """Record the order of a round and its reply on their way, and hand the order in again."""
    plant = scene.plant
    if str(RECORDER) not in plant.program:
        plant.stop()
        plant.program = [sys.executable, str(RECORDER)]
        plant.start()
        wait_connected(scene.centre, sorted(scene.plants))
        scene.next_round()
    scene.close(scene.round)
    return twice(scene, scene.round)


def replayed_late(scene: Scene) -> str:
    """Do it with the oldest recorded order, once the outbox has forgotten its answer."""
    folders = (scene.plant.folder / "recorded").glob(f"{scene.run}-*")
    oldest = min(int(path.name.rpartition("-")[2]) for path in folders)
    at(round_closed(scene.centre, scene.run, oldest + KEPT + 1), what="later rounds")
    return twice(scene, oldest)


def second_daemon(scene: Scene) -> str:
    done = scene.plant.try_command("up", str(scene.plant.folder))
    return f"{done.returncode}: {last(done.stderr)}"


def port_in_use(scene: Scene) -> str:
    """Take the enrolment's port while the centre is down."""
    centre = scene.centre
    centre.stop()
    host, _, port = centre.enrolment.rpartition(":")
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((host, int(port)))
        taken.listen()
        done = centre.try_command("up", str(centre.folder))
    centre.up()
    return f"{done.returncode}: {last(done.stderr or done.stdout)}"


def cut_log(scene: Scene) -> str:
    """Say whether the centre's log still verifies after all that."""
    done = scene.centre.try_command("log", str(scene.centre.folder), "verify")
    return f"{done.returncode}: {last(done.stdout)}"


def back(scene: Scene) -> str:
    wait_connected(scene.centre, sorted(scene.plants))
    return json.dumps(scene.centre.connected())


def alone(name: str, inject: Callable[[Scene], str], expect: str) -> Case:
    return Case(name, inject, expect=expect, alone=True)


CASES = [
    alone("a used token", lambda s: refused_join(s, s.plant.token), "^1: .*token"),
    alone("a used token, centre killed before", used_after_restart, "^1: .*token"),
    alone("an expired token", expired, "^1: .*token"),
    alone("a forged token", lambda s: refused_join(s, forged(s.centre.invite("fig"))), "^1: "),
    alone("a plant whose own certificate has ended (its daemon does not start)",
          lambda s: with_certificate(s, ended_certificate(s.centre)), "error: .*(ended|valid)"),
    alone("a plant with a certificate of another CA (its daemon does not start)",
          lambda s: with_certificate(s, foreign_certificate), "error: .*(CA|issue|sign)"),
    alone("all plants are back", back, "oak"),
    Case("a recorded order of the last round again", replayed,
         expect="^done, the same bytes; after a restart: done, the same bytes; committed, 3 of 3"),
    alone("a recorded order of an earlier round again", replayed_late, "^declined.*: declined"),
    alone("a second daemon in a plant's folder", second_daemon, "^1: "),
    alone("the enrolment's port is in use", port_in_use, "^1: .*enrolment"),
    alone("the centre's log verifies", cut_log, "^0: "),
]  # fmt: skip
