"""The personal store: whole versions or none."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.personal import EVIDENCE, ROUNDS_KEPT, PersonalStore, Version
from common.errors import StateError

ROOT = Path(__file__).resolve().parents[2]


def add(store: PersonalStore, value: float = 0.0, **fields: Any) -> Version:
    settings = {"kind": "round", "run": "a", "round": 1, "basis": "b", "scores": {"loss": 0.5}}
    return store.add({"head.bias": np.full(2, value, np.float32)}, **(settings | fields))


def test_what_was_stored_is_found(tmp_path: Path) -> None:
    store = PersonalStore(tmp_path / "personal")
    assert store.versions() == []
    assert store.deployed() is None
    first, second = add(store, 1.0), add(store, 2.0, round=2, basis="c")
    assert [version.number for version in store.versions()] == [1, 2]
    again = PersonalStore(tmp_path / "personal")
    assert again.versions() == [first, second]
    np.testing.assert_array_equal(again.load(second)["head.bias"], [2.0, 2.0])
    assert again.find(kind="round", basis="c") == second
    assert again.find(kind="local", basis="c") is None


def test_a_round_starts_from_the_last_one_before_it(tmp_path: Path) -> None:
    store = PersonalStore(tmp_path)
    for number in (1, 2, 4):
        add(store, number, round=number)
    add(store, run="other", round=3)
    add(store, kind="local", round=3)
    assert [store.before(run="a", round=n, meaning="") for n in (1,)] == [None]
    found = [store.before(run="a", round=number, meaning="") for number in (2, 3, 4, 9)]
    assert [version.round for version in found if version] == [1, 2, 2, 4]
    newer = add(store, 9.0, round=4)
    assert store.before(run="a", round=5, meaning="") == newer


def test_a_round_starts_from_no_part_of_another_meaning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = PersonalStore(tmp_path)
    first = add(store, 1.0, round=1, meaning="dark, light")
    assert store.before(run="a", round=2, meaning="dark, light") == first
    assert store.before(run="a", round=2, meaning="dark, grey, light") is None
    assert "a new personal part is begun" in caplog.text


def flip(path: Path) -> None:
    """Change a byte of the values, which safetensors does not notice."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 0x5A
    path.write_bytes(content)


def test_a_version_that_has_rotted_is_never_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = PersonalStore(tmp_path)
    first, second = add(store, 1.0, round=1), add(store, 2.0, round=2)
    whole = add(store, 3.0, kind="local", round=2)
    flip(tmp_path / "2/personal.safetensors")
    flip(tmp_path / "3/personal.safetensors")
    assert store.before(run="a", round=3, meaning="") == first
    assert "2/personal.safetensors is damaged" in caplog.text
    for version in (second, whole):
        with pytest.raises(StateError, match=r"damaged: .*its manifest says; restore it"):
            store.load(version)
    flip(tmp_path / "1/personal.safetensors")
    assert store.before(run="a", round=3, meaning="") is None


def test_half_a_version_is_no_version(tmp_path: Path) -> None:
    store = PersonalStore(tmp_path)
    add(store)
    shutil.copytree(tmp_path / "1", tmp_path / ".2.part")  # killed before the rename
    (tmp_path / ".2.part" / "manifest.json").unlink()
    (tmp_path / ".7.part").mkdir()
    assert [version.number for version in store.versions()] == [1]
    assert add(store, 5.0, round=2).number == 2
    np.testing.assert_array_equal(store.load(store.version(2))["head.bias"], [5.0, 5.0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


def test_pruning_keeps_whole_models_and_the_last_rounds(tmp_path: Path) -> None:
    store = PersonalStore(tmp_path)
    model = add(store, kind="local", basis="x", judged="these")
    for number in range(1, ROUNDS_KEPT + 4):
        add(store, number, round=number)
    versions = store.versions()
    assert versions[0] == model
    assert [v.round for v in versions[1:]] == list(range(4, ROUNDS_KEPT + 4))


def test_a_round_trained_again_takes_no_place_of_another(tmp_path: Path) -> None:
    store = PersonalStore(tmp_path)
    add(store, round=1)
    for _ in range(ROUNDS_KEPT + 1):
        add(store, round=2)
    assert [version.round for version in store.versions()] == [1, 2]
    start = store.before(run="a", round=2, meaning="")
    assert start is not None
    assert start.round == 1


def test_deployment(tmp_path: Path) -> None:
    store = PersonalStore(tmp_path)
    version = store.add(
        {"head.bias": np.ones(2, np.float32), EVIDENCE: np.full((3, 2), 0.5, np.float32)},
        kind="local",
        run="",
        round=0,
        basis="",
        scores={},
    )
    deployed = store.deploy(version, why="because")
    assert store.deployed() == deployed
    assert (deployed.version, deployed.source, deployed.why) == (1, "local", "because")
    assert list(store.model(1)) == ["head.bias"]
    assert store.evidence(version).shape == (3, 2)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("1/manifest.json", "{"),
        ("1/manifest.json", "[]"),
        ("1/manifest.json", '{"number": 1}'),
        ("1/personal.safetensors", "none"),
        ("deployed.json", '{"version": 1}'),
    ],
)
def test_damage_is_one_clear_line(tmp_path: Path, file: str, content: str) -> None:
    store = PersonalStore(tmp_path)
    version = add(store)
    (tmp_path / file).write_text(content)
    with pytest.raises(StateError) as caught:
        store.deployed(), store.versions(), store.load(version)
    assert file in str(caught.value)
    assert "is damaged" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_version_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"cannot read .*/3/manifest.json"):
        PersonalStore(tmp_path).version(3)


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    store = PersonalStore(tmp_path / "file" / "personal")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StateError, match="cannot write"):
        add(store)


def test_a_rollback_puts_an_earlier_model_back_and_says_so(tmp_path: Path) -> None:
    store = PersonalStore(tmp_path)
    first, second = add(store, kind="local"), add(store, 2.0, kind="federated", round=3)
    store.deploy(second, why="adopted")
    now = store.rollback(first.number)
    assert now == PersonalStore(tmp_path).deployed()
    assert (now.version, now.source) == (first.number, "local")
    assert now.why == "put back by hand, for version 2"


def test_a_rollback_needs_another_whole_model(tmp_path: Path) -> None:
    store = PersonalStore(tmp_path)
    with pytest.raises(StateError, match=r"whole models at this plant \(none\), got 1"):
        store.rollback(1)
    part, model = add(store), add(store, kind="local")
    store.deploy(model, why="first")
    for number in (part.number, 7):
        with pytest.raises(StateError, match=rf"\(2\), got {number}; list them"):
            store.rollback(number)
    with pytest.raises(StateError, match="version 2 inspects parts already"):
        store.rollback(model.number)
    found = store.deployed()
    assert found is not None
    assert found.why == "first"


def test_a_rollback_waits_for_an_adoption_in_another_process(tmp_path: Path) -> None:
    store = PersonalStore(tmp_path)
    first, second = add(store, kind="local"), add(store, 2.0, kind="federated")
    code = (
        "import pathlib, sys, client.personal as p\n"
        "print('ready', flush=True)\n"
        f"p.PersonalStore(pathlib.Path({str(tmp_path)!r})).rollback({first.number})"
    )
    call = [sys.executable, "-c", code]
    with subprocess.Popen(call, cwd=ROOT, stdout=subprocess.PIPE, text=True) as other:
        with store.exclusive():
            assert other.stdout is not None
            assert other.stdout.readline() == "ready\n"
            with pytest.raises(subprocess.TimeoutExpired):
                other.wait(timeout=0.5)
            store.deploy(second, why="adopted")
        assert other.wait(timeout=60) == 0
    found = store.deployed()
    assert found is not None
    assert found.version == first.number
