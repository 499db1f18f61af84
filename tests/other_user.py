"""Another user of this machine, for tests of what the link may not: by number, no entry needed.

The Python that runs the tests may lie where nobody else can read it (root's home). Then a copy of
its environment is made around a Python of the system, of the same version.
"""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
UID = 54321  #: a user that nobody is

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")


def can_run(python: Path, code: str = "import client, grpc, flwr") -> bool:
    """Whether the other user can run our code with this Python."""
    environment = {"PATH": os.defpath, "PYTHONPATH": str(ROOT)}
    try:
        return not subprocess.run(
            [python, "-W", "ignore", "-c", code],
            user=UID,
            group=UID,
            extra_groups=[],
            env=environment,
            cwd="/",
            capture_output=True,
            check=False,
        ).returncode
    except OSError:
        return False


@cache
def python_for_all(folder: Path) -> Path:
    """Return a Python with our packages and Flower's commands that the other user can run.

    Parameters
    ----------
    folder : a new one, to make it in where need be; what is above must be open to all.
    """
    if can_run(Path(sys.executable)):
        return Path(sys.executable)
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    system = shutil.which(name, path="/usr/bin:/usr/local/bin")
    if system is None:
        pytest.skip(f"{sys.executable} is closed to other users, and there is no {name} beside it")
    subprocess.run([system, "-I", "-m", "venv", "--without-pip", folder / "venv"], check=True)
    packages = folder / "venv" / "lib" / name / "site-packages"
    lines = [path for path in site.getsitepackages() if Path(path).is_dir()]
    (packages / "shared.pth").write_text("\n".join([*lines, str(ROOT)]) + "\n")
    python = folder / "venv" / "bin" / "python"
    for script in Path(sys.executable).parent.glob("fl*w*r-*"):
        _, _, rest = script.read_text().partition("\n")
        copy = python.parent / script.name
        copy.write_text(f"#!{python}\n{rest}")
        copy.chmod(0o755)
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(
                path.stat().st_mode | 0o055 if path.is_dir() else path.stat().st_mode | 0o044
            )
    if not can_run(python):
        pytest.skip(f"{ROOT} is closed to other users")
    return python
