"""What a plant's model says of new examples: the same as of its own, whatever kind they are of."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from client.cli import app
from client.console.inspecting import inspect
from client.plant import Plant
from common.config import FederationConfig
from common.errors import DataError, StateError
from common.source import start
from common.tasks import KINDS
from tests.simulation.test_methods_on_tasks import made


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Plant:
    """Return a plant of images that has a model."""
    return trained("image-classification", tmp_path_factory.mktemp("images"))


def trained(task: str, folder: Path) -> Plant:
    config, plants = made(task, folder)
    begun = start(config, base=folder)
    plant = plants[0]
    version = plant.train_alone("head_only", source=begun.release, config=begun.config)
    plant.store.deploy(version, why="for this test")
    return plant


@pytest.mark.parametrize("task", KINDS)
def test_a_new_example_is_judged_as_the_same_one_was_in_the_test(task: str, tmp_path: Path) -> None:
    plant = trained(task, tmp_path)
    found = inspect(plant.folder, Path(plant.settings.data))
    config = FederationConfig.model_validate_json(plant.store.version(1).config)
    expected = plant.test(1, config=config)
    said = dict(zip(found.names, found.predicted, strict=True))
    shared = [name for name in expected.names if name in said]
    assert shared
    assert found.notes == ()  # nothing is unlike what the model was made from
    for name, values in zip(expected.names, expected.predicted, strict=True):
        if name in said:
            assert np.allclose(said[name], values, atol=1e-5), name
    rows = found.facts()["examples"]
    assert [row["name"] for row in rows] == list(found.names)
    assert json.dumps(rows)


@pytest.mark.parametrize("task", KINDS)
def test_the_plants_data_of_today_has_no_say(task: str, tmp_path: Path) -> None:
    """Nothing is read, scaled or named by what lies in the folder now: it may even be gone."""
    plant = trained(task, tmp_path)
    parts = shutil.copytree(plant.settings.data, tmp_path / "parts")
    before = inspect(plant.folder, parts)
    shutil.rmtree(plant.settings.data)
    after = inspect(plant.folder, parts)
    assert (after.names, after.outputs, after.good) == (before.names, before.outputs, before.good)
    np.testing.assert_array_equal(after.predicted, before.predicted)


def test_a_model_that_does_not_say_what_it_means_is_one_line(images: Plant, tmp_path: Path) -> None:
    folder = shutil.copytree(images.folder, tmp_path / "older")
    manifest = folder / "personal" / "1" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"meaning": ""}))
    with pytest.raises(StateError, match="model 1 must say what its answers mean"):
        inspect(folder, tmp_path)


def test_the_command_judges_a_file_and_says_what_it_could_not_read(
    images: Plant, tmp_path: Path
) -> None:
    data = Path(images.settings.data)
    one = sorted(data.rglob("*.png"))[0]
    (tmp_path / "today").mkdir()
    (tmp_path / "today" / "[left] part.png").write_bytes(one.read_bytes())
    (tmp_path / "today" / "broken.png").write_text("no image")
    result = CliRunner().invoke(app, ["inspect", str(images.folder), str(tmp_path / "today")])
    assert result.exit_code == 0, result.output
    assert "[left] part.png" in result.output
    assert "skipped: broken.png: not a JPEG, PNG, BMP or TIFF image" in result.output
    assert "1 judged by version 1 (head_only)" in result.output
    path = str(tmp_path / "today" / "[left] part.png")
    result = CliRunner().invoke(app, ["inspect", str(images.folder), path, "--json"])
    (row,) = json.loads(result.output)["examples"]
    assert row["class"] == max(row["probabilities"], key=row["probabilities"].get)


def test_a_plant_without_a_model_says_so(tmp_path: Path) -> None:
    _, plants = made("image-classification", tmp_path)
    with pytest.raises(StateError, match="must have a model to inspect with, got none"):
        inspect(plants[0].folder, tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("nothing", None, "images must exist"),
        ("empty/", None, "must hold image files"),
        ("broken.png", "no image", "must hold an image that can be read, got none; broken.png"),
    ],
)
def test_what_cannot_be_judged_is_told(
    images: Plant, tmp_path: Path, name: str, text: str | None, said: str
) -> None:
    place = tmp_path / name
    if name.endswith("/"):
        place.mkdir()
    if text is not None:
        place.write_text(text)
    with pytest.raises(DataError, match=said):
        inspect(images.folder, place)


def test_a_table_needs_the_columns_of_the_model(tmp_path: Path) -> None:
    plant = trained("tabular", tmp_path)
    table = next(Path(plant.settings.data).glob("*.csv*"))
    read = gzip.decompress(table.read_bytes()) if table.suffix == ".gz" else table.read_bytes()
    lines = read.decode().splitlines()
    short = tmp_path / "short.csv"
    short.write_text("\n".join(",".join(line.split(",")[1:]) for line in lines[:5]) + "\n")
    with pytest.raises(DataError, match=f"{lines[0].split(',')[0]} missing; it has"):
        inspect(plant.folder, short)


def test_rows_unlike_those_of_the_model_are_warned_of(tmp_path: Path) -> None:
    plant = trained("tabular", tmp_path)
    table = next(Path(plant.settings.data).glob("*.csv"))
    header, *rows = (line.split(",") for line in table.read_text().splitlines())
    assert inspect(plant.folder, table).notes == ()
    melt, supplier = header.index("melt_C"), header.index("supplier")
    for number, row in enumerate(rows):
        row[melt] = str(1000 * float(row[melt] or 0))
        row[supplier] = f"new{number % 5}"
    odd = tmp_path / "odd.csv"
    odd.write_text("\n".join(",".join(row) for row in [header, *rows]) + "\n")

    result = CliRunner().invoke(app, ["inspect", str(plant.folder), str(odd)])

    assert result.exit_code == 0, result.output
    units, names = result.stderr.splitlines()[-2:]
    assert units.startswith("warning: column melt_C: median 2")
    assert " lies outside the model's range " in units
    assert units.endswith(": other units?")
    assert names == (
        "warning: column supplier: the model does not know new0, new1, new2 and 2 more: missing "
        "there"
    )
    result = CliRunner().invoke(app, ["inspect", str(plant.folder), str(odd), "--json"])
    assert [f"warning: {note}" for note in json.loads(result.stdout)["notes"]] == [units, names]
