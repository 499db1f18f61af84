"""Events arrive in order and whole, and a writer's death is noticed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.errors import StateError
from common.orders import Kind
from server.engine.event_log import FILE, EventReader, writing
from server.events import Event, ReplyArrived, RoundClosed, RoundStarted, Waiting

EVENTS: list[Event] = [
    Waiting(round=1, connected=0, needed=2),
    RoundStarted(round=1, rounds=3, kind=Kind.TRAIN, cohort=("a", "b")),
    ReplyArrived(round=1, plant="a", outcome="done", reason="", seconds=0.5),
    RoundClosed(
        round=1,
        rounds=3,
        kind=Kind.TRAIN,
        outcome="committed",
        reason="",
        release="0" * 64,
        seconds=1.5,
        counted=2,
    ),
]


def test_events_come_back_as_they_were(tmp_path: Path) -> None:
    reader = EventReader(tmp_path)
    with writing(tmp_path) as tell:
        for event in EVENTS:
            tell(event)
            assert list(reader.read()) == [event]
    assert list(reader.read()) == []
    reader.close()


def test_half_a_line_waits_for_its_end(tmp_path: Path) -> None:
    reader = EventReader(tmp_path)
    with writing(tmp_path) as tell:
        tell(EVENTS[0])
    whole = (tmp_path / FILE).read_text()
    with (tmp_path / FILE).open("a") as file:
        file.write(whole[:20])
    assert list(reader.read()) == [EVENTS[0]]
    with (tmp_path / FILE).open("a") as file:
        file.write(whole[20:])
    assert list(reader.read()) == [EVENTS[0]]
    reader.close()


def test_the_next_writer_knows_which_rounds_were_told_and_spoils_no_line(tmp_path: Path) -> None:
    with writing(tmp_path) as tell:
        assert tell.closed == frozenset()
        for event in EVENTS:
            tell(event)
    with (tmp_path / FILE).open("a") as file:
        file.write('{"event": "RoundClos')  # and killed
    reader = EventReader(tmp_path, fresh=False)
    with writing(tmp_path) as tell:
        assert tell.closed == {1}
        tell(EVENTS[1])
    assert list(reader.read()) == [*EVENTS, EVENTS[1]]
    reader.close()


def test_a_second_run_in_the_folder_is_refused(tmp_path: Path) -> None:
    with (
        writing(tmp_path),
        pytest.raises(StateError, match="must be of one run"),
        writing(tmp_path),
    ):
        pass


def test_a_killed_writer_is_noticed(tmp_path: Path) -> None:
    reader = EventReader(tmp_path)
    assert not reader.writer_gone()
    code = f"import time\nfrom pathlib import Path\nfrom server.engine.event_log import writing\n\
with writing(Path({str(tmp_path)!r})):\n    print('here', flush=True)\n    time.sleep(60)"
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=root
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        assert not reader.writer_gone()
        process.send_signal(signal.SIGKILL)
    time.sleep(0.05)
    assert reader.writer_gone()
    reader.close()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="cannot write"), writing(tmp_path / "nowhere"):
        pass
