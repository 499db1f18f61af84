from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from common import terminal
from common.errors import DataError

PROGRAM = """
import os, signal, time
from common.errors import DataError
from common.terminal import command_line, progress, run

app = command_line(about="A program.")

@app.command()
def bad():
    raise DataError("class [scratch] must have images\\nsecond line")

@app.command()
def stop():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)

@app.command()
def work():
    with progress("working", total=3) as advance:
        for _ in range(3):
            advance("")

run(app)
"""


def call(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    root = Path(__file__).resolve().parents[2]
    return subprocess.run(
        [sys.executable, str(program), *arguments],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin"},
        timeout=60,
        check=False,
    )


def test_an_error_is_its_lines_and_exit_code_1(tmp_path: Path) -> None:
    done = call(tmp_path, "bad")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == "error: class [scratch] must have images\nerror: second line\n"


def test_ctrl_c_exits_with_130_and_no_traceback(tmp_path: Path) -> None:
    done = call(tmp_path, "stop")
    assert done.returncode == 130
    assert "Traceback" not in done.stderr


def test_wrong_usage_exits_with_2(tmp_path: Path) -> None:
    assert call(tmp_path, "nothing").returncode == 2


def test_version_and_plain_work(tmp_path: Path) -> None:
    assert call(tmp_path, "--version").stdout.startswith("transferline")
    done = call(tmp_path, "work")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_errors_outside_of_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    def broken(**_: object) -> None:
        raise DataError("no folder")

    with pytest.raises(SystemExit) as left:
        terminal.run(broken)  # type: ignore[arg-type]  # anything that can be called
    assert left.value.code == terminal.FAILED
    assert capsys.readouterr().err == "error: no folder\n"


def test_progress_off_a_terminal_is_a_line_now_and_then() -> None:
    now = [0.0]
    lines: list[str] = []
    advance = terminal._lines("round", total=4, print_line=lines.append, clock=lambda: now[0])
    for second in (1.0, 11.0, 12.0, 25.0):
        now[0] = second
        advance("plant-1")
    assert lines == ["round: 2/4 plant-1", "round: 4/4 plant-1"]
