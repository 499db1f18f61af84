"""Files are whole or not there, and damage is one clear line."""

import os
from pathlib import Path

import numpy as np
import pytest

from common.errors import StateError
from common.files import load_tensors, read_json, save_tensors, write_atomic, write_json


@pytest.mark.parametrize("tensors", [{}, {"a": np.arange(3, dtype=np.float32)}])
@pytest.mark.parametrize("metadata", [None, {}, {"key": "value"}])
def test_tensors_come_back(
    tmp_path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str] | None
) -> None:
    path = tmp_path / "folder" / "x.safetensors"
    save_tensors(path, tensors, metadata)
    found, told = load_tensors(path)
    assert {name: value.tolist() for name, value in found.items()} == {
        name: value.tolist() for name, value in tensors.items()
    }
    assert told == (metadata or {})


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"old": 1})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StateError, match="No space left on device"):
        write_json(path, {"new": 2})
    assert read_json(path) == {"old": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"\x00" * 64])
def test_damage_is_one_line_that_names_the_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x"
    write_atomic(path, content)
    for read in (read_json, load_tensors):
        with pytest.raises(StateError, match=r"x is damaged") as caught:
            read(path)
        assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for read in (read_json, load_tensors):
        with pytest.raises(StateError, match=r"cannot read .*nowhere"):
            read(tmp_path / "nowhere")
