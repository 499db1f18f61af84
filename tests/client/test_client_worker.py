"""One training process: warm, killed when it hangs, replaced when it dies. Real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from client.desk.worker import StoppedError, Worker
from client.plant import Plant
from common.config import FederationConfig
from common.errors import EngineError
from common.orders import Order, Outcome, Release
from common.wire.messages import pack_order, unpack_reply
from common.wire.parts import Parts

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def plant(plant_of: Callable[..., Plant]) -> Plant:
    return plant_of()


@pytest.fixture
def parts(
    small_config: FederationConfig,
    release_of: Callable[..., Release],
    order_for: Callable[..., Order],
) -> Callable[..., Parts]:
    release = release_of(small_config)
    return lambda **fields: pack_order(order_for(small_config, release, **fields), release)


@pytest.fixture
def worker(plant: Plant) -> Iterator[Worker]:
    made = Worker(plant.folder)
    yield made
    made.end()
    assert made.pid is None


def test_it_answers_as_the_plant_itself_and_stays_warm(
    worker: Worker,
    plant: Plant,
    plant_of: Callable[..., Plant],
    parts: Callable[..., Parts],
    small_config: FederationConfig,
    release_of: Callable[..., Release],
    order_for: Callable[..., Order],
) -> None:
    first = worker.work(parts(), seconds=60)
    pid = worker.pid
    release = release_of(small_config)
    twin = plant_of(folder="twin").answer(order_for(small_config, release), release)
    reply = unpack_reply(first.parts)
    assert reply.outcome is Outcome.DONE
    assert reply.payload is not None
    assert reply.payload == twin.payload

    assert first.facts["data"] == plant.data(small_config).counts
    training = first.facts["training"]
    assert training["images"] > 0
    assert training["images_per_second"] > 0
    assert training["loss"] > 0
    assert first.facts["gpu"] is None

    second = worker.work(parts(round=2), seconds=60)
    assert unpack_reply(second.parts).round == 2
    assert worker.pid == pid
    assert worker.starts == 1


def test_it_is_killed_when_it_hangs_and_replaced(
    worker: Worker, parts: Callable[..., Parts]
) -> None:
    worker.warm()
    pid = worker.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(StoppedError, match=r"^stopped after 1 s$"):
        worker.work(parts(), seconds=1)
    assert not psutil.pid_exists(pid)
    assert worker.killed == 1

    worker.warm()
    killer = threading.Timer(0.3, psutil.Process(worker.pid).kill)
    killer.start()
    with pytest.raises(EngineError, match="ended with -9"):
        worker.work(parts(), seconds=60)
    killer.join()
    assert worker.starts == 2

    worker.close()
    with pytest.raises(StoppedError, match="daemon was stopped"):
        worker.work(parts(), seconds=60)


def test_it_ends_with_its_daemon_even_when_it_hangs(plant: Plant) -> None:
    code = (
        "import sys, time; from pathlib import Path; from client.desk.worker import Worker;"
        "w = Worker(Path(sys.argv[1])); w.warm(); print(w.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(plant.folder)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as daemon:
        assert daemon.stdout is not None
        pid = int(daemon.stdout.readline())
        bench = psutil.Process(pid)
        if sys.platform == "linux":  # elsewhere a process that hangs is not ended
            maps = Path(f"/proc/{pid}/maps")
            while "libtorch" not in maps.read_text():
                time.sleep(0.05)
            bench.suspend()
        daemon.kill()
    _, left = psutil.wait_procs([bench], timeout=5)
    assert not left or left[0].status() == psutil.STATUS_ZOMBIE
