"""The centre's end of the Flower link: one federation in one run folder.

Flower starts this in a process of its own, in simulation as in deployment. All that it needs lies
in the run folder (`server.job`), and all that it does goes there: releases and ``state.db`` by the
round loop, progress to ``events.jsonl``, and why it failed, as one line, to ``error.txt``.
"""

from __future__ import annotations

import logging
from pathlib import Path
from pkgutil import resolve_name

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from common.errors import EngineError, TransferlineError
from common.files import write_atomic
from common.home import run_folder
from server.event_log import EventWriter, writing
from server.events import Waiting
from server.federation import Federation
from server.fleet import GridFleet
from server.job import ERROR, RUN, Job

WAIT = 120.0  #: seconds for the next plant to connect before round 1

log = logging.getLogger(__name__)

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation of a run folder, or continue it."""
    settings = {key: str(value) for key, value in context.run_config.items()}
    home = run_folder(settings.get("home", ""), run=context.run_id)
    try:
        if (prepare := settings.get("prepare")) and not (home / RUN).exists():
            # By name: what fills an empty run folder with a trial is no part of the centre.
            resolve_name(prepare)(home)
        run(grid, home)
    except TransferlineError as error:
        log.error("%s", error)  # noqa: TRY400  one line, no traceback
        write_atomic(home / ERROR, f"{error}\n".encode())
        raise


def run(grid: Grid, home: Path) -> None:
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
            home,
            fleet=fleet,
            config=job.config,
            source=job.source,
            travelling=job.travelling,
            run=job.run,
            events=tell,
        ).run()


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
