from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.orm import Session

from common.errors import StateError
from common.orders import Release
from common.update import Schema
from server import federation as loop
from server.events import RoundClosed, Waiting
from server.releases import Releases
from server.state.store import Store, history


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """Return a folder in memory where there is one: these tests sync thousands of times."""
    shared = Path("/dev/shm")
    if not (shared.is_dir() and os.access(shared, os.W_OK)):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        yield Path(folder)


@pytest.fixture
def centre(make_centre: Any, memory: Path) -> Any:
    centre = make_centre(memory / "out")
    centre.configure(rounds=2, server={"optimiser": "fedyogi", "learning_rate": 0.01})
    return centre


@pytest.fixture
def undisturbed(centre: Any, make_centre: Any) -> str:
    """Return the hash of the last release of a run that nobody disturbs."""
    other = make_centre(centre.home.parent / "undisturbed")
    other.config = centre.config
    last: Release = other.open().run()
    return last.hash


def check_whole(centre: Any, expected: str) -> None:
    """Check that the folder holds one finished, unbroken chain and nothing else."""
    releases = Releases(centre.home)
    assert sorted(path.name for path in releases.folder.iterdir()) == ["0", "1", "2"]
    assert releases.latest().hash == expected
    for number in (1, 2):
        assert releases.manifest(number).parent == releases.read(number - 1).hash
    rows = history(centre.home)
    assert [row["release"] for row in rows] == [releases.read(n).hash for n in (1, 2)]
    assert all(len(row["replies"]) == 3 for row in rows)


def kill_at(call: int, function: Callable[..., Any], *, after: bool) -> Callable[..., Any]:
    """Return the function, dying before or after its n-th call."""
    calls = [0]

    def dying(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == call and not after:
            raise Killed
        result = function(*args, **kwargs)
        if calls[0] == call:
            raise Killed
        return result

    return dying


@pytest.mark.parametrize(
    ("owner", "name", "after", "every"),
    [
        (os, "replace", False, 1),
        (os, "fsync", True, 1),
        (DefaultDialect, "do_commit", False, 1),
        (DefaultDialect, "do_commit", True, 1),
        (Session, "flush", True, 4),
    ],
)
def test_killed_at_every_write_it_ends_the_same(
    centre: Any, undisturbed: str, owner: Any, name: str, *, after: bool, every: int
) -> None:
    original = getattr(owner, name)
    deaths = 0
    tables = centre.home.parent / "tables"
    Store(tables)
    for call in range(1, 1000, every):
        shutil.rmtree(centre.home, ignore_errors=True)
        shutil.copytree(tables, centre.home)
        centre.plants.outbox.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, name, kill_at(call, original, after=after))
            try:
                centre.open().run()
                break
            except Killed:
                deaths += 1
        assert centre.open().run().hash == undisturbed
        check_whole(centre, undisturbed)
    assert deaths >= 4


def test_a_round_committed_by_a_killed_program_is_told_by_the_next(centre: Any) -> None:
    """Killed between the commit and the event: who follows the run must not miss the round."""
    expected = centre.open()
    expected.run()
    whole = [event for event in centre.events if isinstance(event, RoundClosed)]
    assert [event.round for event in whole] == [1, 2, 3]

    shutil.rmtree(centre.home)
    centre.plants.outbox.clear()

    def die(event: Any) -> None:
        if isinstance(event, RoundClosed) and event.round == 2:
            raise Killed
        told.append(event)

    told: list[Any] = []
    with pytest.raises(Killed):
        centre.open(events=die).run()
    closed = [event.round for event in told if isinstance(event, RoundClosed)]
    assert closed == [1]
    resumed = centre.open(events=told.append)
    resumed.tell_missed(closed)
    resumed.run()
    again = [event for event in told if isinstance(event, RoundClosed)]
    assert [replace(event, seconds=0.0) for event in again] == [
        replace(event, seconds=0.0) for event in whole
    ]


def test_after_a_failed_commit_the_same_federation_can_go_on(
    centre: Any, undisturbed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = centre.open()
    with monkeypatch.context() as patch:
        # The order is the first, the round the second; its release is in its place by then.
        patch.setattr(
            DefaultDialect, "do_commit", kill_at(2, DefaultDialect.do_commit, after=False)
        )
        with pytest.raises(Killed):
            federation.run()
    assert (centre.home / "releases" / "1").is_dir()
    assert federation.release.number == 0
    assert federation.run().hash == undisturbed
    check_whole(centre, undisturbed)


@pytest.mark.parametrize("round_", [1, 2, 3])
@pytest.mark.parametrize("plant", ["ash", "oak"])
def test_killed_while_plants_answer_it_asks_the_same_again(
    centre: Any, undisturbed: str, round_: int, plant: str
) -> None:
    def die(name: str, order: Any) -> None:
        if (name, order.round) == (plant, round_):
            raise Killed

    centre.plants.before = die
    with pytest.raises(Killed):
        centre.open().run()
    centre.plants.before = lambda name, order: None
    centre.plants.asked.clear()
    assert centre.open().run().hash == undisturbed
    check_whole(centre, undisturbed)
    answered = {"ash": 0, "oak": 2}[plant]  # those before it in the cohort do not train again
    again = [name for _, number, name in centre.plants.asked if number == round_]
    assert len(again) == 3 - answered


def test_a_cohort_that_was_asked_is_asked_again(centre: Any, make_plants: Any) -> None:
    """The outbox of `Plants` refuses another order for the same round."""
    centre.configure(fraction=0.5, rounds=3)
    centre.plants.names = tuple("abcdef")

    def die(name: str, order: Any) -> None:
        if order.round == 2 and len(centre.plants.asked) > 4:
            raise Killed

    centre.plants.before = die
    with pytest.raises(Killed):
        centre.open().run()
    centre.plants.before = lambda name, order: None
    centre.plants.names = tuple("abcdefgh")
    centre.open().run()
    assert len(history(centre.home)[1]["replies"]) == 3
    assert len(history(centre.home)[2]["replies"]) == 4


def test_a_resumed_round_does_not_wait_for_ever_for_a_plant_that_died_too(
    centre: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    centre.configure(rounds=1, round_deadline=3600.0, min_plants=2)
    monkeypatch.setattr(loop, "RETURN", 0.3)

    def die(name: str, order: Any) -> None:
        raise Killed

    centre.plants.before = die
    with pytest.raises(Killed):
        centre.open().run()
    centre.plants.before = lambda name, order: None
    centre.plants.names = ("ash", "elm")
    centre.open().run()
    assert Waiting(round=1, connected=2, needed=3) in centre.events
    first = history(centre.home)[0]
    assert first["outcome"] == "committed"
    assert first["replies"]["oak"]["outcome"] != "done"


def test_a_finished_run_is_not_held_again(centre: Any, undisturbed: str) -> None:
    centre.open().run()
    centre.plants.asked.clear()
    assert centre.open().run().hash == undisturbed
    assert centre.plants.asked == []


def test_a_skipped_round_stays_skipped(centre: Any) -> None:
    centre.configure(min_plants=3, rounds=3)
    names = centre.plants.names

    def spoil(reply: Any) -> list[Any]:
        return [] if (reply.round, reply.plant) == (1, "ash") else [reply]

    def die(name: str, order: Any) -> None:
        if order.round == 2:
            raise Killed

    centre.plants.spoil, centre.plants.before = spoil, die
    with pytest.raises(Killed):
        centre.open().run()
    centre.plants.before = lambda name, order: None
    centre.plants.asked.clear()
    centre.open().run()
    assert names == centre.plants.names
    assert [row["outcome"] for row in history(centre.home)] == ["skipped", "committed", "committed"]
    assert 1 not in {number for _, number, _ in centre.plants.asked}


def test_a_changed_configuration_is_named(centre: Any) -> None:
    centre.configure(rounds=1)
    centre.open().run()
    centre.configure(rounds=2, server={"tau": 0.5})
    with pytest.raises(StateError) as caught:
        centre.open()
    text = str(caught.value)
    assert "rounds was 1, is 2; server.tau was 0.001, is 0.5" in text
    assert text.endswith("use another --out")
    assert "\n" not in text


def test_another_source_run_or_method_is_refused(centre: Any) -> None:
    centre.configure(rounds=1)
    before = centre.open().run()
    source = Release(number=0, schema=centre.source.schema, vector=centre.source.vector + 1)
    with pytest.raises(StateError, match="source weights differ"):
        centre.open(source=source)
    with pytest.raises(StateError, match="run was run, is other"):
        centre.open(run="other")
    with pytest.raises(StateError, match="what travels differs"):
        centre.open(travelling=frozenset({"backbone.a"}))
    assert centre.open().release.hash == before.hash


def test_a_federation_that_lost_its_run_can_commit_nothing(centre: Any, undisturbed: str) -> None:
    """A ServerApp can outlive its killed SuperLink, and a second one continues the run."""
    later: list[Any] = []

    def take_over(name: str, order: Any) -> None:
        if (name, order.round) == ("oak", 2) and not later:
            later.append(centre.open())

    centre.plants.before = take_over
    with pytest.raises(StateError, match="taken over by a later program"):
        centre.open().run()
    assert Releases(centre.home).numbers() == [0, 1]
    assert later[0].run().hash == undisturbed
    assert centre.open().run().hash == undisturbed
    check_whole(centre, undisturbed)


def test_a_zombie_with_other_replies_does_not_touch_a_committed_release(centre: Any) -> None:
    later: list[Release] = []

    def finish(name: str, order: Any) -> None:
        if (name, order.round) == ("oak", 2) and not later:
            later.append(type(centre)(centre.home).open(config=centre.config).run())

    centre.plants.before = finish
    zombie = centre.open()
    centre.plants.spoil = lambda reply: [] if reply.plant == "elm" else [reply]
    with pytest.raises(StateError, match="taken over"):
        zombie.run()
    assert Releases(centre.home).latest().hash == later[0].hash
    assert set(Releases(centre.home).manifest(2).replies) == {"ash", "elm", "oak"}


@pytest.mark.parametrize("name", ["backbone.safetensors", "optimiser.safetensors"])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_release_is_named(centre: Any, undisturbed: str, name: str, damage: str) -> None:
    centre.open().run()
    path = centre.home / "releases" / "2" / name
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[-3] ^= 1
        path.write_bytes(data)
    elif damage == "cut":
        path.write_bytes(data[:-40])
    else:
        path.unlink()
    with pytest.raises(StateError, match=name):
        centre.open()


def test_a_release_of_another_run_is_noticed(centre: Any, undisturbed: str) -> None:
    centre.open().run()
    place = centre.home / "releases" / "2"
    shutil.rmtree(place)
    shutil.copytree(centre.home / "releases" / "1", place)
    with pytest.raises(StateError, match=r"not the release that state\.db knows"):
        centre.open()


def test_a_database_that_is_none_is_one_line(centre: Any) -> None:
    centre.home.mkdir()
    (centre.home / "state.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(StateError, match=r"cannot use .*state\.db: file is not a database"):
        centre.open()


def test_history_of_nothing_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="run the federation first"):
        history(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_while_a_release_is_written(
    centre: Any, undisturbed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = os.fsync, [0]

    def full(handle: int) -> None:
        calls[0] += 1
        if calls[0] > 9:
            raise OSError(28, "No space left on device")
        original(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StateError, match=r"No space left on device.*--resume"):
            centre.open().run()
    assert not list((centre.home / "releases").glob(".*"))
    assert centre.open().run().hash == undisturbed
    check_whole(centre, undisturbed)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 512 KiB in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = run("mount", "-t", "tmpfs", "-o", "size=512k", "none", str(folder))
    if mounted is None or mounted.returncode:
        pytest.skip("may not mount a small file system here; needs root and CAP_SYS_ADMIN")
    yield folder
    run("umount", str(folder))


def run(*command: str) -> subprocess.CompletedProcess[bytes] | None:
    if shutil.which(command[0]) is None:
        return None
    return subprocess.run(command, check=False, capture_output=True)


def large(centre: Any) -> None:
    """Give the centre a source of 100 KB, so that the fifth release does not fit any more."""
    schema = Schema({"backbone.a": (40, 3), "backbone.norm": (25_000,), "backbone.b": (11,)})
    vector = np.random.default_rng(1).normal(size=schema.size).astype(np.float32)
    centre.source = Release(number=0, schema=schema, vector=vector)
    centre.configure(rounds=6)


def test_a_disk_that_is_really_full(centre: Any, make_centre: Any, small_disk: Path) -> None:
    other = make_centre(small_disk / "out")
    large(centre)
    other.config, other.source = centre.config, centre.source
    with pytest.raises(StateError, match="--resume") as caught:
        other.open().run()
    assert "\n" not in str(caught.value)
    run("mount", "-o", "remount,size=8m", str(small_disk))
    assert 0 < len(history(other.home)) < 6
    assert other.open().run().hash == centre.open().run().hash


def test_a_read_only_folder(centre: Any, make_centre: Any, small_disk: Path) -> None:
    other = make_centre(small_disk / "out")
    other.configure(rounds=1)
    last = other.open().run()
    run("mount", "-o", "remount,ro", str(small_disk))
    with pytest.raises(StateError, match=r"cannot use .*state\.db.*--resume") as caught:
        other.open()
    assert "\n" not in str(caught.value)
    with pytest.raises(StateError, match="cannot write"):
        make_centre(small_disk / "new").open()
    run("mount", "-o", "remount,rw", str(small_disk))
    assert other.open().run().hash == last.hash


SCRIPT = """
import json, os, shutil, sys
from pathlib import Path
import importlib.util

from sqlalchemy.engine.default import DefaultDialect
from server.state.audit import verify
from server.state.store import Store

spec = importlib.util.spec_from_file_location("plants", sys.argv[1])
plants = importlib.util.module_from_spec(spec)
sys.modules["plants"] = plants
spec.loader.exec_module(plants)
home, cases = Path(sys.argv[2]), json.loads(sys.argv[3])
keys = plants.make_keys(home.parent / "pki")

def dying(function, call, after):
    left = [call]
    def counting(*arguments):
        left[0] -= 1
        if not left[0] and not after:
            os.kill(os.getpid(), 9)
        function(*arguments)
        if not left[0]:
            os.kill(os.getpid(), 9)
    return counting

for where, call, after, database in cases:
    shutil.rmtree(home, ignore_errors=True)
    centre = plants.Centre(home, database, keys.signer)
    child = os.fork()
    if child == 0:
        owner, name = {"fsync": (os, "fsync"), "commit": (DefaultDialect, "do_commit")}[where]
        setattr(owner, name, dying(getattr(owner, name), call, after))
        centre.open().run()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    last = centre.open().run().hash
    faults = verify(Store(home, database), trust=keys.trust).faults
    print(json.dumps([os.WTERMSIG(status), last, faults]))
"""


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_really_killed_it_ends_the_same(
    centre: Any, make_centre: Any, memory: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    """With SIGKILL no `finally` runs, as when the power goes. The signed log stays whole too."""
    if kind == "sqlite":
        cases = [("fsync", call, False, "") for call in range(2, 30, 7)]
        cases += [("commit", 6, after, "") for after in (False, True)]
    else:
        server = request.getfixturevalue("postgres")
        cases = [
            ("commit", call, after, server.new_store(memory / "template"))
            for call in (2, 3, 5)
            for after in (False, True)
        ]
    centre.config = make_centre(memory).config
    expected = centre.open().run().hash
    conftest = Path(__file__).with_name("conftest.py")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, conftest, memory / "killed", json.dumps(cases)],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == len(cases)
    assert all(result == [9, expected, []] for result in results), results
