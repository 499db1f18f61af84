from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import ConfigError, DataError, StateError
from simulation.factory import GOOD, classes_of, name_of, picture_of, surface_of, write_plants
from simulation.surfaces import DEFECTS, MATERIALS, draw


def test_folders_are_as_promised(tmp_path: Path) -> None:
    folders = write_plants(tmp_path / "root", plants=5, images_per_class=2, size=48)
    assert [folder.name for folder in folders] == ["steel", "casting", "enamel", "veneer", "tile"]
    assert sorted(path.name for path in (tmp_path / "root").iterdir()) == sorted(
        folder.name for folder in folders
    )
    for plant, folder in enumerate(folders):
        assert {path.name for path in folder.iterdir()} == set(classes_of(plant))
        for file in folder.rglob("*.png"):
            with Image.open(file) as image:
                assert (image.size, image.mode) == ((48, 48), "RGB")
        assert len(list(folder.rglob("*.png"))) == 8


def test_classes_differ_from_plant_to_plant() -> None:
    sets = [classes_of(plant) for plant in range(4)]
    assert len(set(sets)) == 4
    assert all(classes[0] == GOOD and len(classes) == 4 for classes in sets)
    assert {name for classes in sets for name in classes} == {GOOD, *DEFECTS}


def test_names_are_unique() -> None:
    names = [name_of(plant) for plant in range(50)]
    assert len(set(names)) == 50
    assert names[8] == "steel-2"


def test_the_seed_decides() -> None:
    def one(seed: int, *, number: int = 0) -> np.ndarray:
        return picture_of(1, "crack", number=number, size=64, seed=seed)

    assert np.array_equal(one(3), one(3))
    assert not np.array_equal(one(3), one(4))
    assert not np.array_equal(one(3), one(3, number=1))


@pytest.mark.parametrize("material", sorted(MATERIALS))
def test_materials_are_standard_patterns(material: str) -> None:
    surface = surface_of(0, seed=0)
    pattern = MATERIALS[material](surface, 64, np.random.default_rng(0))
    assert pattern.shape == (64, 64)
    assert abs(pattern.mean()) < 1e-9
    assert pattern.std() == pytest.approx(1)


@pytest.mark.parametrize("defect", sorted(DEFECTS))
@pytest.mark.parametrize("plant", range(8))
def test_defects_show_but_cover_little(defect: str, plant: int) -> None:
    """With the same noise, only the defect differs: seen, and not all over the picture."""
    surface = surface_of(plant, seed=0)
    height = np.zeros((96, 96))
    albedo = np.ones((96, 96))
    DEFECTS[defect](albedo, height, 96, np.random.default_rng(plant))
    changed = (np.abs(albedo - 1) > 0.05) | (np.abs(height) > 0.1)
    assert 0.005 < changed.mean() < 0.5
    picture = draw(surface, defect, size=96, rng=np.random.default_rng(plant))
    assert picture.dtype == np.uint8
    assert picture.std() > 3
    assert (picture == 255).mean() < 0.2


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"plants": 0}, "plants must be a whole number from 1 to 256, got 0"),
        ({"plants": 1, "images_per_class": 0}, "images_per_class must be a whole number from 1"),
        ({"plants": 1, "size": 8}, "size must be a whole number from 32 to 1024, got 8"),
        ({"plants": 1, "seed": -1}, "seed must be"),
    ],
)
def test_mistakes(tmp_path: Path, settings: dict[str, int], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        write_plants(tmp_path, **settings)


def test_a_plant_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "casting").mkdir()
    with pytest.raises(DataError, match="casting must not be there yet"):
        write_plants(tmp_path, plants=2, images_per_class=1)
    assert [path.name for path in tmp_path.iterdir()] == ["casting"]


def test_an_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="cannot write"):
        write_plants(tmp_path / "file" / "root", plants=1, images_per_class=1)
