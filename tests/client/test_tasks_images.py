import gzip
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from client.tasks import TASKS, Task
from client.tasks.data import PlantData
from client.tasks.images import ImageTask, Selection, load_images
from client.tasks.metrics import Prediction
from client.tasks.split import FOLDS
from common.errors import ConfigError, DataError


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def plant(tmp_path: Path) -> Path:
    """12 images of each of three classes; images of one class have one brightness."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(("dent", "good", "scratch")):
        (tmp_path / "plant" / name).mkdir(parents=True)
        for number in range(12):
            pixels = rng.integers(0, 40, (40, 40, 3)) + 80 * label
            Image.fromarray(pixels.astype(np.uint8)).save(
                tmp_path / "plant" / name / f"{number:02}.png"
            )
    return tmp_path / "plant"


def load(plant: Path, cache: Path | None = None, **selection: object) -> tuple[PlantData, int]:
    """Load, and count the files that were decoded."""
    calls: list[int] = []
    data = load_images(
        plant,
        selection=Selection(image_size=32, **selection),
        cache=cache,
        progress=lambda done, total: calls.append(done),
    )
    return data, len(calls)


def same(one: PlantData, other: PlantData) -> bool:
    tensors = ("inputs", "targets", "train", "validation", "test")
    return one.names == other.names and all(
        torch.equal(getattr(one, name), getattr(other, name)) for name in tensors
    )


def test_images_in_use_only_with_their_labels(plant: Path) -> None:
    data, _ = load(plant, labels_per_class=5, test_per_class=2)
    assert data.classes == ("dent", "good", "scratch")
    assert data.counts["train"] + data.counts["validation"] == 15
    assert data.counts["test"] == 6
    assert data.inputs.shape == (21, 3, 32, 32)
    assert data.inputs.dtype == torch.uint8
    assert data.inputs.is_contiguous()
    assert len(data.names) == len(data.targets) == 21
    brightness = data.inputs.float().mean(dim=(1, 2, 3))
    assert torch.equal((brightness / 80).long(), data.targets)
    assert all(
        file.startswith(data.classes[label])
        for file, label in zip(data.names, data.targets, strict=True)
    )
    assert len(data.folds) == FOLDS
    assert torch.equal(data.folds[0][0], data.train)
    used = torch.cat([data.train, data.validation, data.test])
    assert sorted(used.tolist()) == list(range(21))


def test_few_test_images_are_noted(plant: Path) -> None:
    data, _ = load(plant, labels_per_class=5, classes=("good", "dent"))
    assert data.notes == ("class good leaves 7 test images", "class dent leaves 7 test images")
    data, _ = load(plant, labels_per_class=11)
    assert data.notes[0] == "class dent leaves 1 test image"
    data, _ = load(plant, labels_per_class=2, test_per_class=3)
    assert data.notes == ()


def test_broken_files_are_skipped_by_name(plant: Path, tmp_path: Path) -> None:
    (plant / "dent/00.png").write_bytes(b"")
    (plant / "good/text.jpg").write_text("no image")
    data = (plant / "scratch/03.png").read_bytes()
    (plant / "scratch/03.png").write_bytes(data[: len(data) // 2])
    (plant / "scratch/linked.png").symlink_to(plant / "nowhere.png")
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        loaded, _ = load(plant, cache)
        skipped = {item.file: item.why for item in loaded.skipped}
        assert skipped["dent/00.png"] == "empty file"
        assert skipped["good/text.jpg"] == "not a JPEG, PNG, BMP or TIFF image"
        assert skipped["scratch/03.png"].startswith("damaged image: ")
        assert len(skipped) == 3
        assert not set(skipped) & set(loaded.names)


def test_a_class_of_broken_files_names_the_first(plant: Path) -> None:
    for path in (plant / "good").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"plant/good must hold usable .* \(good/00.png: empty f"):
        load(plant)


def test_too_few_images_name_folder_class_count_and_need(plant: Path) -> None:
    with pytest.raises(
        DataError, match=r"class dent of .*/plant must have at least 21 usable examples .*, got 12;"
    ):
        load(plant, labels_per_class=20)


def test_a_good_class_that_is_not_there(plant: Path) -> None:
    with pytest.raises(ConfigError, match=r"good must be one of the classes .*, got 'fine'"):
        load(plant, good="fine")
    with pytest.raises(ConfigError, match="got 'good'"):
        load(plant, good="good", classes=("dent", "scratch"))


def test_unused_classes_are_not_read(plant: Path) -> None:
    (plant / "good/00.png").write_bytes(b"")
    data, decoded = load(plant, classes=("scratch", "dent"))
    assert decoded == 24
    assert data.classes == ("scratch", "dent")
    assert data.skipped == ()
    assert data.names[0].startswith("scratch/")


def test_copies_and_manifest_groups_do_not_straddle(plant: Path) -> None:
    (plant / "dent/copy.png").write_bytes((plant / "dent/05.png").read_bytes())
    rows = [f"plant/good/{n:02}.png,lot{n // 3}" for n in range(12)]
    (plant.parent / "manifest.csv.gz").write_bytes(
        gzip.compress("\n".join(["file,group", *rows]).encode())
    )
    for seed in range(8):
        data, _ = load(plant, seed=seed)
        sets: dict[str, set[str]] = {}
        assert data.groups is not None
        assert data.groups.dtype == torch.int64
        numbers: dict[str, set[int]] = {}
        for name in ("train", "validation", "test"):
            for index in getattr(data, name).tolist():
                file = data.names[index]
                group = f"lot{int(file[5:7]) // 3}" if file.startswith("good/") else file
                group = "copy" if file in ("dent/copy.png", "dent/05.png") else group
                sets.setdefault(group, set()).add(name)
                numbers.setdefault(group, set()).add(int(data.groups[index]))
        assert all(len(names) == 1 for names in sets.values())
        assert len({*map(tuple, numbers.values())}) == len(numbers) == len(data.groups.unique())


def test_the_same_image_in_two_classes_is_noted(plant: Path) -> None:
    (plant / "good/x.png").write_bytes((plant / "dent/05.png").read_bytes())
    data, _ = load(plant)
    assert "the same image is in different classes: dent/05.png, good/x.png" in data.notes


def test_the_cache_gives_the_same_without_decoding(plant: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first, decoded = load(plant, cache)
    assert decoded == 36
    again, decoded = load(plant, cache)
    assert decoded == 0
    assert same(first, again)
    other, decoded = load(plant, cache, labels_per_class=5, seed=3)  # another split, same file
    assert decoded == 0
    assert same(other, load(plant, labels_per_class=5, seed=3)[0])
    assert len(list(cache.iterdir())) == 1
    assert load(plant, cache, classes=("good", "dent"))[1] == 24


def test_any_change_of_the_folder_invalidates_the_cache(plant: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    load(plant, cache)
    os.utime(plant / "good/00.png", ns=(1, 1))
    assert load(plant, cache)[1] == 36
    (plant / "good/00.png").rename(plant / "good/90.png")
    assert load(plant, cache)[1] == 36
    (plant / "good/90.png").unlink()
    assert load(plant, cache)[1] == 35
    assert load(plant, cache)[1] == 0


@pytest.mark.parametrize("place", [0.0, 0.001, 0.3, 0.6, 0.999, "cut", "empty"])
def test_a_damaged_cache_is_rebuilt(plant: Path, tmp_path: Path, place: float | str) -> None:
    cache = tmp_path / "cache"
    first, _ = load(plant, cache)
    (file,) = cache.iterdir()
    data = bytearray(file.read_bytes())
    if isinstance(place, str):
        data = data[: len(data) // 2 if place == "cut" else 0]
    else:
        start = int(place * len(data))
        data[start : start + 9] = bytes(255 - value for value in data[start : start + 9])
    file.write_bytes(data)
    again, decoded = load(plant, cache)
    assert decoded == 36
    assert same(first, again)
    assert load(plant, cache)[1] == 0


def test_a_cache_that_cannot_be_written_costs_only_time(
    plant: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    data, decoded = load(plant, tmp_path / "file" / "cache")
    assert decoded == 36
    assert data.counts["train"] > 0
    assert "not cached: cannot write" in caplog.text


def test_an_unreadable_file_is_tried_again_at_the_next_start(plant: Path, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        (plant / "good/loop.png").symlink_to(
            "/proc/self/mem"
        )  # a file whose bytes root cannot read
    else:
        (plant / "good/00.png").chmod(0)
    data, _ = load(plant, tmp_path / "cache")
    assert [item.why.partition(":")[0] for item in data.skipped] == ["cannot be read"]
    assert not list(tmp_path.glob("cache/*"))


def test_class_weights_balance_and_keep_the_scale(plant: Path) -> None:
    for number in range(2, 12):
        (plant / f"dent/{number:02}.png").unlink()
    for number in range(2, 3):
        (plant / f"good/{number:02}.png").unlink()
    with pytest.raises(DataError, match="class dent"):
        load(plant)
    data, _ = load(plant, classes=("good", "scratch"), test_per_class=1)
    weights = data.class_weights(data.train)
    assert weights.dtype == torch.float32
    assert weights[data.targets[data.train]].mean().item() == pytest.approx(1)
    counts = torch.bincount(data.targets[data.train]).float()
    assert (weights * counts)[0].item() == pytest.approx((weights * counts)[1].item())
    rare = PlantData(
        classes=("a", "b"), good="", inputs=torch.zeros(1001, 3, 1, 1, dtype=torch.uint8),
        targets=torch.tensor([0] * 1000 + [1]), names=(), train=torch.arange(1001),
        validation=torch.arange(0), test=torch.arange(0), folds=(),
    )  # fmt: skip
    weights = rare.class_weights(rare.train)
    assert weights[1] / weights[0] < 25  # uncapped it would be 1000
    assert weights[rare.targets].mean().item() == pytest.approx(1)


def test_moving_to_a_device_moves_every_tensor(plant: Path) -> None:
    data = load(plant, labels_per_class=5)[0].to("meta")
    tensors = [data.inputs, data.targets, data.train, data.validation, data.test]
    tensors += [tensor for pair in data.folds for tensor in pair]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


def test_the_task_by_name_loads_transforms_and_scores(plant: Path) -> None:
    task: Task = TASKS["image-classification"](
        selection=Selection(image_size=32, good="good"), mean=(0.5,) * 3, std=(0.5,) * 3
    )
    data = task.load(plant)
    batch = data.inputs[data.train]
    assert task.evaluation_transform()(batch).shape == batch.shape
    assert task.training_transform()(batch, torch.Generator()).shape == batch.shape
    truth = data.targets[data.test].numpy()
    result = task.scores(Prediction(truth=truth, predicted=np.eye(3)[truth]), data=data)
    assert result["balanced_accuracy"] == 1.0
    assert result["escape_rate"] == 0.0
    assert task.schema(data) == {"task": "image-classification", "image_size": 32, "classes": 3}


def test_the_real_plants(real_data: Path, tmp_path: Path) -> None:
    root = real_data / "images"
    data = load_images(
        root / "deeppcb",
        selection=Selection(labels_per_class=20, test_per_class=150, good="good"),
        cache=tmp_path,
    )
    per_class = [torch.bincount(data.targets[part]).tolist() for part in (data.test,)]
    assert per_class == [[150] * 7]
    labelled = torch.cat([data.train, data.validation])
    assert torch.bincount(data.targets[labelled]).tolist() == [20] * 7
    assert len(data.folds) == 1
    assert data.skipped == ()
    fray = load_images(
        root / "magnetic_tile",
        selection=Selection(labels_per_class=25, image_size=32, classes=("fray", "break")),
    )
    assert fray.notes == ("class fray leaves 7 test images",)
    assert ImageTask(selection=Selection(), mean=(0.5,) * 3, std=(0.5,) * 3).augment == 1.0


def test_images_without_labels_are_read_where_a_method_learns_from_them(
    plant: Path, tmp_path: Path
) -> None:
    (plant / "unlabelled").mkdir()
    grey = np.full((40, 40, 3), 7, dtype=np.uint8)
    Image.fromarray(grey).save(plant / "unlabelled" / "today.png")
    without, _ = load(plant, labels_per_class=4)
    assert without.classes == ("dent", "good", "scratch")
    assert len(without.unlabelled) == 0
    data, decoded = load(plant, labels_per_class=4, test_per_class=2, unlabelled=True)
    assert decoded == 37
    assert same(replace(data, inputs=data.inputs[:18], targets=data.targets[:18],
                        names=data.names[:18]),
                load(plant, labels_per_class=4, test_per_class=2)[0])  # fmt: skip
    # 12 images of each class, of which 6 are in use; and the one that has no label.
    assert len(data.unlabelled) == 3 * 6 + 1
    assert data.targets[data.unlabelled].tolist() == [-1] * 19
    assert data.names[data.unlabelled[0]] == "unlabelled/today.png"
    assert data.inputs[data.unlabelled[0]].unique().tolist() == [7]
    held = {data.names[i] for i in (*data.validation.tolist(), *data.test.tolist())}
    assert not held & {data.names[i] for i in data.unlabelled.tolist()}
    # The cache of the one is not the cache of the other.
    assert load(plant, cache=tmp_path / "cache", unlabelled=True)[1] == 37
    assert load(plant, cache=tmp_path / "cache")[1] == 36
    assert load(plant, cache=tmp_path / "cache", unlabelled=True)[1] == 0
