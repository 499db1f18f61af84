from __future__ import annotations

import csv
import gzip
import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from client.tasks.folder import find, read_groups
from common.errors import ConfigError, DataError, StateError
from simulation.camera import camera_of, photograph
from simulation.split import split_product


def picture(path: Path, *, seed: int, size: tuple[int, int] = (40, 40)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(values).save(path)


@pytest.fixture
def product(tmp_path: Path) -> Path:
    folder = tmp_path / "product"
    for label, name in enumerate(("good", "scratch", "stain")):
        for number in range(30):
            picture(folder / name / f"{name}_{number}.png", seed=100 * label + number)
    return folder


def rows(folder: Path) -> list[dict[str, str]]:
    with gzip.open(folder / "manifest.csv.gz", "rt", newline="") as text:
        return list(csv.DictReader(text))


def tree(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_without_cameras_every_file_is_copied_once(product: Path, tmp_path: Path) -> None:
    cut = split_product(product, tmp_path / "out", plants=2, minimum=5)
    assert [folder.name for folder in cut.folders] == ["plant-1", "plant-2"]
    source, written = tree(product), tree(tmp_path / "out")
    written.pop("manifest.csv.gz")
    assert sorted(written.values()) == sorted(source.values())
    assert cut.counts == {p: {"good": 15, "scratch": 15, "stain": 15} for p in cut.counts}
    assert (cut.left_out, cut.skipped) == (0, ())
    assert {row["file"] for row in rows(tmp_path / "out")} == written.keys()


def test_the_same_seed_gives_the_same_bytes(product: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        split_product(product, tmp_path / name, plants=2, cameras=True, seed=seed, minimum=5)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert tree(tmp_path / "a") != tree(tmp_path / "c")


def test_a_cut_can_be_read_as_plants(product: Path, tmp_path: Path) -> None:
    cut = split_product(
        product, tmp_path / "out", plants=3, labels="dirichlet:0.5", cameras=True, minimum=4
    )
    for folder in cut.folders:
        classes, found = find(folder)
        assert Counter(classes[one.label] for one in found) == cut.counts[folder.name]
        groups = read_groups(folder, files=[one.file for one in found])
        assert None not in groups
    seen = {name for counts in cut.counts.values() for name in counts}
    assert seen == {"good", "scratch", "stain"}


def test_groups_and_copies_stay_together(product: Path, tmp_path: Path) -> None:
    (product / "good" / "copy.png").write_bytes((product / "good" / "good_0.png").read_bytes())
    with gzip.open(tmp_path / "manifest.csv.gz", "wt", newline="") as text:
        text.write("file,group\n")
        for name in ("good", "scratch", "stain"):
            for number in range(30):
                text.write(f"product/{name}/{name}_{number}.png,board-{number // 3}\n")
    split_product(product, tmp_path / "out", plants=3, minimum=3)
    owner: dict[str, set[str]] = {}
    for row in rows(tmp_path / "out"):
        stem = row["source"].split("/")[1].split(".")[0]
        board = "0" if stem == "copy" else str(int(stem.split("_")[1]) // 3)
        owner.setdefault(board, set()).add(row["file"].split("/")[0])
        owner.setdefault(f"group {row['group']}", set()).add(row["file"].split("/")[0])
    assert len(owner) == 20
    assert all(len(plants) == 1 for plants in owner.values())


def test_a_file_that_is_no_image_is_skipped_by_a_camera(product: Path, tmp_path: Path) -> None:
    (product / "good" / "note.jpg").write_text("not an image")
    cut = split_product(product, tmp_path / "out", plants=2, cameras=True, minimum=5)
    assert [(one.file, one.why) for one in cut.skipped] == [
        ("good/note.jpg", "not a JPEG, PNG, BMP or TIFF image")
    ]
    assert sum(sum(counts.values()) for counts in cut.counts.values()) == 90


def test_names_that_differ_by_ending_only_do_not_collide(product: Path, tmp_path: Path) -> None:
    for number in range(30):
        picture(product / "good" / f"good_{number}.bmp", seed=1000 + number)
    cut = split_product(product, tmp_path / "out", plants=1, cameras=True, minimum=5)
    assert cut.counts["plant-1"]["good"] == 60
    assert len(find(cut.folders[0])[1]) == 120


def test_odd_shapes_keep_their_shape(product: Path, tmp_path: Path) -> None:
    picture(product / "good" / "wide.png", seed=9, size=(90, 30))
    split_product(product, tmp_path / "out", plants=1, cameras=True, minimum=5)
    with Image.open(tmp_path / "out" / "plant-1" / "good" / "wide.jpg") as image:
        assert image.size == (90, 30)


@pytest.mark.parametrize(
    ("change", "error", "complaint"),
    [
        ({"plants": 0}, ConfigError, "plants must be a whole number of at least 1, got 0"),
        ({"seed": -1}, ConfigError, "seed must be a whole number of at least 0, got -1"),
        ({"labels": "skewed"}, ConfigError, "labels must be iid or dirichlet:ALPHA"),
        ({"plants": 200}, DataError, "images must be enough for 200 plants"),
    ],
)
def test_mistakes(
    product: Path,
    tmp_path: Path,
    change: dict[str, object],
    error: type[Exception],
    complaint: str,
) -> None:
    settings: dict[str, object] = {"plants": 2, **change}
    with pytest.raises(error, match=complaint) as raised:
        split_product(product, tmp_path / "out", **settings)  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="folder must exist"):
        split_product(tmp_path / "nothing", tmp_path / "out", plants=2)


def test_a_folder_in_use_is_left_alone(product: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    with pytest.raises(DataError, match="must be a new or empty folder"):
        split_product(product, tmp_path / "out", plants=2)
    assert (tmp_path / "out" / "mine.txt").read_text() == "keep"


def test_an_unwritable_folder(product: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="cannot write"):
        split_product(product, tmp_path / "file" / "out", plants=2, minimum=5)


def test_cameras_differ_between_plants_and_hardly_between_pictures() -> None:
    image = np.random.default_rng(0).integers(60, 200, (48, 48, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(image).resize((12, 12)).resize((64, 48)))
    one, again, other = (
        photograph(image, camera_of(plant, seed=0), rng=np.random.default_rng(draw)).astype(float)
        for plant, draw in ((0, 0), (0, 1), (1, 0))
    )
    assert one.shape == image.shape
    assert 0 < np.abs(one - again).mean() < np.abs(one - other).mean() / 2


def test_real_images(real_data: Path, tmp_path: Path) -> None:
    product = tmp_path / "tile"
    for folder in sorted((real_data / "images" / "magnetic_tile").iterdir()):
        (product / folder.name).mkdir(parents=True)
        for file in sorted(folder.iterdir())[:24]:
            (product / folder.name / file.name).write_bytes(file.read_bytes())
    cut = split_product(
        product, tmp_path / "out", plants=3, labels="dirichlet:0.3", cameras=True, minimum=8
    )
    assert sum(sum(counts.values()) for counts in cut.counts.values()) == 6 * 24
    assert all(len(counts) >= 2 for counts in cut.counts.values())
    assert min(min(counts.values()) for counts in cut.counts.values()) >= 8
