"""What SuperNode's output means, and what it and its children are given."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from client.link.files import LinkSettings
from client.link.supernode import FORGOTTEN, Reading, State, environment, program, write_scripts

SETTINGS = LinkSettings(
    plant="ash", fleet="centre.example:8443", enrolment="centre.example:8444", daemon="unix:/p.sock"
)
NODE = "8187542934917713013"
UP = f"\x1b[92mINFO \x1b[0m:      SuperNode ID: {NODE}\n"
NO = "\x1b[91mERROR \x1b[0m:     Exit Code: 305\n[code: 2004] Failed to activate SuperNode.\n"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    path = tmp_path / "supernode.log"
    path.write_text(UP)
    return path


def say(output: Path, text: str) -> None:
    with output.open("a") as file:
        file.write(text)


def test_what_was_said_before_does_not_count(output: Path) -> None:
    reading = Reading(output)
    assert reading.look(0.0) is State.CONNECTING
    say(output, UP[:20])
    assert reading.look(0.0) is State.CONNECTING
    say(output, UP[20:])
    assert reading.look(0.0) is State.CONNECTED
    assert reading.node == "8187542934917713013"


def test_a_refusal_passes_for_a_while_and_is_for_good_after_it(output: Path) -> None:
    reading = Reading(output)
    for now in (5.0, 60.0):
        say(output, NO)
        reading.ended(1)
        assert reading.look(now) is State.REFUSED
    say(output, NO)
    assert reading.look(5.0 + FORGOTTEN) is State.REVOKED
    say(output, NO)
    assert reading.look(10_000.0) is State.REVOKED
    say(output, UP)
    assert reading.look(10_001.0) is State.CONNECTED
    say(output, NO)
    assert reading.look(10_002.0) is State.REFUSED  # a new story


def test_a_refusal_after_the_centre_ended_it_is_for_good(output: Path) -> None:
    reading = Reading(output)
    say(output, UP)
    reading.look(0.0)
    reading.ended(0)
    assert reading.look(1.0) is State.CONNECTING
    say(output, NO)
    assert reading.look(6.0) is State.REVOKED


@pytest.mark.parametrize("status", [0, 1, 137])
def test_ending_alone_is_no_refusal(output: Path, status: int) -> None:
    reading = Reading(output)
    say(output, UP)
    reading.look(0.0)
    reading.ended(status)
    say(output, UP)
    assert reading.look(6.0) is State.CONNECTED


@pytest.mark.parametrize(
    ("status", "orphan"), [(0, ""), (1, "8187542934917713013"), (137, "8187542934917713013")]
)
def test_a_node_is_an_orphan_until_the_next_is_connected(
    output: Path, status: int, orphan: str
) -> None:
    reading = Reading(output)
    say(output, UP)
    reading.look(0.0)
    reading.ended(status)
    assert reading.orphan == orphan
    reading.ended(1)  # one that was never connected
    assert reading.orphan == orphan
    say(output, UP)
    reading.look(1.0)
    assert reading.orphan == ""


def test_an_orphan_is_signed_off_first(tmp_path: Path) -> None:
    command = program(tmp_path, SETTINGS, orphan=lambda: "42").command
    assert callable(command)
    words = command()
    assert words[:3] == [sys.executable, "-m", "client.link.signoff"]
    assert words[3:8] == [
        *("centre.example:8443", str(tmp_path / "ca.pem"), str(tmp_path / "link.key")),
        *("42", "flower-supernode"),
    ]


def test_a_log_that_was_cut_is_read_on(output: Path) -> None:
    reading = Reading(output)
    say(output, "x" * 5000 + "\n")
    reading.look(0.0)
    output.write_text(UP)
    assert reading.look(1.0) is State.CONNECTED


def test_a_log_that_is_not_there_says_nothing(tmp_path: Path) -> None:
    assert Reading(tmp_path / "none").look(0.0) is State.CONNECTING


def test_the_environment_has_nothing_but_what_is_needed(tmp_path: Path) -> None:
    inherited = {
        "AWS_SECRET_ACCESS_KEY": "hidden", "HOME": "/root", "PATH": "/root/bin", "LANG": "C",
        "HTTPS_PROXY": "http://proxy:1", "no_proxy": "intern", "FLWR_HOME": "/root/.flwr",
    }  # fmt: skip
    given = environment(tmp_path, SETTINGS, inherited=inherited)
    assert "hidden" not in given.values()
    assert not [name for name, value in given.items() if "/root" in value and name != "PATH"]
    assert given["FLWR_HOME"] == given["HOME"] == str(tmp_path / "flwr")
    assert given["PATH"].split(":")[:2] == [str(tmp_path / "bin"), str(Path(sys.executable).parent)]
    assert given["HTTPS_PROXY"] == "http://proxy:1"
    assert given["no_proxy"] == "intern,127.0.0.1,localhost"
    assert given["TRANSFERLINE_PLANT"] == "unix:/p.sock"
    elsewhere = environment(tmp_path, SETTINGS, inherited={"TRANSFERLINE_PLANT": "data-zone:9000"})
    assert elsewhere["TRANSFERLINE_PLANT"] == "data-zone:9000"


def test_each_start_takes_a_free_port_and_the_pinned_ca(tmp_path: Path) -> None:
    command = program(tmp_path, SETTINGS).command
    assert callable(command)
    first, second = command(), command()
    port = first.index("--port") + 1
    assert int(first[port]) > 1023
    assert first[:port] == second[:port]
    assert first[first.index("--root-certificates") + 1] == str(tmp_path / "ca.pem")
    assert first[first.index("--superlink") + 1] == "centre.example:8443"
    assert "--insecure" not in first


def test_the_entry_is_the_first_of_its_name_and_lean(tmp_path: Path) -> None:
    """It needs what Flower's command needs, and not SuperLink's database and web server."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    write_scripts(folder)
    given = environment(folder, SETTINGS, inherited={})
    given["PYTHONPROFILEIMPORTTIME"] = "1"
    done = subprocess.run(
        ["flwr-clientapp", "--help"], env=given, capture_output=True, text=True, check=False
    )
    assert "--runtime-api-address" in done.stdout
    assert "lean" in done.stdout  # so it is ours
    modules = {line.split("|")[-1].strip() for line in done.stderr.splitlines() if "|" in line}
    assert "flwr.supernode.runtime.run_clientapp" in modules
    assert "flwr.supernode.cli" not in modules
    heavy = {"sqlalchemy", "alembic", "uvicorn", "torch", "ray"}
    assert heavy & {name.split(".")[0] for name in modules} == set()


def test_the_entry_starts_when_its_folder_is_the_links_only(tmp_path: Path) -> None:
    write_scripts(tmp_path)
    script = tmp_path / "bin" / "flwr-clientapp"
    assert script.stat().st_mode & 0o777 == 0o700
    assert script.stat().st_uid == os.getuid()
    write_scripts(tmp_path)  # again, for a Python that has moved
    assert sys.executable in script.read_text()
