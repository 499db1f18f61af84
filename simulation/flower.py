"""The ``flower`` engine: the same ServerApp and ClientApp, on Flower's simulation runtime with Ray.

It starts a SuperLink of its own on a free port of loopback, with a temporary FLWR_HOME, submits a
bundle that points at the installed package, relays progress, and ends everything it started. The
processes are watched over by `common.keeper`, so that none is left, however this one ends.

`run_simulation` of flwr is deprecated, and ``address = ":local:"`` leaves a SuperLink running.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path

from flwr.proto.federation_config_pb2 import SimulationConfig

from client.app import DESKS
from common import keeper
from common.errors import EngineError
from common.files import unwritable, write_atomic
from common.home import VARIABLE
from server.engine.control import Control, RunStatus
from server.engine.event_log import EventReader
from server.engine.job import ERROR, Job
from server.events import Event
from simulation.desk_host import desk_host

LOG = "flower.log"
START = 180.0  #: seconds for SuperLink to answer; it takes 4 to 5, on a busy machine a minute
LOOK = 0.1  #: seconds between two looks at the events
ASK = 1.0  #: seconds between two questions to SuperLink whether the run has ended
ATTEMPTS = 3  #: another process may take the free port between choosing and using it

#: `simulation.superlink`, with this Python
SUPERLINK = (sys.executable, "-m", "simulation.superlink")

#: What keeps Flower and Ray quiet, quick and on this machine.
ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    # Plants share the machine's GPU; else Ray hides it from actors that reserve none.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def run_flower(
    run_folder: Path,
    *,
    plants: int,
    workers: int,
    events: Callable[[Event], None] = lambda event: None,
) -> None:
    """Run the job of a prepared folder (`server.engine.job`) on Flower, or continue it.

    Parameters
    ----------
    run_folder : with ``run.json``, ``source.safetensors`` and ``plants/<plant>/``.
    plants : number of plants, each a node.
    workers : how many plants may train at the same time, each in a process.
    events : told of what happens, as it happens.

    Raises
    ------
    EngineError
        If the extra is not installed, the engine fails, or the federation does; the details are in
        ``flower.log`` of the run folder.
    """
    check_engine(plants=plants, workers=workers)
    with (
        closing(EventReader(run_folder)) as reader,
        _desks(run_folder) as desks,
        superlink(run_folder, desks=desks) as address,
        Control(address) as control,
    ):
        (run_folder / ERROR).unlink(missing_ok=True)
        run = control.start({}, simulation=resources(plants=plants, workers=workers))
        status = follow(control, run, reader, events)
        if status is None:
            raise EngineError(
                "flower engine: its process was killed, perhaps for want of memory; use fewer "
                "--workers and continue with --resume"
            )
        output = "".join(control.output(run))
    with (run_folder / LOG).open("a", encoding="utf-8") as log:
        log.write(output)
    if (run_folder / ERROR).exists():
        raise EngineError((run_folder / ERROR).read_text(encoding="utf-8").strip())
    if status.failed:
        reason = first_error(output) or status.details or "the run failed"
        raise EngineError(f"flower engine: {reason}; see {run_folder / LOG}")


@contextmanager
def _desks(run_folder: Path) -> Iterator[str]:
    """Keep the plants' desks if the run sums under masks; yield their address, else ""."""
    job = Job.read(run_folder)
    if not job.config.secure_aggregation.enabled:
        yield ""
        return
    with desk_host(run_folder, plants=job.plants) as address:
        yield address


def check_engine(*, plants: int, workers: int) -> None:
    """Check what can be checked before anything is started.

    Raises
    ------
    EngineError
        If the extra is missing or a number is not positive.
    """
    if find_spec("ray") is None:
        raise EngineError("--engine flower needs Ray: in the checkout, pip install '.[sim]'")
    for name, number in (("plants", plants), ("workers", workers)):
        if number < 1:
            raise EngineError(f"{name} must be at least 1, got {number}")


def resources(*, plants: int, workers: int) -> SimulationConfig:
    """Return as many nodes as plants, and as many Ray actors as workers are of use.

    Actors count as one CPU each, whatever the machine has: how many threads a plant trains with is
    its own setting.
    """
    return SimulationConfig(
        num_supernodes=plants,
        backend="ray",
        client_resources_num_cpus=1,
        client_resources_num_gpus=0.0,
        init_args_num_cpus=min(workers, plants),
        init_args_log_to_driver=False,
    )


def follow(
    control: Control, run: int, reader: EventReader, events: Callable[[Event], None]
) -> RunStatus | None:
    """Relay events until the run has ended, and return how; None if its process was killed.

    SuperLink learns of a killed process only after minutes, and ends its output only then.
    """
    asked = time.monotonic()
    while True:
        gone = reader.writer_gone()
        for event in reader.read():
            events(event)
        if gone or time.monotonic() - asked >= ASK:
            asked = time.monotonic()
            status = control.status(run)
            if status.finished:
                return status
            if gone and not _ends(control, run):
                return None
        time.sleep(LOOK)


def _ends(control: Control, run: int, *, seconds: float = 15.0) -> bool:
    """Whether a run whose loop is over is reported as finished soon; Ray ends first."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if control.status(run).finished:
            return True
        time.sleep(LOOK)
    return False


@contextmanager
def superlink(run_folder: Path, *, desks: str = "") -> Iterator[str]:
    """Run a SuperLink in simulation mode and yield its address; end it and all that it started.

    Raises
    ------
    EngineError
        If it does not start.
    """
    log = run_folder / LOG
    for attempt in range(1, ATTEMPTS + 1):
        address = f"127.0.0.1:{free_port()}"
        process = start_superlink(run_folder, address, desks=desks)
        try:
            if wait_until_up(process, address):
                yield address
                return
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()
        if attempt == ATTEMPTS or "address already in use" not in log.read_text():
            raise EngineError(f"flower-superlink did not start; see {log}")


def start_superlink(run_folder: Path, address: str, *, desks: str = "") -> subprocess.Popen[bytes]:
    """Start a keeper with a SuperLink; it ends when its standard input is closed."""
    # Ray puts sockets below this folder, whose paths may have 107 characters.
    base = "/tmp" if len(tempfile.gettempdir()) > 25 else None
    home = tempfile.mkdtemp(prefix="tl-", dir=base)
    host, _, port = address.partition(":")
    command = [
        *SUPERLINK,
        *("--insecure", "--simulation", "--isolation", "subprocess"),
        *("--host", host, "--port", port),
        "--disable-runtime-dependency-installation",
    ]
    try:
        write_atomic(run_folder / LOG, b"")
        with (run_folder / LOG).open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-I", keeper.__file__, "--remove", home, "--", *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment(run_folder, home) | ({DESKS: desks} if desks else {}),
                cwd=home,
                start_new_session=True,
            )
    except OSError as error:
        shutil.rmtree(home, ignore_errors=True)
        raise unwritable(run_folder / LOG, error) from error


def environment(run_folder: Path, home: str) -> dict[str, str]:
    """Return the variables that SuperLink and all below it inherit."""
    inherited = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    here = str(Path(__file__).resolve().parent.parent)
    return {
        **inherited,
        **ENVIRONMENT,
        "FLWR_HOME": home,
        "RAY_TMPDIR": home,
        VARIABLE: str(run_folder.resolve()),
        # The same code there as here, installed or not.
        "PYTHONPATH": os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), here))),
        # SuperLink starts its helpers by name.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    }


def wait_until_up(process: subprocess.Popen[bytes], address: str) -> bool:
    """Return whether SuperLink answers before it ends or time is up."""
    end = time.monotonic() + START
    with Control(address) as control:
        while time.monotonic() < end and process.poll() is None:
            if control.is_up():
                return True
            time.sleep(LOOK)
    return False


def free_port() -> int:
    """Return a port of loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def first_error(output: str) -> str:
    """Return the line that names the first exception in a process's output, or "".

    The last one, which Flower reports, says only that there was one.
    """
    found = re.search(r"^(?:\w+\.)*\w*(?:Error|Exception): (.+)$", output, re.MULTILINE)
    return found[1].strip()[:300] if found else ""
