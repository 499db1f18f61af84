"""``flwr run .`` from a checkout: what pyproject names is there, and a trial runs to its end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import psutil
import pytest

from server.engine.control import Control
from server.engine.event_log import EventReader
from server.engine.job import Job
from server.events import Event, RoundClosed
from server.releases import Releases
from simulation import flower
from simulation.trial import PLANTS, prepare_trial

ROOT = Path(__file__).resolve().parents[2]
APP: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")
def test_pyproject_names_the_two_apps() -> None:
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp

    assert isinstance(resolve_name(APP["components"]["serverapp"]), ServerApp)
    assert isinstance(resolve_name(APP["components"]["clientapp"]), ClientApp)


def test_what_fills_an_empty_run_folder_prepares_a_job(tmp_path: Path) -> None:
    prepare = resolve_name(APP["config"]["prepare"])
    assert prepare is prepare_trial
    prepare(tmp_path)
    job = Job.read(tmp_path)
    assert len(job.plants) == PLANTS
    assert sorted(path.name for path in (tmp_path / "plants").iterdir()) == list(job.plants)
    assert job.config.rounds == 2


@pytest.mark.slow
@pytest.mark.timeout(600)  # Flower and Ray take 15 to 40 s to start, on a busy machine minutes
@pytest.mark.skipif(find_spec("ray") is None, reason="the extra sim is not installed")
def test_flwr_run_holds_a_trial(tmp_path: Path) -> None:
    """The command itself, against a SuperLink of ours; ``:local:`` would leave one running."""
    home = tmp_path / "run"
    home.mkdir()
    others = {child.pid for child in psutil.Process().children(recursive=True)}
    with flower.superlink(home) as address:
        connection = tmp_path / "flwr" / "config.toml"
        connection.parent.mkdir()
        connection.write_text(
            f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "{address}"\n'
            "insecure = true\n"
        )
        command = [str(Path(sys.executable).with_name("flwr")), "run", ".", "--format", "json"]
        environment = os.environ | flower.ENVIRONMENT | {"FLWR_HOME": str(connection.parent)}
        said = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        assert said.returncode == 0, said.stdout + said.stderr
        with Control(address) as control, closing(EventReader(home)) as reader:
            run = int(json.loads(said.stdout)["run-id"])
            events: list[Event] = []
            status = flower.follow(control, run, reader, events.append)
            output = "".join(control.output(run))
    assert status is not None
    assert not status.failed, output
    closed = [event.outcome for event in events if isinstance(event, RoundClosed)]
    assert closed == ["committed"] * 3  # two rounds and the adoption
    assert Releases(home).numbers() == [0, 1, 2]
    left = {child.pid for child in psutil.Process().children(recursive=True)} - others
    assert not left
