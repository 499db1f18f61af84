"""What the checks share: where the files are, and how a tool is found and run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

DEPLOY = Path(__file__).resolve().parent.parent
ROOT = DEPLOY.parent
PAGE = ROOT / "docs" / "deployment.md"

SECONDS = 120  #: that a tool may take


class SkippedError(Exception):
    """A check that cannot be done here; says why."""


def tool(name: str, *, package: str) -> str:
    """Return the path of a program.

    Raises
    ------
    SkippedError
        If it is not installed; says what to install.
    """
    found = shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin") or shutil.which(
        name
    )
    if found is None:
        raise SkippedError(f"{name} is not installed ({package})")
    return found


def run(*command: str, text: str | None = None, folder: Path | None = None) -> tuple[int, str]:
    """Run a program; return its status and all it said."""
    done = subprocess.run(
        command,
        input=text,
        text=True,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=SECONDS,
        check=False,
    )
    return done.returncode, done.stdout.strip()


def complaints_of(*command: str, folder: Path | None = None) -> list[str]:
    """Return what a program that must succeed complains about; empty if it does not."""
    status, said = run(*command, folder=folder)
    if status == 0:
        return []
    return said.splitlines() or [f"{Path(command[0]).name} ended with status {status}"]
