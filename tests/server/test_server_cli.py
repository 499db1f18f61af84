from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from common.errors import StateError
from common.orders import Release
from common.update import Schema
from server.cli import app
from server.releases import Manifest, Releases


def write(home: Path, *, number: int, parent: str | None) -> str:
    """Write one small release and return its hash."""
    schema = Schema({"backbone.weight": (2, 3), "backbone.bias": (2,)})
    release = Release(number=number, schema=schema, vector=np.full(8, number, np.float32))
    manifest = Manifest(
        transferline="0.1.0",
        number=number,
        run="r",
        round=number,
        method="fedper",
        hash=release.hash,
        schema_digest=schema.digest,
        parent=parent,
        replies={"steel": 40, "wood": 60} if parent else {},
        scale=1 << 30,
        optimiser="",
        created="2025-01-01T00:00:00+00:00",
        backbone="resnet18",
        image_size=96,
        mean=None,
        std=None,
        classes=(),
    )
    releases = Releases(home)
    releases.publish(releases.write(release, manifest, {}), number)
    return release.hash


@pytest.fixture
def home(tmp_path: Path) -> Path:
    parent = None
    for number in range(3):
        parent = write(tmp_path, number=number, parent=parent)
    return tmp_path


def call(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["releases", *arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def test_list(home: Path) -> None:
    lines = call("list", str(home)).splitlines()
    assert lines[0].split()[:3] == ["release", "round", "method"]
    assert lines[1].split()[:3] == ["0", "0", "source"]
    assert lines[3].split()[:5] == ["2", "2", "fedper", "2", "100"]
    assert [entry["number"] for entry in json.loads(call("list", str(home), "--json"))] == [0, 1, 2]


def test_show(home: Path) -> None:
    text = call("show", str(home), "2")
    assert "steel, 40 examples" in text
    assert json.loads(call("show", str(home), "2", "--json"))["replies"] == {
        "steel": 40,
        "wood": 60,
    }


def test_a_release_that_is_not_there(home: Path) -> None:
    with pytest.raises(StateError, match=r"release must be one of \[0, 1, 2\], got 7"):
        call("show", str(home), "7")


def test_a_folder_without_releases(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="must be the folder of a run, got one without releases"):
        call("list", str(tmp_path / "nothing"))


def test_verify(home: Path) -> None:
    assert call("verify", str(home)) == "3 releases are what was written\n"


def test_verify_finds_a_changed_value(home: Path) -> None:
    file = home / "releases" / "1" / "backbone.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(StateError, match="damaged"):
        call("verify", str(home))


def test_verify_finds_a_release_of_another_run(home: Path) -> None:
    write(home, number=3, parent="ab" * 32)
    with pytest.raises(StateError, match="must follow a release before it, got parent abab"):
        call("verify", str(home))
