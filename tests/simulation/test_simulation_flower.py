"""The flower engine: the same releases as the local one, and no process left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from common.config import (
    FederationConfig,
    MethodConfig,
    SecureAggregationConfig,
    TrainingConfig,
)
from common.errors import EngineError, StateError
from common.orders import Release
from common.update import Schema
from server.chain import Place
from server.engine.job import Job
from server.events import Event, ReplyArrived, RoundClosed, RoundStarted
from server.federation import Federation
from server.releases import Releases
from server.seals import papers_of
from simulation import flower
from simulation.desks import PKI
from simulation.factory import write_plants
from simulation.local import LocalFleet
from simulation.prepare import Prepared, find_plants, prepare
from simulation.workers import Workers

ROOT = Path(__file__).resolve().parents[2]

needs_ray = pytest.mark.skipif(
    find_spec("ray") is None,
    reason="the extra sim is not installed",
)
engine = [
    needs_ray,
    pytest.mark.slow,
    # Flower and Ray take 15 to 40 s to start, on a busy machine minutes.
    pytest.mark.timeout(600),
    # flwr 1.41 uses a name that its pathspec deprecates.
    pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning"),
]

Alive = set[tuple[int, float]]


def alive(pid: int) -> Alive:
    """Return a process's descendants, each with the moment it was made, as pids are used again."""
    found: Alive = set()
    for process in psutil.Process(pid).children(recursive=True):
        try:
            found.add((process.pid, process.create_time()))
        except psutil.NoSuchProcess:
            continue
    return found


def left(before: Alive, *, seconds: float = 20.0) -> Alive:
    """Return those that are still there after so long at most."""
    end = time.monotonic() + seconds
    while True:
        still: Alive = set()
        for pid, made in before:
            try:
                process = psutil.Process(pid)
                if process.create_time() == made and process.status() != psutil.STATUS_ZOMBIE:
                    still.add((pid, made))
            except psutil.NoSuchProcess:
                continue
        if not still or time.monotonic() > end:
            return still
        time.sleep(0.1)


def prepared(home: Path, images: Path, **changes: Any) -> Prepared:
    config = FederationConfig(
        backbone="squeezenet1_1",
        weights="none",
        image_size=32,
        rounds=2,
        local_steps=0,
        device="cpu",
        training=TrainingConfig(epochs=1, head_epochs=5),
        **changes,
    )
    with Workers(1) as workers:
        return prepare(home, config=config, base=home, data=find_plants(images), workers=workers)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    write_plants(root, plants=2, images_per_class=20, size=32)
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, images: Path) -> tuple[Path, list[Event], Alive]:
    """One run on Flower: its folder, its events, every process that was seen."""
    home = tmp_path_factory.mktemp("flower")
    plan, events, seen = prepared(home, images), list[Event](), set[tuple[int, float]]()
    others = alive(os.getpid())  # what other tests have started and still use

    def watch(event: Event) -> None:
        events.append(event)
        seen.update(alive(os.getpid()) - others)

    flower.run_flower(home, plants=len(plan.plants), workers=2, events=watch)
    return home, events, seen


class TestRun:
    """One run on Flower, looked at from several sides."""

    pytestmark = engine

    def test_releases_are_those_of_the_local_engine(
        self, run: tuple[Path, list[Event], Alive], tmp_path: Path, images: Path
    ) -> None:
        plan = prepared(tmp_path, images)
        with Workers(1) as workers:
            Federation(
                tmp_path,
                fleet=LocalFleet(tmp_path, plants=list(plan.plants), workers=workers),
                config=plan.job.config,
                source=plan.job.source,
                travelling=plan.job.travelling,
                run=plan.job.run,
            ).run()
        mine, theirs = Releases(run[0]), Releases(tmp_path)
        assert mine.numbers() == theirs.numbers()
        assert mine.numbers()[-1] == 2
        for number in mine.numbers():
            assert mine.read(number).hash == theirs.read(number).hash
        assert mine.latest().hash != plan.job.source.hash

    def test_events_are_relayed(self, run: tuple[Path, list[Event], Alive]) -> None:
        started = [event.round for event in run[1] if isinstance(event, RoundStarted)]
        closed = [event.outcome for event in run[1] if isinstance(event, RoundClosed)]
        replies = [event.outcome for event in run[1] if isinstance(event, ReplyArrived)]
        assert started == [1, 2, 3]
        assert closed == ["committed"] * 3
        assert replies == ["done"] * 6

    def test_nothing_is_left(self, run: tuple[Path, list[Event], Alive]) -> None:
        assert len(run[2]) > 8  # keeper, SuperLink, SuperExec, the simulation, Ray
        assert left(run[2], seconds=0) == set()
        assert folders_of(run[0]) == []

    def test_the_log_says_what_happened(self, run: tuple[Path, list[Event], Alive]) -> None:
        text = (run[0] / flower.LOG).read_text()
        assert "Starting Flower SuperLink" in text
        assert "transferline" in text


class TestSecureSums:
    """Secure sums on Flower: actors come and go, the plants' sessions stay."""

    pytestmark = engine

    def test_releases_are_those_of_the_local_engine(self, tmp_path: Path) -> None:
        images = tmp_path / "images"
        write_plants(images, plants=3, images_per_class=14, size=32)
        changes = {
            "min_plants": 3,
            "secure_aggregation": SecureAggregationConfig(enabled=True),
            "methods": MethodConfig(local_first=False),
        }
        here, there = tmp_path / "here", tmp_path / "there"
        plan = prepared(here, images, **changes)
        events: list[Event] = []
        flower.run_flower(here, plants=3, workers=2, events=events.append)
        closed = [(e.outcome, e.reason) for e in events if isinstance(e, RoundClosed)]
        assert closed == [("committed", "")] * 3
        plan = prepared(there, images, **changes)
        with Workers(1) as workers:
            Federation(
                Place(home=there, papers=lambda: papers_of(there / PKI)),
                fleet=LocalFleet(there, plants=list(plan.plants), workers=workers),
                config=plan.job.config,
                source=plan.job.source,
                travelling=plan.job.travelling,
                run=plan.job.run,
            ).run()
        mine, theirs = Releases(here), Releases(there)
        assert mine.numbers() == theirs.numbers() == [0, 1, 2]
        for number in mine.numbers():
            assert mine.read(number).hash == theirs.read(number).hash


def folders_of(home: Path) -> list[str]:
    """Return temporary folders of an engine, as its log names them."""
    text = (home / flower.LOG).read_text()
    return [
        str(path)
        for base in {Path("/tmp"), Path(os.environ.get("TMPDIR", "/tmp"))}
        for path in base.glob("tl-*")
        if path.name in text
    ]


#: Put before everything else by Python itself: plants that take their time, without torch.
SLOW = """
import sys, time, types

def open_plant(folder):
    time.sleep(100)

module = types.ModuleType("client.plant")
module.open_plant = open_plant
sys.modules["client.plant"] = module
"""

SCRIPT = """
import sys
from pathlib import Path
from common.errors import EngineError
from simulation.flower import run_flower

try:
    run_flower(
        Path(sys.argv[1]),
        plants=2,
        workers=2,
        events=lambda event: print(type(event).__name__, flush=True),
    )
except EngineError as error:
    print(error, flush=True)
"""


@pytest.fixture
def slow_run(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A run of its own process, in the middle of round 1."""
    home, site = tmp_path / "run", tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SLOW)
    for name in ("a", "b"):
        (home / "plants" / name).mkdir(parents=True)
    source = Release(number=0, schema=Schema({"a": (3,)}), vector=np.zeros(3, np.float32))
    Job(
        run="slow",
        plants=("a", "b"),
        travelling=frozenset({"a"}),
        source=source,
        config=FederationConfig(mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2)),
    ).write(home)
    environment = {**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{ROOT}"}
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(home)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        try:
            assert process.stdout is not None
            assert any(line.startswith("RoundStarted") for line in process.stdout)
            time.sleep(1.0)  # the orders reach the plants
            yield process
        finally:
            process.kill()


class TestInterrupted:
    """However a run ends, nothing of it is left."""

    pytestmark = engine

    def test_ctrl_c(self, slow_run: subprocess.Popen[str], tmp_path: Path) -> None:
        before = alive(slow_run.pid)
        assert len(before) > 8
        slow_run.send_signal(signal.SIGINT)
        assert slow_run.wait(30) != 0
        assert left(before, seconds=0) == set()
        assert folders_of(tmp_path / "run") == []

    def test_killed(self, slow_run: subprocess.Popen[str], tmp_path: Path) -> None:
        before = alive(slow_run.pid)
        slow_run.kill()
        assert left(before) == set()
        assert folders_of(tmp_path / "run") == []

    def test_its_simulation_is_killed(self, slow_run: subprocess.Popen[str]) -> None:
        before = alive(slow_run.pid)
        (simulation,) = [
            process
            for process in psutil.Process(slow_run.pid).children(recursive=True)
            if any(part.endswith("/flwr-simulation") for part in process.cmdline())
        ]
        simulation.kill()
        assert slow_run.stdout is not None
        assert "its process was killed" in slow_run.stdout.read()
        assert left(before, seconds=5) == set()


@needs_ray
@pytest.mark.parametrize(("plants", "workers", "said"), [(0, 1, "plants"), (2, 0, "workers")])
def test_no_plants_or_workers_is_refused(
    plants: int, workers: int, said: str, tmp_path: Path
) -> None:
    with pytest.raises(EngineError, match=f"{said} must be at least 1, got 0"):
        flower.run_flower(tmp_path, plants=plants, workers=workers)


def test_without_ray_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(flower, "find_spec", lambda name: None)
    with pytest.raises(EngineError, match=r"pip install '.\[sim\]'"):
        flower.run_flower(tmp_path, plants=2, workers=1)


@needs_ray
def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(StateError, match="cannot write"):
        flower.run_flower(file / "run", plants=2, workers=1)


def test_a_superlink_that_does_not_start_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(flower, "SUPERLINK", (sys.executable, "-c", "raise SystemExit('broken')"))
    with (
        pytest.raises(EngineError, match="flower-superlink did not start"),
        flower.superlink(tmp_path),
    ):
        pass


def test_the_first_error_of_an_output_is_named() -> None:
    output = """starting
Traceback (most recent call last):
  File "x.py", line 1, in run
ray.exceptions.RaySystemError: out of memory

Traceback (most recent call last):
RuntimeError: Simulation Runtime crashed.
"""
    assert flower.first_error(output) == "out of memory"
    assert flower.first_error("all is well") == ""
