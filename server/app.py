"""The centre's end of the Flower link: one federation in one run folder.

Flower starts this in a process of its own, in simulation as in deployment. All that it needs lies
on disk, and all that it does goes there: releases and state by the round loop, progress to
``events.jsonl``, and why it failed, as one line, to ``error.txt`` of the run folder.

At a centre, run-config names the run and the fencing number that it was taken with; who the plants
are says the registry. In simulation both are empty, and the run folder is all there is.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from pkgutil import resolve_name

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from common.errors import (
    AggregationError,
    BackboneError,
    ConfigError,
    EngineError,
    IdentityError,
    StateError,
    TransferlineError,
    UpdateError,
)
from common.files import write_atomic
from common.home import run_folder
from server.centre import Centre
from server.chain import Place
from server.engine.event_log import EventWriter, writing
from server.engine.job import ERROR, RUN, Job
from server.events import Waiting
from server.federation import Federation
from server.fleet.grid import GridFleet
from server.fleet.names import Member
from server.seals import Seals, papers_of
from server.state.registry import Registry
from server.state.tables import ENROLLED, FAILED

PKI = "pki"  #: folder of the keys of a secure sum, in a run folder
WAIT = 120.0  #: seconds for the next plant to connect before round 1, in simulation
BEAT = 2.0  #: seconds between two signs of life

#: Errors that starting again does not mend; after any other the centre's daemon starts anew.
FINAL = (ConfigError, BackboneError, UpdateError, AggregationError, IdentityError)

log = logging.getLogger(__name__)

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation of a run folder, or continue it."""
    settings = {key: str(value) for key, value in context.run_config.items()}
    home = run_folder(settings.get("home", ""), run=context.run_id)
    if run := settings.get("run"):
        at_centre(grid, Centre.open(home), run=run, fence=int(settings["fence"]))
        return
    with told(home):
        if (prepare := settings.get("prepare")) and not (home / RUN).exists():
            # By name: what fills an empty run folder with a trial is no part of the centre.
            resolve_name(prepare)(home)
        simulate(grid, home)


def simulate(grid: Grid, home: Path) -> None:
    """Read the job, wait for its plants, hold its rounds.

    Raises
    ------
    TransferlineError
        If the folder is not prepared, plants are missing, or the round loop had to stop.
    """
    job = Job.read(home)
    with writing(home) as tell:
        fleet = GridFleet(grid)
        gather(fleet, job, tell)
        Federation(
            Place(home=home, papers=lambda: papers_of(home / PKI)),
            fleet=fleet,
            config=job.config,
            source=job.source,
            travelling=job.travelling,
            run=job.run,
            events=tell,
        ).run()


def at_centre(grid: Grid, centre: Centre, *, run: str, fence: int) -> None:
    """Hold the rounds of a run of a centre, under the fencing number that it was taken with.

    Raises
    ------
    TransferlineError
        If the round loop had to stop. One of `FINAL` ends the run.
    """
    folder, registry = centre.run_folder(run), centre.registry
    with told(folder), alive(registry, run=run, fence=fence):
        try:
            job = Job.read(folder)
            with writing(folder) as tell:
                federation = Federation(
                    Place(
                        home=centre.folder,
                        database=centre.config.database,
                        fence=fence,
                        signer=centre.signer(),
                        papers=lambda: papers_of(centre.pki),
                    ),
                    fleet=GridFleet(
                        grid, roster=lambda: roster(registry), seals=Seals(folder=centre.pki)
                    ),
                    config=job.config,
                    source=job.source,
                    travelling=job.travelling,
                    run=run,
                    events=tell,
                )
                federation.tell_missed(tell.closed)
                federation.run()
        except FINAL as error:
            registry.finish(run, fence=fence, state=FAILED, reason=str(error))
            raise


def roster(registry: Registry) -> dict[int, Member]:
    """Return the enrolled plants by node."""
    return {
        plant.node_id: Member(name=plant.name, fingerprint=plant.fingerprint)
        for plant in registry.plants()
        if plant.state == ENROLLED
    }


@contextmanager
def told(folder: Path) -> Iterator[None]:
    """Leave the reason of a failure in the run folder, where whoever started this looks."""
    try:
        yield
    except TransferlineError as error:
        log.error("%s", error)  # noqa: TRY400  one line, no traceback
        write_atomic(folder / ERROR, f"{error}\n".encode())
        raise


@contextmanager
def alive(registry: Registry, *, run: str, fence: int) -> Iterator[None]:
    """Tell the centre every `BEAT` seconds that this process lives.

    When another process has taken the run, this one ends itself: what it would still do counts for
    nothing.
    """
    done = threading.Event()

    def beat() -> None:
        while not done.wait(BEAT):
            try:
                registry.beat(run, fence=fence)
            except StateError as error:
                log.warning("%s", error)
                with suppress(StateError):
                    if registry.run(run).fence != fence:
                        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    registry.beat(run, fence=fence)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(BEAT)


def gather(fleet: GridFleet, job: Job, tell: EventWriter) -> None:
    """Wait for all plants, so that the first cohort does not depend on who starts faster.

    Raises
    ------
    EngineError
        If some are missing, or others are there.
    """
    needed = len(job.plants)
    here = fleet.wait(
        plants=needed,
        seconds=WAIT,
        on_change=lambda here: tell(Waiting(round=1, connected=here, needed=needed)),
    )
    if strangers := sorted(set(here) - set(job.plants)):
        raise EngineError(f"plants must be {sorted(job.plants)}, got also {strangers}; remove them")
