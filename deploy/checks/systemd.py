"""The units: what systemd says of them, how exposed it finds them, and their users."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from deploy.checks.tools import DEPLOY, PAGE, SkippedError, run, tool

UNITS = DEPLOY / "systemd"

#: Where the program is installed, and the highest figure of exposure that a unit may have.
PROGRAMS = "/opt/transferline/bin/"
MOST_EXPOSED = 2.0


def verify() -> list[str]:
    """Have systemd read the units, with programs in the place of those that are not installed."""
    analyze = _analyze()
    with tempfile.TemporaryDirectory() as folder:
        stub = Path(folder) / "program"
        stub.write_text("#!/bin/sh\n")
        stub.chmod(0o755)
        units = []
        for path in sorted(UNITS.glob("*.s[eo][rc]*")):
            text = re.sub(re.escape(PROGRAMS) + r"\S+", str(stub), path.read_text("utf-8"))
            copy = Path(folder) / path.name
            copy.write_text(text)
            units.append(str(copy))
        status, said = run(analyze, "verify", *units)
    return said.splitlines() or ([f"status {status}"] if status else [])


def exposure() -> list[str]:
    """Compare the figures of `systemd-analyze security` with the limit and with the page."""
    analyze = _analyze()
    shown = {unit: float(figure) for unit, figure in _rows()}
    same_version = _version(analyze) in PAGE.read_text(encoding="utf-8")
    found = []
    for path in sorted(UNITS.glob("*.service")):
        status, said = run(analyze, "security", "--offline=true", str(path))
        figure = re.search(r"Overall exposure level for \S+: ([\d.]+)", said)
        if status or figure is None:
            return [f"systemd-analyze security {path.name}: {said[-200:]}"]
        value = float(figure[1])
        if value > MOST_EXPOSED:
            found.append(f"{path.name} must be at most {MOST_EXPOSED}, is {value}")
        if same_version and shown.get(path.name) != value:
            found.append(f"{path.name} is {value}, {PAGE.name} says {shown.get(path.name)}")
    return found


def users() -> list[str]:
    """Have systemd-sysusers make the users, in a folder of their own."""
    sysusers = tool("systemd-sysusers", package="part of systemd")
    found = []
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "etc").mkdir()
        files = sorted(str(path) for path in UNITS.glob("*.sysusers"))
        status, said = run(sysusers, f"--root={folder}", *files)
        if status:
            return said.splitlines()
        made = (Path(folder) / "etc/passwd").read_text(encoding="utf-8")
    for path in sorted(UNITS.glob("*.service")):
        users = re.findall(r"^(?:User|Group)=(\S+)", path.read_text("utf-8"), re.MULTILINE)
        missing = [user for user in users if f"{user}:" not in made]
        found += [f"{path.name} runs as {user}, which no .sysusers makes" for user in missing]
    return found


def _rows() -> list[tuple[str, str]]:
    """Return (unit, figure) of the table in docs/deployment.md."""
    pattern = r"^\| `(transferline-\w+\.service)` \|[^|\n]*\| ([\d.]+) \|"
    return re.findall(pattern, PAGE.read_text(encoding="utf-8"), re.MULTILINE)


def _analyze() -> str:
    found = tool("systemd-analyze", package="apt install systemd")
    status, said = run(found, "security", "--help")
    if status or "--offline" not in said:
        raise SkippedError("systemd-analyze is older than 250 and reads no unit files")
    return found


def _version(analyze: str) -> str:
    """Return "systemd 252" of what is installed here."""
    return " ".join(run(analyze, "--version")[1].split()[:2])
