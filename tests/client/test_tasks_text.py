from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from client.tasks import TASKS, PlantData, task_of
from client.tasks.text import OTHER, TextTask, trimmed, without_words
from client.tasks.tokens import normalised
from common.config import FederationConfig, PlantConfig
from common.errors import ConfigError, DataError

SYSTEMS = {"Pump": ("leaks", "noisy", "worn"), "Cab": ("door", "glass", "seat")}


def orders(system: str, count: int) -> list[tuple[str, str]]:
    words = SYSTEMS.get(system, (system.lower(),))
    return [(f"{system} {words[n % len(words)]} unit {n}", system) for n in range(count)]


def write(folder: Path, rows: Sequence[tuple[str, str]], *, columns: str = "text,label") -> Path:
    with (folder / "orders.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(columns.split(","))
        table.writerows(rows)
    return folder


Load = Callable[..., PlantData]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def run(
        rows: Sequence[tuple[str, str]], *, columns: str = "text,label", **plant: object
    ) -> PlantData:
        write(tmp_path, rows, columns=columns)
        text = plant.pop("federation", {})
        config = FederationConfig.model_validate({"task": "text-classification", "text": text})
        settings = PlantConfig.model_validate({"name": "p", "data": str(tmp_path), **plant})
        return task_of(config, settings).load(tmp_path)

    return run


def test_orders_become_examples(load: Load) -> None:
    data = load([*orders("Pump", 20), *orders("Cab", 12)])
    assert data.classes == ("Cab", "Pump")
    assert data.outputs == 2
    assert data.inputs.shape[0] == len(data.texts) == len(data.names) == 32
    assert data.texts[0] == "Pump leaks unit 0"
    assert data.names[0] == "orders.csv:2"
    assert data.notes == tuple(note for note in data.notes if "test text" in note)
    sets = [set(getattr(data, name).tolist()) for name in ("train", "validation", "test")]
    assert sum(map(len, sets)) == len(set().union(*sets)) == 32
    for part in sets:
        assert {int(data.targets[i]) for i in part} == {0, 1}


def test_texts_with_the_same_words_are_never_in_two_sets(load: Load) -> None:
    rows = [*orders("Pump", 12), *orders("Cab", 12)]
    shouted = [(text.upper().replace(" ", " - "), label) for text, label in rows]
    data = load([*rows, *shouted, *rows])
    place = {}
    for name in ("train", "validation", "test"):
        for index in getattr(data, name).tolist():
            words = normalised(data.texts[index])
            assert place.setdefault(words, name) == name


def test_rare_labels_are_one_class_together(load: Load) -> None:
    rows = [*orders("Pump", 20), *orders("Cab", 20)]
    rare = [row for name in "ABC" for row in orders(name, 4)]
    data = load([*rows, *rare])
    assert data.classes == ("Cab", "Pump", OTHER)
    assert int((data.targets == 2).sum()) == 12
    assert f"12 texts of 3 rare labels are the class {OTHER}: A, B, C" in data.notes


def test_labels_too_rare_even_together_are_left_out_and_named(load: Load) -> None:
    data = load([*orders("Pump", 20), *orders("Cab", 20), *orders("A", 2), ("a lone word", "B")])
    assert data.classes == ("Cab", "Pump")
    assert len(data.texts) == 40
    assert "3 texts of 2 labels are left out, too few to learn: A, B" in data.notes


def test_repeated_texts_do_not_make_a_label_frequent(load: Load) -> None:
    data = load([*orders("Pump", 20), *orders("Cab", 20), *[("same words", "A")] * 50])
    assert data.classes == ("Cab", "Pump")


def test_texts_of_the_same_words_are_one_evidence(load: Load) -> None:
    rows = [*orders("Pump", 20), *orders("Cab", 20)]
    assert load(rows).groups is None
    data = load([*rows, ("Pump leaks hard!", "Pump"), ("pump LEAKS hard", "Pump")])
    assert data.groups is not None
    words = [normalised(text) for text in data.texts]
    twins = [place for place, one in enumerate(words) if one == normalised("pump leaks hard")]
    assert len(twins) == 2
    assert len(data.groups.unique()) == len(words) - 1
    assert data.groups[twins[0]] == data.groups[twins[1]]


def test_only_the_classes_asked_for_are_used(load: Load) -> None:
    rows = [*orders("Pump", 20), *orders("Cab", 20), *orders("A", 20)]
    data = load(rows, classes=["Pump", "Cab"])
    assert data.classes == ("Pump", "Cab")
    assert len(data.texts) == 40
    assert any("20 texts of 1 labels are left out" in note for note in data.notes)
    kept = load(rows, classes=["Pump", OTHER])
    assert int((kept.targets == 1).sum()) == 40


def test_texts_with_two_labels_are_counted(load: Load) -> None:
    rows = [*orders("Pump", 20), *orders("Cab", 20), ("PUMP leaks, unit 0", "Cab")]
    assert "2 texts have the words of one with another label" in load(rows).notes


@pytest.mark.parametrize(
    ("rows", "plant", "said"),
    [
        (orders("Pump", 20), {}, r"at least two classes.*got \['Pump'\] of 1 labels"),
        ([("pump leaks", "Pump")], {}, "at least two classes"),
        ([*orders("Pump", 20), *orders("Cab", 2)], {}, r"\['Pump'\] of 2 labels"),
        (orders("Pump", 20), {"classes": ["Pump", "Crane"]}, r"\['Crane'\] missing"),
        (
            [*orders("Pump", 20), *orders("Cab", 2)],
            {"classes": ["Pump", "Cab"]},
            "class Cab .* must have at least 3",
        ),
    ],
)
def test_data_that_does_not_do_is_told_in_one_line(
    load: Load, rows: Sequence[tuple[str, str]], plant: dict[str, object], said: str
) -> None:
    with pytest.raises(DataError, match=said) as caught:
        load(rows, **plant)
    assert "\n" not in str(caught.value)


def test_good_must_be_a_class(load: Load) -> None:
    with pytest.raises(ConfigError, match="good must be one of the classes"):
        load([*orders("Pump", 20), *orders("Cab", 20)], good="Crane")


def test_a_plant_may_name_its_columns_otherwise(load: Load) -> None:
    rows = [*orders("Pump", 20), *orders("Cab", 20)]
    named = load(rows, columns="Kurztext,System", text={"text": "Kurztext", "label": "System"})
    assert len(named.texts) == 40
    with pytest.raises(DataError, match="text and label missing"):
        load(rows, columns="Kurztext,System")


def test_a_vocabulary_must_be_the_federations(load: Load, tmp_path: Path) -> None:
    mine, theirs = tmp_path / "mine.txt", tmp_path / "theirs.txt"
    mine.write_text("[UNK]\npump\ncab\n")
    theirs.write_text("[UNK]\ncab\npump\n")
    rows = [*orders("Pump", 20), *orders("Cab", 20)]
    config = FederationConfig.model_validate(
        {"task": "text-classification", "text": {"vocabulary": str(theirs)}}
    )
    from common.backbone import settled

    text = settled(config, base=tmp_path).text.model_dump()
    assert text["buckets"] == 4
    assert load(rows, federation=text).inputs.shape[-1] == 1
    with pytest.raises(ConfigError, match=r"text\.vocabulary must be the federation's.*mine\.txt"):
        load(rows, federation=text, text={"vocabulary": str(mine)})


def test_what_leaves_the_plant_says_nothing_of_the_texts(load: Load) -> None:
    data = load([*orders("Pump", 20), *orders("Cab", 20)])
    task = TextTask.of(
        FederationConfig.model_validate({"task": "text-classification"}),
        PlantConfig.model_validate({"name": "p", "data": "."}),
    )
    assert task.schema(data) == {"task": "text-classification", "classes": 2}


def test_a_plants_folder_is_told_by_its_files(tmp_path: Path) -> None:
    kind = TASKS["text-classification"]
    assert not kind.is_plant(tmp_path)
    write(tmp_path, [])
    assert kind.is_plant(tmp_path)


def test_batches_lose_what_is_empty_in_all_texts() -> None:
    batch = torch.zeros(2, 5, 4, dtype=torch.int32)
    batch[0, 0, 0], batch[1, 2, 1] = 7, 9
    assert trimmed(batch).shape == (2, 3, 2)
    assert trimmed(batch).dtype == torch.int64
    assert trimmed(batch * 0).shape == (2, 1, 1)


def test_words_left_out_are_never_the_first() -> None:
    batch = torch.ones(200, 6, 3, dtype=torch.int64)
    left = without_words(batch, 0.3, torch.Generator().manual_seed(0))
    assert (left[:, 0] == 1).all()
    gone = (left[:, 1:, 0] == 0).float().mean()
    assert 0.25 < gone < 0.35
    assert ((left.sum(-1) == 0) | (left.sum(-1) == 3)).all()
    assert (batch == 1).all()
