"""Files of sensor series: npz, csv and parquet become columns with names."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from client.tasks.series.files import numbers, read
from common.errors import DataError


def test_csv_has_columns_facts_and_missing_values(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("time,vibration,state,rate\n0,1.5,ok,100\n0.01,,ok,100\n0.02,nan,bad,100\n")

    found = read(path)

    assert found.facts == {"rate": 100.0}
    assert found.columns["state"].tolist() == ["ok", "ok", "bad"]
    np.testing.assert_array_equal(found.columns["vibration"], [1.5, np.nan, np.nan])


def test_csv_may_be_compressed(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"x,y\n1,2\n"))

    assert read(path).columns["y"].tolist() == [2.0]


@pytest.mark.parametrize(
    "text",
    [
        "heat;state\n1.5;a, b\n-20;c\n",
        "heat;state\n1,5;a\n-20;c\n",
        "heat\tstate\n1.5\ta\n-20\tc\n",
        "heat\n1.5\n-20\n",
    ],
)
def test_csv_may_be_separated_otherwise(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text)

    assert read(path).columns["heat"].tolist() == [1.5, -20.0]


def test_npz_holds_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, vibration=np.arange(5), rate=np.float64(50), rpm=np.float64(1800))

    found = read(path)

    assert list(found.columns) == ["vibration"]
    assert found.facts == {"rate": 50.0, "rpm": 1800.0}
    assert found.windows is None


def test_npz_holds_windows_with_labels(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    x = np.arange(24, dtype=np.float16).reshape(3, 8)
    np.savez(path, X=x, y=np.array([0, 1, 1]), classes=np.array(["ok", "bad"]))

    found = read(path)

    assert found.windows is not None
    assert found.windows.shape == (3, 1, 8)
    assert found.columns["label"].tolist() == ["ok", "bad", "bad"]


def test_parquet_is_read_like_csv(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(arrow.table({"x": [1.0, None], "state": ["ok", None]}), path)

    found = read(path)

    np.testing.assert_array_equal(found.columns["x"], [1.0, np.nan])
    assert found.columns["state"].tolist() == ["ok", ""]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", b"", "must have"),
        ("a.csv", b"x,x\n1,2\n", "a name for each column"),
        ("a.csv", b"x,y\n", "rows below its header"),
        ("a.csv", b"x,y\n1,2\n1\n", "line 3 .* must have 2 values, got 1"),
        ("a.csv", b"\xff\xfe\x00", "csv file in UTF-8"),
        ("a.csv.gz", b"not gzip", "csv file in UTF-8"),
        ("a.npz", b"not a zip", "npz file of plain arrays"),
    ],
)
def test_damage_is_told_in_one_line(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)

    with pytest.raises(DataError, match=says) as caught:
        read(path)

    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x=np.array([{"a": 1}], dtype=object))

    with pytest.raises(DataError, match="plain arrays"):
        read(path)


def test_columns_of_other_lengths_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x=np.arange(5), y=np.arange(4))

    with pytest.raises(DataError, match="of one length"):
        read(path)


@pytest.mark.parametrize("values", [np.array([1.0, np.inf, -1e300]), np.array(["1", "", "-1e300"])])
def test_a_value_beyond_float32_is_named_with_its_row(values: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"heat of a.csv .* below 3.4e\+38, got -1e\+300 in row 3"):
        numbers(Path("a.csv"), "heat", values)


def test_a_string_in_a_channel_is_named_with_its_row() -> None:
    with pytest.raises(DataError, match=r"column x .* got 'off' in row 2"):
        numbers(Path("a.csv"), "x", np.array(["1", "off", ""]))


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"X": np.zeros(5)}, r"X of .* got float64 of shape \(5,\)"),
        ({"X": np.array([["a", "b"]])}, "X of .* must be numbers"),
        ({"X": np.zeros((2, 3, 8)), "channels": np.array(["x"])}, "must name the 3 channels of X"),
        (
            {"X": np.zeros((2, 8)), "y": np.array([0, 2]), "classes": np.array(["a", "b"])},
            "y of .* must hold places in classes, 0 to 1",
        ),
        ({"x": np.zeros(4), "rate": np.float64(0)}, "rate of .* must be above 0, got 0"),
    ],
)
def test_arrays_that_make_no_sense_are_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray], says: str
) -> None:
    np.savez(tmp_path / "a.npz", **arrays)

    with pytest.raises(DataError, match=says):
        read(tmp_path / "a.npz")


def test_a_file_that_is_no_parquet_or_is_gone(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "a.parquet").write_bytes(b"no parquet")

    with pytest.raises(DataError, match="must be a parquet file"):
        read(tmp_path / "a.parquet")
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read(tmp_path / "b.csv")
