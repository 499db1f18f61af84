from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from client.tasks.texts import read_rows, text_files
from common.errors import DataError


def write(folder: Path, content: str | bytes, *, name: str = "orders.csv") -> Path:
    data = content if isinstance(content, bytes) else content.encode()
    (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return folder


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("name", ["orders.csv", "orders.csv.gz"])
def test_two_columns_are_read_whatever_else_there_is(
    tmp_path: Path, separator: str, name: str
) -> None:
    rows = [
        "\ufeffnumber,text,cost,label",
        '7,"pump, left, leaks",3,Pump',
        '8,"two\nlines",3, Cab ',
        "",
        "9,fuse,3,Cab",
    ]
    text = "\r\n".join(_with(row, separator) for row in rows)
    found, skipped = read_rows(write(tmp_path, text, name=name), text="text", label="label")
    assert [(row.label, row.name) for row in found] == [
        ("Pump", f"{name}:2"),
        ("Cab", f"{name}:4"),
        ("Cab", f"{name}:6"),
    ]
    assert found[0].text.startswith("pump")
    assert skipped == []


def _with(row: str, separator: str) -> str:
    """Separate outside quotes by another character."""
    parts = row.split('"')
    parts[::2] = [part.replace(",", separator) for part in parts[::2]]
    return '"'.join(parts)


def test_rows_without_text_or_label_are_named(tmp_path: Path) -> None:
    write(tmp_path, "text,label\n,A\n...,A\nfuse,\npump\ncab door,B\n")
    found, skipped = read_rows(tmp_path, text="text", label="label")
    assert [row.text for row in found] == ["cab door"]
    assert [(item.file, item.why) for item in skipped] == [
        ("orders.csv:2", "empty text"),
        ("orders.csv:3", "text without a word"),
        ("orders.csv:4", "no label"),
        ("orders.csv:5", "1 cells for 2 columns"),
    ]


def test_files_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    write(tmp_path, "text,label\nb,B\n", name="2.csv")
    write(tmp_path, "label;text\nA;a\n", name="1.csv")
    write(tmp_path, "no csv", name="notes.md")
    write(tmp_path, "no csv", name=".hidden.csv")
    assert [path.name for path in text_files(tmp_path)] == ["1.csv", "2.csv"]
    assert [row.text for row in read_rows(tmp_path, text="text", label="label")[0]] == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "empty first line"),
        ("text,label\n", "got none"),
        ("text,label\n,A\n", r"orders.csv:2: empty text"),
        ("words,label\na,A\n", "text missing"),
        ("a;b;c\n1;2;3\n", "got a, b, c; text and label missing"),
        ("text,label\ngr\u00fcn,A\n".encode("latin-1"), "byte 0xfc in line 2"),
        ('text,label\n"a"b,A\n', "line 2"),
        ('text,label\n"never ends,A\n', "line 2"),
    ],
)
def test_what_is_no_table_of_texts_is_told_in_one_line(
    tmp_path: Path, content: str | bytes, said: str
) -> None:
    write(tmp_path, content)
    with pytest.raises(DataError, match=said) as caught:
        read_rows(tmp_path, text="text", label="label")
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_damaged_archive_is_told(tmp_path: Path) -> None:
    data = gzip.compress(b"text,label\n" + b"pump leaks,Pump\n" * 100)
    (tmp_path / "orders.csv.gz").write_bytes(data[:-20])
    with pytest.raises(DataError, match=r"orders\.csv\.gz cannot be read"):
        read_rows(tmp_path, text="text", label="label")


def test_a_folder_without_files_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"must hold a \.csv"):
        read_rows(tmp_path, text="text", label="label")
    with pytest.raises(DataError, match="must exist"):
        read_rows(tmp_path / "none", text="text", label="label")


def test_a_comma_that_nobody_quoted_makes_no_label(tmp_path: Path) -> None:
    write(tmp_path, "text,label,cost\npump leaks, replaced,B,7\n\ncab door,A,9\n")
    found, skipped = read_rows(tmp_path, text="text", label="label")
    assert [(row.text, row.label) for row in found] == [("cab door", "A")]
    assert [(item.file, item.why) for item in skipped] == [
        ("orders.csv:2", "4 cells for 3 columns")
    ]


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "text;label;text\na;b;c\n")
    with pytest.raises(DataError, match="names of their own, got 'text' twice"):
        read_rows(tmp_path, text="text", label="label")
