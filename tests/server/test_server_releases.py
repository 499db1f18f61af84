from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from common.errors import StateError
from common.orders import Release
from common.update import Schema
from server.releases import Manifest, Releases, digest_of, read_release

#: Names whose order is not the alphabet's: safetensors sorts, the vector must not.
SCHEMA = Schema({"backbone.z": (2, 3), "backbone.a": (4,), "backbone.m": (1,)})


def publish(home: Path, number: int, *, optimiser: bool = False) -> Release:
    draws = np.random.default_rng(number)
    vector = draws.normal(size=SCHEMA.size).astype(np.float32)
    release = Release(number=number, schema=SCHEMA, vector=vector)
    state = {"first": vector * 2} if optimiser else {}
    manifest = Manifest(
        transferline="0.1.0",
        number=number,
        run="run",
        method="fedper",
        hash=release.hash,
        schema_digest=SCHEMA.digest,
        optimiser=digest_of(state),
        created="2026-01-01T00:00:00+00:00",
        backbone="mobilenet_v2",
        image_size=96,
        mean=(0.5, 0.5, 0.5),
        std=(0.2, 0.2, 0.2),
        classes=(),
    )
    releases = Releases(home)
    releases.publish(releases.write(release, manifest, state), number)
    return release


def test_what_is_written_is_read(tmp_path: Path) -> None:
    written = publish(tmp_path, 3, optimiser=True)
    releases = Releases(tmp_path)
    read = releases.read(3)
    assert read.hash == written.hash
    assert list(read.schema.shapes) == list(SCHEMA.shapes)
    assert read.vector.tobytes() == written.vector.tobytes()
    assert np.array_equal(releases.optimiser(3)["first"], written.vector * 2)
    assert releases.manifest(3).std == (0.2, 0.2, 0.2)


def test_a_release_folder_can_be_read_alone(tmp_path: Path) -> None:
    written = publish(tmp_path, 1)
    moved = (tmp_path / "releases" / "1").rename(tmp_path / "elsewhere")
    assert read_release(moved).hash == written.hash


def test_the_latest_is_the_highest_number(tmp_path: Path) -> None:
    for number in (2, 10, 9):
        publish(tmp_path, number)
    assert Releases(tmp_path).numbers() == [2, 9, 10]
    assert Releases(tmp_path).latest().number == 10


def test_there_is_no_latest_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="run the federation first"):
        Releases(tmp_path).latest()


def test_what_does_not_count_is_removed(tmp_path: Path) -> None:
    for number in (0, 1, 2):
        publish(tmp_path, number)
    releases = Releases(tmp_path)
    (releases.folder / ".3.abcd.part").mkdir()
    (releases.folder / "notes.txt").write_text("kept: it is none of ours")
    releases.keep([0, 1])
    assert sorted(path.name for path in releases.folder.iterdir()) == ["0", "1", "notes.txt"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"hash": "0" * 64}, "its hash is not that of manifest.json"),
        ({"schema_digest": "0" * 64}, "its tensors are not those of manifest.json"),
        ({"number": "three"}, "number: input should be a valid integer"),
        ({"what": 1}, "what: extra inputs are not permitted"),
    ],
)
def test_a_manifest_that_does_not_fit_is_one_line(
    tmp_path: Path, change: dict[str, object], complaint: str
) -> None:
    publish(tmp_path, 1)
    path = tmp_path / "releases" / "1" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(StateError, match=complaint) as caught:
        Releases(tmp_path).read(1)
    assert "restore the folder from a backup" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_optimiser_state_that_was_changed_is_noticed(tmp_path: Path) -> None:
    publish(tmp_path, 1, optimiser=True)
    path = tmp_path / "releases" / "1" / "optimiser.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(StateError, match=r"optimiser\.safetensors is damaged"):
        Releases(tmp_path).optimiser(1)


def test_the_digest_sees_names_shapes_and_values() -> None:
    zeros = np.zeros((2, 3), np.float32)
    digests = [
        digest_of(tensors)
        for tensors in (
            {},
            {"a": zeros},
            {"b": zeros},
            {"a": zeros.reshape(3, 2)},
            {"a": zeros + 1},
        )
    ]
    assert len(set(digests)) == 5
    assert digests[0] == ""
    assert digest_of({"a": zeros, "b": zeros}) == digest_of({"b": zeros, "a": zeros})
