from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from client.cli import app
from common.errors import DataError


@pytest.fixture
def plant(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("good", "scratch [deep]"):
        (tmp_path / name).mkdir()
        for number in range(20):
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    (tmp_path / "good" / "note.jpg").write_text("not an image")
    return tmp_path


def call(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["check", *arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def test_what_a_plant_holds(plant: Path) -> None:
    text = call(str(plant), "--good", "good", "--image-size", "32")
    lines = [line.split() for line in text.splitlines()]
    assert ["good", "(good)", "12", "4", "4"] in lines
    assert ["all", "24", "8", "8"] in lines
    assert "scratch [deep]" in text
    assert "skipped: good/note.jpg: not a JPEG, PNG, BMP or TIFF image" in text


def test_as_json(plant: Path) -> None:
    facts = json.loads(call(str(plant), "--labels-per-class", "4", "--json"))
    good = facts["classes"]["good"]
    assert good["train"] + good["validation"] == 4
    assert facts["skipped"][0]["file"] == "good/note.jpg"


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="folder must exist"):
        call(str(tmp_path / "nothing"))


def test_wrong_usage_exits_with_2(plant: Path) -> None:
    assert CliRunner().invoke(app, ["check", str(plant), "--image-size", "8"]).exit_code == 2
