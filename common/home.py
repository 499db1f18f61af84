"""Where a run lives on disk, for apps that Flower starts and that have no command line.

A run folder holds ``run.json`` and ``source.safetensors`` (`server.engine.job`), ``state.db``,
``releases/`` and, in simulation, ``plants/<plant>/``.
"""

from __future__ import annotations

import os
from pathlib import Path

#: Set by whoever starts the engine. It goes before run-config: the operator of a machine decides
#: where files lie on it, not the one who submits a run.
VARIABLE = "TRANSFERLINE_HOME"


def run_folder(setting: str, *, run: int) -> Path:
    """Return the folder of a Flower run.

    Parameters
    ----------
    setting : run-config's ``home``; "" where it is not set.
    run : Flower's id of the run; names the folder of a run for which nobody chose one, below
        Flower's own home.
    """
    if chosen := os.environ.get(VARIABLE) or setting:
        return Path(chosen).expanduser()
    return Path(os.environ.get("FLWR_HOME") or Path.home() / ".flwr") / "transferline" / str(run)


def python_path() -> str:
    """Return a PYTHONPATH with which a child finds the same code as this process."""
    here = str(Path(__file__).resolve().parent.parent)
    return os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), here)))
