"""What the engineer types, and what comes back: text, JSON, exit codes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from client.cli import app
from client.desk.ledger import Ledger
from client.desk.peers import Peers
from client.personal import PersonalStore
from common.config import LinkSection
from common.errors import ConfigError, DataError, IdentityError, StateError
from tests.other_user import ROOT, UID, needs_root

Joined = Callable[..., Path]


@pytest.fixture
def plant(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("good", "scratch [deep]"):
        (tmp_path / name).mkdir()
        for number in range(20):
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    (tmp_path / "good" / "note.jpg").write_text("not an image")
    return tmp_path


def call(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["check", *arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def test_what_a_plant_holds(plant: Path) -> None:
    text = call(str(plant), "--good", "good", "--image-size", "32")
    lines = [line.split() for line in text.splitlines()]
    assert ["good", "(good)", "12", "4", "4"] in lines
    assert ["all", "24", "8", "8"] in lines
    assert "scratch [deep]" in text
    assert "skipped: good/note.jpg: not a JPEG, PNG, BMP or TIFF image" in text


@pytest.fixture
def orders(tmp_path: Path) -> Path:
    """Return a folder of work orders, one of which is empty."""
    rows = ["what;system", ";motor"]
    rows += [f"{thing} {number} leaks;{thing}" for thing in ("pump", "hose") for number in range(9)]
    (tmp_path / "plant").mkdir()
    (tmp_path / "plant" / "orders.csv").write_text("\n".join(rows))
    return tmp_path / "plant"


def test_data_of_another_kind_is_read_by_its_task_and_settings(orders: Path) -> None:
    with pytest.raises(ConfigError, match=r"give --task .*text-classification"):
        call(str(orders))
    with pytest.raises(DataError, match=r"must have the columns text and label, got what, system"):
        call(str(orders), "--task", "text-classification")
    settings = orders.parent / "federation.toml"
    settings.write_text(
        'task = "text-classification"\n[text]\ntext = "what"\nlabel = "nothing"\n'
        '[plants.plant.text]\nlabel = "system"\n'
    )
    text = call(str(orders), "--federation", str(settings))
    assert "skipped: orders.csv:2: empty text" in text
    assert ["pump", "5", "2", "2"] in [line.split() for line in text.splitlines()]
    with pytest.raises(ConfigError, match="image_size must be left out"):
        call(str(orders), "--federation", str(settings), "--image-size", "64")
    with pytest.raises(ConfigError, match=r"^check: task must be one of "):
        call(str(orders), "--task", "words")


def test_as_json(plant: Path) -> None:
    facts = json.loads(call(str(plant), "--labels-per-class", "4", "--json"))
    good = facts["classes"]["good"]
    assert good["train"] + good["validation"] == 4
    assert facts["skipped"][0]["file"] == "good/note.jpg"


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="folder must exist"):
        call(str(tmp_path / "nothing"))


def test_wrong_usage_exits_with_2(plant: Path) -> None:
    assert CliRunner().invoke(app, ["check", str(plant), "--image-size", "8"]).exit_code == 2


def type_in(*arguments: object, code: int = 0) -> Result:
    """Run a command in this process; an error of the user's is raised as it is."""
    done = CliRunner().invoke(app, [str(one) for one in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == code, done.output
    return done


@pytest.fixture
def used(joined: Joined) -> Path:
    """Return a plant's folder with two models, the newer deployed, and an answer on record."""
    folder = joined()
    store = PersonalStore(folder / "personal")
    tensors = {"head.bias": np.zeros(2, np.float32)}
    for kind, run, number in (("local", "", 0), ("round", "run-1", 1), ("federated", "run-1", 2)):
        store.add(tensors, kind=kind, run=run, round=number, basis=kind, scores={"loss": 0.1})
    store.deploy(store.version(3), why="adopted")
    return folder


@pytest.mark.parametrize(
    "command", ["check", "preview", "status", "history", "personal", "releases"]
)
def test_a_folder_that_holds_no_plant(command: str, tmp_path: Path) -> None:
    with pytest.raises((ConfigError, DataError)):
        type_in(command, tmp_path / "nothing")


def test_every_command_has_an_example() -> None:
    shown = type_in("--help").output
    for command in (
        "join", "check", "preview", "up", "link", "status", "history", "personal", "releases",
    ):  # fmt: skip
        assert command in shown
        assert f"transferline-plant {command}" in type_in(command, "--help").output


def test_check_of_a_plant_that_cannot_reach_its_centre(joined: Joined) -> None:
    folder = joined(at=datetime.now(UTC) - timedelta(hours=1))
    done = type_in("check", folder, code=1)
    assert "ok    identity   ash of acme, certificate valid for 30 days" in done.stdout
    assert "fail  fleet      localhost:1: connection refused" in done.stdout
    assert "ok    data       2 classes (dark 14, light 14)" in done.stdout
    assert done.stdout.endswith("this plant cannot take part yet\n")
    told = json.loads(type_in("check", folder, "--json", code=1).stdout)
    names = [
        "identity",
        "link",
        "policy",
        "sums",
        "disk",
        "clock",
        "fleet",
        "enrolment",
        "device",
        "data",
    ]
    assert [one["name"] for one in told["checks"]] == names
    assert {one["state"] for one in told["checks"]} <= {"ok", "warn", "fail", "skip"}


def test_preview_works_without_network_and_data(joined: Joined) -> None:
    folder = joined(data="/no/such/folder")
    text = type_in("preview", folder).stdout
    assert "24x3x3x3          2,592  backbone.conv1.0.weight" in text
    assert "nothing hides it from the centre" in text
    told = json.loads(type_in("preview", folder, "--json").stdout)
    assert told["bytes"] == sum(one["bytes"] for one in told["tensors"])


def test_personal_lists_and_rolls_back(used: Path) -> None:
    assert "* version 3 inspects parts: adopted" in type_in("personal", used).stdout
    done = type_in("personal", used, "rollback", "1")
    assert done.stdout.startswith("version 1 inspects parts now, before it was 3\n")
    assert "put back by hand, for version 3" in done.stdout
    told = json.loads(type_in("personal", used, "--json").stdout)
    assert [(one["number"], one["deployed"]) for one in told] == [(1, True), (3, False)]
    with pytest.raises(StateError, match="version must be one of the whole models"):
        type_in("personal", used, "rollback", "2")
    for wrong in (("rollback",), ("list", "3"), ("undo", "3")):
        type_in("personal", used, *wrong, code=2)


def test_nothing_yet(joined: Joined) -> None:
    folder = joined()
    for command in ("history", "releases", "personal"):
        assert len(type_in(command, folder).stdout.splitlines()) == 1
        assert json.loads(type_in(command, folder, "--json").stdout) == []


def test_status_of_a_plant_that_is_down(used: Path) -> None:
    done = type_in("status", used, code=1)
    assert f"daemon     not running: transferline-plant up {used}" in done.stdout
    assert "model      version 3, a release of run run-1" in done.stdout
    assert json.loads(type_in("status", used, "--json", code=1).stdout)["daemon"] is None


def test_join_refuses_what_is_no_token(tmp_path: Path) -> None:
    for text in ("tl1-AAAA", "hello"):
        with pytest.raises(IdentityError, match="token must be"):
            type_in("join", "--token", text, "--data", tmp_path, "--dir", tmp_path / "new")
    assert not (tmp_path / "new").exists()
    type_in("join", "--dir", tmp_path / "new", code=2)


def run_plain(*arguments: object) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-m", "client.cli", *map(str, arguments)]
    return subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


def test_a_mistake_is_one_line_and_no_traceback(tmp_path: Path) -> None:
    done = run_plain("status", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {tmp_path} must be the folder of a plant")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["check", "status", "up"])
def test_a_centres_folder_is_no_plants_and_no_data(tmp_path: Path, name: str) -> None:
    (tmp_path / "centre.toml").touch()
    with pytest.raises(ConfigError, match="must be the folder of a plant, got a centre's; use"):
        type_in(name, tmp_path)


def test_what_is_quick_does_not_load_torch_or_grpc(used: Path) -> None:
    code = (
        "import sys\nfrom client.cli import app\n"
        "try:\n    app(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'torchvision', 'grpc', 'flwr', 'sqlalchemy'} & set(sys.modules)))"
    )
    for command in ("status", "history", "personal", "releases"):
        call = [sys.executable, "-c", code, command, str(used)]
        done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "[]", command


def test_up_serves_until_it_is_told_to_stop(joined: Joined, tmp_path: Path) -> None:
    folder = joined()
    log = tmp_path / "daemon.log"
    call = [sys.executable, "-m", "client.cli", "up", "--no-link", str(folder)]
    with log.open("w") as output, subprocess.Popen(call, cwd=ROOT, stderr=output) as daemon:
        try:
            end = time.monotonic() + 30
            while not Ledger(folder).facts().get("daemon"):
                assert daemon.poll() is None, log.read_text()
                assert time.monotonic() < end
                time.sleep(0.1)
            shown = run_plain("status", folder)
            assert shown.returncode == 0, f"{shown}\n{log.read_text()}"
            assert f"daemon     process {daemon.pid}, up for" in shown.stdout
            assert "now        waits for orders" in shown.stdout
            second = run_plain("up", "--no-link", folder)
            assert second.returncode == 1
            assert f"process {daemon.pid} is another" in second.stderr
        finally:
            daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(30) == 0, log.read_text()
    assert "Traceback" not in log.read_text()
    assert json.loads(type_in("status", folder, "--json", code=1).stdout)["daemon"] is None


@needs_root
def test_up_looks_at_what_the_links_user_can_reach(joined: Joined, passable: Path) -> None:
    images = passable / "images"
    images.mkdir()
    images.chmod(0o755)
    folder = joined(link=LinkSection(user=str(UID)), data=str(images))
    done = run_plain("up", folder)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
    assert f"link.user must read neither data nor keys, {UID} can read {images}; " in done.stderr

    images.chmod(0o700)
    code = "import sys; sys.executable = '/none'; from client.cli import main; main()"
    call = [sys.executable, "-c", code, "up", str(folder)]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
    assert "link.user must be able to run /none" in done.stderr


def test_peers_are_accepted_and_removed_by_hand(joined: Joined) -> None:
    folder = joined()
    own = json.loads(type_in("peers", folder, "--json").stdout)
    assert (own["name"], len(own["fingerprint"]), own["peers"]) == ("ash", 64, [])
    assert "nobody is accepted yet" in type_in("peers", folder).stdout
    Peers(ledger=Ledger(folder)).wait("ab" * 32, "elm")
    assert "elm, waiting" in type_in("peers", folder).stdout
    said = type_in("peers", folder, "accept", "abababab", "--name", "Elm Street").stdout
    assert f"accepted Elm Street {'ab' * 32}" in said
    assert json.loads(type_in("peers", folder, "list", "--json").stdout)["peers"][0]["state"] == (
        "accepted"
    )
    assert "no sum with it any more" in type_in("peers", folder, "remove", "abababab").stdout
    with pytest.raises(ConfigError, match="must be on the list"):
        type_in("peers", folder, "remove", "abababab")
    assert type_in("peers", folder, "accept", code=2)
    assert type_in("peers", folder, "list", "abababab", code=2)
