"""Tables: read from files, split, and everything that may be wrong with them."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client.tasks import TASKS, task_of
from client.tasks.data import PlantData
from client.tasks.tables.columns import far_apart
from client.tasks.tables.task import strata_of
from common.backbones.table import Columns
from common.config import FederationConfig, PlantConfig
from common.errors import DataError

Rows = list[list[Any]]


def made(count: int = 60) -> Rows:
    """Return a header and rows: the target is 2 heat + 1 where wet, by batches of four."""
    rng = np.random.default_rng(0)
    heat = rng.normal(200, 10, count)
    rows: Rows = [["heat", "wet", "line", "always", "batch", "target"]]
    for place, value in enumerate(heat):
        wet = "yes" if place % 3 else "no"
        target = 2 * value + (wet == "yes")
        rows.append([f"{value:.3f}", wet, place % 2 + 1, 7, f"b{place // 4}", f"{target:.3f}"])
    return rows


def write(path: Path, rows: Rows, *, separator: str = ",") -> Path:
    path.parent.mkdir(exist_ok=True)
    text = io.StringIO()
    csv.writer(text, delimiter=separator).writerows(rows)
    content = text.getvalue().encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path.parent


def load(folder: Path, *, table: dict[str, Any] | None = None, **settings: Any) -> PlantData:
    config = FederationConfig.model_validate(
        {"task": "tabular", "table": {"target": "target"} | (table or {})}
    )
    plant = PlantConfig.model_validate({"name": "p", "data": str(folder)} | settings)
    return task_of(config, plant).load(folder)


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Return ``folder(change, name="a.csv")``, which writes rows after ``change(rows)``."""

    def make(
        change: Callable[[Rows], object] = lambda rows: None,
        *,
        name: str = "a.csv",
        count: int = 60,
    ) -> Path:
        rows = made(count)
        change(rows)
        return write(tmp_path / "plant" / name, rows)

    return make


def column(data: PlantData, name: str) -> torch.Tensor:
    columns: Columns = data.columns
    names = [one.name for one in (*columns.numbers, *columns.categories)]
    return data.inputs[:, names.index(name)]


def test_numbers_and_names_are_told_apart(folder: Callable[..., Path]) -> None:
    data = load(folder(), table={"group": "batch", "categories": ["line"]})
    columns: Columns = data.columns
    assert [one.name for one in columns.numbers] == ["heat"]
    assert [(one.name, one.levels) for one in columns.categories] == [
        ("wet", ("no", "yes")),
        ("line", ("1", "2")),
    ]
    assert data.notes[0] == "column always is always 7 and is left out"
    assert "lowest fifth leaves 2 test rows" in data.notes
    assert (data.numbers, data.classes, data.outputs) == (("target",), (), 1)
    expected = 2 * column(data, "heat") + column(data, "wet")
    assert torch.allclose(data.targets[:, 0], expected, atol=2e-3)


def test_scale_and_centre_are_those_of_the_training_rows(folder: Callable[..., Path]) -> None:
    data = load(folder())
    heat = column(data, "heat")[data.train].double()
    one = data.columns.numbers[0]
    assert (one.mean, one.spread) == (
        pytest.approx(float(heat.mean()), rel=1e-6),
        pytest.approx(float(heat.std(unbiased=False)), rel=1e-5),
    )
    assert (one.edges[0], one.edges[-1]) == (float(heat.min()), float(heat.max()))
    assert float(data.centre[0]) == pytest.approx(float(data.targets[data.train].mean()), rel=1e-6)
    assert data.typical["heat"] == pytest.approx(float(np.median(heat.numpy())))


def test_rows_of_a_group_are_on_one_side(folder: Callable[..., Path]) -> None:
    data = load(folder(), table={"group": "batch"})
    batches = [(int(name.split(":")[1]) - 2) // 4 for name in data.names]
    sides = [
        {batches[i] for i in part.tolist()} for part in (data.train, data.validation, data.test)
    ]
    assert not sides[0] & sides[1] | sides[0] & sides[2] | sides[1] & sides[2]
    assert all(len(side) > 1 for side in sides)
    assert data.groups is not None
    assert len(set(zip(batches, data.groups.tolist(), strict=True))) == len(set(batches)) == 15
    assert load(folder()).groups is None


def test_equal_rows_are_on_one_side(folder: Callable[..., Path]) -> None:
    data = load(folder(lambda rows: rows.extend(rows[1:])))
    rows = [tuple(row) for row in data.inputs.tolist()]
    train, test = ({rows[i] for i in part.tolist()} for part in (data.train, data.test))
    assert not train & test


@pytest.mark.parametrize(("number", "drop"), [("{}", ["charge", "batch"]), ("{}_1", ["batch"])])
def test_copies_with_order_numbers_are_on_one_side(
    folder: Callable[..., Path], number: str, drop: list[str]
) -> None:
    """Dropped, or left out because they are names that are all different; measured again."""

    def repeat(rows: Rows) -> None:
        rows.extend([*row[:5], float(row[5]) + 0.5] for row in rows[1:] * 2)
        for place, row in enumerate(rows):
            row.append(number.format(place) if place else "charge")

    data = load(folder(repeat), table={"drop": drop})
    assert "charge" not in [one.name for one in data.columns.numbers]
    rows = [tuple(row) for row in data.inputs.tolist()]
    sides = [{rows[i] for i in part.tolist()} for part in (data.train, data.validation, data.test)]
    assert not sides[0] & sides[1] | sides[0] & sides[2] | sides[1] & sides[2]


def test_the_same_settings_in_two_groups_are_no_copies(folder: Callable[..., Path]) -> None:
    def coarsen(rows: Rows) -> None:
        for row in rows[1:]:
            row[0], row[2] = 200, 1

    data = load(folder(coarsen), table={"group": "batch"})
    assert len(data.inputs.unique(dim=0)) == 2
    assert min(data.counts.values()) >= 12


def test_few_labels_and_small_tests(folder: Callable[..., Path]) -> None:
    data = load(folder(count=200), labels_per_class=12, test_per_class=5)
    assert data.counts == {"train": 45, "validation": 15, "test": 25}
    few = load(folder(count=200), labels_per_class=4)
    assert len(few.folds) == 3


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "A.CSV"])
def test_kinds_of_files_read_the_same(folder: Callable[..., Path], name: str) -> None:
    data = load(folder(name=name))
    assert TASKS["tabular"].is_plant(folder(name=name))
    assert len(data.targets) == 60


def test_parquet_reads_as_csv(folder: Callable[..., Path], tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = made()
    columns = dict(zip(rows[0], map(list, zip(*rows[1:], strict=True)), strict=True))
    columns["heat"] = [float(cell) for cell in columns["heat"]]
    columns["target"] = [float(cell) for cell in columns["target"]]
    (tmp_path / "other").mkdir()
    parquet.write_table(pyarrow.table(columns), tmp_path / "other/a.parquet")
    one, other = load(folder()), load(tmp_path / "other")
    assert sorted(one.targets[:, 0].tolist()) == sorted(other.targets[:, 0].tolist())
    (tmp_path / "other/a.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"a\.parquet must be a parquet file"):
        load(tmp_path / "other")


def test_semicolons_and_decimal_commas(folder: Callable[..., Path], tmp_path: Path) -> None:
    rows = [[str(cell).replace(".", ",") for cell in row] for row in made()]
    comma = load(write(tmp_path / "comma" / "a.csv", rows, separator=";"))
    assert torch.equal(comma.targets, load(folder()).targets)


def test_missing_values_stay_missing(folder: Callable[..., Path]) -> None:
    def blank(rows: Rows) -> None:
        for row, cell in zip(rows[1:13], ["", "NaN", "n/a", "NULL"] * 3, strict=True):
            row[0] = row[1] = cell

    data = load(folder(blank))
    assert int(column(data, "heat").isnan().sum()) == 12
    assert int(column(data, "wet").isnan().sum()) == 12


def test_several_files_are_one_table(folder: Callable[..., Path], tmp_path: Path) -> None:
    write(folder().parent / "plant" / "b.csv", [*made()[:1], *made(90)[61:]])
    data = load(tmp_path / "plant")
    assert len(data.targets) == 90
    assert {name.split(":")[0] for name in data.names} == {"a.csv", "b.csv"}
    write(tmp_path / "plant" / "c.csv", [["heat", "target"], [1, 2]])
    with pytest.raises(DataError, match=r"same columns, .*c\.csv differs in \['always', 'batch'"):
        load(tmp_path / "plant")


def test_classes_are_learned_too(folder: Callable[..., Path]) -> None:
    data = load(folder(), table={"target": "wet", "learn": "classes"}, good="yes")
    assert (data.classes, data.numbers, data.good) == (("no", "yes"), (), "yes")
    assert data.targets.dtype == torch.int64
    chosen = load(folder(), table={"target": "wet", "learn": "classes"}, classes=["yes", "no"])
    assert torch.equal(chosen.targets, 1 - data.targets)


def put(row: int, place: int, cell: Any) -> Callable[[Rows], object]:
    return lambda rows: rows[row].__setitem__(place, cell)


@pytest.mark.parametrize(
    ("change", "table", "told"),
    [
        (put(17, 0, "hot"), {}, r"'heat' .* must hold numbers, got 'hot' in a\.csv:18; mend it"),
        (
            put(17, 0, "-1e39"),
            {},
            r"'heat' .* below 3\.4e\+38, got -1e39 in a\.csv:18; mend it, give it in other units",
        ),
        (put(5, 5, "1e300"), {}, r"'target' .* below 3\.4e\+38, got 1e300 in a\.csv:6"),
        (put(5, 5, "high"), {}, r"'target' .* must hold numbers, got 'high' in a\.csv:6"),
        (
            lambda rows: None,
            {"target": "power"},
            r"table\.target must be a column .* 'power'; it has",
        ),
        (
            lambda rows: None,
            {"target": ""},
            r"table\.target must name the column to learn, got none",
        ),
        (lambda rows: None, {"drop": ["cold"]}, r"must be in .*, got 'cold'; it has"),
        (lambda rows: None, {"target": "wet"}, r"must hold numbers, got 'no'; name another"),
        (
            lambda rows: None,
            {"target": "heat", "learn": "classes", "drop": []},
            r"no|must have at least 3 usable|2 to 100 classes",
        ),
        (
            lambda rows: rows.__setitem__(slice(2, None), []),
            {},
            "at least 15 rows with a target, got 1",
        ),
        (
            lambda rows: rows.__setitem__(slice(1, None), []),
            {},
            "at least 15 rows with a target, got 0",
        ),
        (lambda rows: rows.clear(), {}, "must have a header and rows, got an empty file"),
        (put(0, 1, "heat"), {}, "must have names of their own, got 'heat' twice"),
        (put(0, 1, ""), {}, "got one without a name"),
        (
            lambda rows: [row.__setitem__(5, 4.0) for row in rows[1:]],
            {},
            r"'target' .* must differ between rows, it is always 4",
        ),
        (
            lambda rows: [row.__setitem__(slice(0, 2), [1, "a"]) for row in rows[1:]],
            {"drop": ["line", "batch"]},
            r"at least 3 rows that differ beside the target .*, got 1; add columns, or name in",
        ),
        (
            lambda rows: [row.__setitem__(slice(0, 2), [1, "a"]) for row in rows[1:]],
            {"drop": ["line"], "group": "batch"},
            "must have a column to learn from beside the target, got none that differs",
        ),
    ],
)
def test_a_mistake_is_one_line(
    folder: Callable[..., Path], change: Any, table: dict[str, Any], told: str
) -> None:
    with pytest.raises(DataError, match=told) as caught:
        load(folder(change), table=table)
    assert "\n" not in str(caught.value)


def test_rows_that_do_not_fit_are_skipped_by_line(folder: Callable[..., Path]) -> None:
    def spoil(rows: Rows) -> None:
        rows[3].append("more")
        rows[8][5] = ""

    data = load(folder(spoil))
    told = [(one.file, one.why) for one in data.skipped]
    assert told == [
        ("a.csv:4", "7 cells for 6 columns"),
        ("plant", "1 rows without a usable target"),
    ]


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    plant = tmp_path / "plant"
    with pytest.raises(DataError, match="data folder must exist"):
        load(plant)
    plant.mkdir()
    with pytest.raises(DataError, match=r"must hold tables \(.csv"):
        load(plant)
    (plant / "a.csv.gz").write_bytes(b"no gzip")
    with pytest.raises(DataError, match=r"a\.csv\.gz cannot be read"):
        load(plant)
    (plant / "a.csv.gz").unlink()
    (plant / "a.csv").write_bytes("größe,target\n1,2".encode("latin-1"))
    with pytest.raises(DataError, match="must be UTF-8"):
        load(plant)


def test_infinite_values_count_as_missing(folder: Callable[..., Path]) -> None:
    data = load(folder(put(4, 0, "inf")))
    assert int(column(data, "heat").isnan().sum()) == 1
    assert any("infinite" in note for note in data.notes)


def test_other_units_are_told(folder: Callable[..., Path]) -> None:
    data = load(folder(), table={"typical": {"heat": 0.2, "wet": 1.0}})
    assert any("column heat: median" in note and "other units?" in note for note in data.notes)
    assert not any(
        "units" in note for note in load(folder(), table={"typical": {"heat": 190}}).notes
    )


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        (1.0, 1000.0, True),
        (1000.0, 1.0, True),
        (1.0, 20.0, False),
        (0.0, 5.0, False),
        (-1, -40, True),
    ],
)
def test_medians_far_apart(one: float, other: float, told: bool) -> None:
    assert far_apart(one, other) is told


@pytest.mark.parametrize(
    "values",
    [[0.0] * 50 + [1.0, 2.0, 3.0], list(range(100)), [1.0, 2.0] * 10, [5.0] * 20],
)
def test_strata_hold_equal_values_together(values: Sequence[float]) -> None:
    found, names = strata_of(np.array(values, dtype=float))
    assert len(names) == len(set(found.tolist())) == found.max() + 1
    assert np.bincount(found).min() >= 3
    for value in set(values):
        assert len({s for s, v in zip(found.tolist(), values, strict=True) if v == value}) == 1


def test_pooled_plants_have_the_columns_of_all(tmp_path: Path) -> None:
    rows = made()
    one = write(tmp_path / "one" / "a.csv", [[*row[:2], row[5]] for row in rows])
    other = write(tmp_path / "other" / "a.csv", [[row[1], row[2], row[5]] for row in rows])
    plants = [load(one), load(other)]
    config = FederationConfig.model_validate({"task": "tabular", "table": {"target": "target"}})
    task = task_of(config, PlantConfig(name="p", data=str(one)))
    data = task.pool(plants)
    columns: Columns = data.columns
    assert [n.name for n in columns.numbers] == ["heat", "line"]
    assert [c.name for c in columns.categories] == ["wet"]
    assert len(data.targets) == 120
    assert torch.equal(data.inputs[:60, 0], plants[0].inputs[:, 0])
    assert data.inputs[60:, 0].isnan().all()
    assert torch.equal(data.inputs[60:, 2], plants[1].inputs[:, 1])
    renamed = write(
        tmp_path / "third" / "a.csv", [["heat", "power"], *([r[0], r[5]] for r in rows[1:])]
    )
    other_target = load(renamed, table={"target": "power"})
    with pytest.raises(DataError, match="must have one target, got power and target"):
        task.pool([plants[0], other_target])


SHARED = {"heat": [150.0, 250.0], "wet": ["yes", "no"]}


def test_shared_columns_come_first_in_the_order_of_the_federation(
    folder: Callable[..., Path],
) -> None:
    alone = load(folder(), table={"drop": ["batch"]})
    data = load(folder(), table={"shared": SHARED, "drop": ["batch"]})
    assert torch.equal(data.inputs[:, 0], column(alone, "heat"))
    assert torch.equal(data.inputs[:, 1], 1 - column(alone, "wet"))
    assert [one.name for one in data.columns.numbers] == ["line"]
    assert data.columns.categories == ()


def test_a_shared_column_that_is_not_there_or_not_as_told_is_one_line(
    folder: Callable[..., Path],
) -> None:
    with pytest.raises(DataError, match=r"must have the columns that all plants share, got no 'x'"):
        load(folder(), table={"shared": {"x": [0.0, 1.0]}})
    with pytest.raises(DataError, match=r"'wet' .* must hold numbers"):
        load(folder(), table={"shared": {"wet": [0.0, 1.0]}})
    data = load(folder(), table={"shared": {"heat": [0.1, 0.3]}})
    assert any("lies outside the federation's range 0.1 to 0.3" in note for note in data.notes)
    data = load(folder(), table={"shared": {"wet": ["yes", "dry"]}})
    assert "column wet: the federation does not know no: missing there" in data.notes


def test_pooled_plants_keep_shared_columns(tmp_path: Path) -> None:
    rows = made()
    one = write(tmp_path / "one" / "a.csv", [[row[0], row[1], row[5]] for row in rows])
    other = write(tmp_path / "other" / "a.csv", [[row[0], row[2], row[5]] for row in rows])
    table = {"target": "target", "shared": {"heat": [150.0, 250.0]}}
    plants = [load(one, table=table), load(other, table=table)]
    config = FederationConfig.model_validate({"task": "tabular", "table": table})
    pooled = task_of(config, PlantConfig(name="p", data=str(one))).pool(plants)
    assert torch.equal(pooled.inputs[:, 0], torch.cat([p.inputs[:, 0] for p in plants]))
    assert [one.name for one in pooled.columns.numbers] == ["line"]
    assert pooled.inputs[:60, 1].isnan().all()


def test_where_a_comma_is_decimal_a_dot_parts_thousands(folder: Callable[..., Path]) -> None:
    written = ["7.141", "950", "1.050.000", "1.733,5"]
    rows = made()
    for place, row in enumerate(rows):
        row[0] = "heat" if place == 0 else written[place % 4]
        row[-1] = row[-1].replace(".", ",")
    path = folder()
    write(path / "a.csv", rows, separator=";")
    assert set(column(load(path), "heat").tolist()) == {7141.0, 950.0, 1050000.0, 1733.5}


def test_names_that_are_all_different_are_left_out(folder: Callable[..., Path]) -> None:
    def name_each(rows: Rows) -> None:
        for place, row in enumerate(rows):
            row[2] = "batch" if place == 0 else f"{place:04}_1"
        rows[0][2] = "charge"

    data = load(folder(name_each))
    assert "charge" not in [one.name for one in (*data.columns.numbers, *data.columns.categories)]
    assert any("column charge has" in note for note in data.notes)
