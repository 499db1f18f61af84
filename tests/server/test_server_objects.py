"""Pieces as files behave as Flower's own store in memory, and leave nothing behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from flwr.app import Array, ArrayRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
)
from flwr.supercore.object_store.object_store import NoObjectInStoreError

from server.engine.objects import SMALL, FileObjectStore

RUN = 7


def content(seed: int, *, size: int = 3 * SMALL) -> RecordDict:
    data = bytes([seed]) * size
    return RecordDict({"a": ArrayRecord({"flat": Array("float32", (size // 4,), "raw", data)})})


def stored(store: FileObjectStore, record: RecordDict) -> dict[str, bytes]:
    """Announce and store a record; return its pieces."""
    pieces = {name: piece.deflate() for name, piece in get_all_nested_objects(record).items()}
    store.preregister(RUN, get_object_tree(record))
    for name, piece in pieces.items():
        store.put(name, piece)
    return pieces


@pytest.fixture
def store(tmp_path: Path) -> FileObjectStore:
    return FileObjectStore(tmp_path / "objects")


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "objects").iterdir())


def test_large_pieces_are_files_and_come_back_as_they_were(
    store: FileObjectStore, tmp_path: Path
) -> None:
    pieces = stored(store, content(1))
    large = sorted(name for name, piece in pieces.items() if len(piece) > SMALL)
    assert len(large) == 1
    assert files(tmp_path) == large
    assert {name: store.get(name) for name in pieces} == pieces
    assert (tmp_path / "objects").stat().st_mode & 0o777 == 0o700


def test_a_piece_goes_with_the_last_message_that_needs_it(
    store: FileObjectStore, tmp_path: Path
) -> None:
    first, second = content(1), content(1)
    second["more"] = content(2)["a"]
    stored(store, first)
    stored(store, second)
    assert len(files(tmp_path)) == 2
    store.delete(first.object_id)
    assert len(files(tmp_path)) == 2
    store.delete(second.object_id)
    assert files(tmp_path) == []
    assert len(store) == 0


@pytest.mark.parametrize("end", ["run", "clear"])
def test_with_its_run_all_is_gone(store: FileObjectStore, tmp_path: Path, end: str) -> None:
    stored(store, content(1))
    store.delete_objects_in_run(RUN) if end == "run" else store.clear()
    assert files(tmp_path) == []


def test_what_a_crash_left_is_removed(store: FileObjectStore, tmp_path: Path) -> None:
    pieces = stored(store, content(1))
    again = FileObjectStore(tmp_path / "objects")
    assert files(tmp_path) == []
    assert [again.get(name) for name in pieces] == [None] * len(pieces)


def test_a_piece_must_be_announced_and_what_its_name_says(
    store: FileObjectStore, tmp_path: Path
) -> None:
    record = content(1)
    name, piece = max(
        ((name, piece.deflate()) for name, piece in get_all_nested_objects(record).items()),
        key=lambda found: len(found[1]),
    )
    with pytest.raises(NoObjectInStoreError):
        store.put(name, piece)
    store.preregister(RUN, get_object_tree(record))
    assert store.get(name) == b""
    with pytest.raises(ValueError, match="does not match"):
        store.put(name, piece[:-1] + b"!")
    assert files(tmp_path) == []
    assert store.get(name) == b""


def test_a_full_disk_refuses_a_piece_and_harms_no_other(
    store: FileObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = stored(store, content(1))

    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(OSError, match="No space"):
            stored(store, content(2))
    assert {name: store.get(name) for name in pieces} == pieces
    assert len(files(tmp_path)) == 1
