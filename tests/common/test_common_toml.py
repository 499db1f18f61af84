from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, Strict

from common.errors import ConfigError
from common.rules import rule
from common.toml import commented, keys, literal, read_toml, validate


class Inner(BaseModel):
    """A table."""

    model_config = ConfigDict(extra="forbid", strict=True)
    speed: float = Field(0.5, gt=0, le=1, description="How fast.")
    note: str = Field("", description="Anything.")


class Outer(BaseModel):
    """A file."""

    model_config = ConfigDict(extra="forbid", strict=True)
    count: int = Field(2, ge=0, description="How many.")
    side: int = Field(64, ge=32, le=128, description="Pixels.")
    name: str = Field("x", min_length=1, max_length=9, description="Called.")
    kind: Literal["a", "b"] = Field("a", description="Which.")
    on: bool = Field(False, description="Switch.")
    spread: Annotated[tuple[float, float], Strict(False)] | None = Field(
        None, description="Two.", examples=[(1.0, 2.0)]
    )
    words: Annotated[tuple[str, ...], Strict(False)] = Field((), description="Some.")
    inner: Inner = Field(default_factory=Inner)
    each: dict[str, Inner] = Field(default_factory=dict)


def complaints(text: str) -> list[str]:
    with pytest.raises(ConfigError) as error:
        validate(Outer, tomllib.loads(text), name="f.toml")
    return str(error.value).splitlines()


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("count", "a whole number of at least 0"),
        ("side", "a whole number from 32 to 128"),
        ("name", "text of 1 to 9 characters"),
        ("kind", "one of a, b"),
        ("on", "true or false"),
        ("spread", "a list of 2 numbers"),
        ("words", "a list of texts"),
    ],
)
def test_rules_in_words(key: str, text: str) -> None:
    assert rule(Outer.model_fields[key]) == text


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("count = -3", "f.toml: count must be a whole number of at least 0, got -3"),
        ("count = 2.0", "f.toml: count must be a whole number of at least 0, got 2.0"),
        ("count = true", "f.toml: count must be a whole number of at least 0, got true"),
        ("count = '2'", 'f.toml: count must be a whole number of at least 0, got "2"'),
        (
            "count = 2024-01-01",
            "f.toml: count must be a whole number of at least 0, got 2024-01-01",
        ),
        ("kind = 'c'", 'f.toml: kind must be one of a, b, got "c"'),
        ("on = 1", "f.toml: on must be true or false, got 1"),
        ("spread = [1.0]", "f.toml: spread must be a list of 2 numbers, got [1.0]"),
        ("spread = ['a', true]", 'f.toml: spread must be a list of 2 numbers, got ["a", true]'),
        ("words = 'a'", 'f.toml: words must be a list of texts, got "a"'),
        ("words = [1]", "f.toml: words must be a list of texts, got [1]"),
        ("inner = 1", "f.toml: inner must be a table, got 1"),
        ("count = {a = 1}", "f.toml: count must be a whole number of at least 0, got a table"),
        ("each = 1", "f.toml: each must be a table, got 1"),
        ("each.a = 1", "f.toml: each.a must be a table, got 1"),
        (
            "[inner]\nspeed = 0",
            "f.toml: inner.speed must be a number above 0 and at most 1, got 0",
        ),
        (
            "[each.a]\nspeed = 2",
            "f.toml: each.a.speed must be a number above 0 and at most 1, got 2",
        ),
        ("cuont = 1", "f.toml: cuont is not a known key; did you mean count?"),
        ("speed = 1", "f.toml: speed is not a known key; did you mean inner.speed?"),
        ("[iner]\nspeed = 1", "f.toml: iner is not a known key; did you mean inner?"),
        (
            "[each.a]\nsped = 1",
            "f.toml: each.a.sped is not a known key; did you mean each.a.speed?",
        ),
        ("qqqq = 1", "f.toml: qqqq is not a known key; see docs/configuration.md"),
    ],
)
def test_each_mistake_is_one_line(text: str, line: str) -> None:
    found = complaints(text)
    assert len(found) == 1
    if "speed" in text and "each" not in text and "inner" not in text and "iner" not in text:
        assert found[0].startswith("f.toml: speed is not a known key; did you mean ")
    else:
        assert found == [line]


def test_all_mistakes_are_reported_at_once() -> None:
    assert len(complaints("count = -1\nside = 1\nkind = 'c'\n[inner]\nspeed = 0\n")) == 4


def test_a_long_value_is_cut() -> None:
    (line,) = complaints(f"kind = '{'y' * 500}'")
    assert len(line) < 140
    assert line.endswith("...")


def test_arrays_become_tuples() -> None:
    read = validate(Outer, tomllib.loads("spread = [1, 2.5]\nwords = ['a', 'b']"), name="f")
    assert read.spread == (1.0, 2.5)
    assert read.words == ("a", "b")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"a = 1\nb == 2\n", "line 2: invalid value"),
        (b"a = ", "last line: invalid value"),
        (b"a = 1\na = 2", "cannot overwrite a value"),
        (b"\xff\xfe", "must be UTF-8 text"),
    ],
)
def test_what_is_not_toml(tmp_path: Path, content: bytes, complaint: str) -> None:
    file = tmp_path / "f.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        read_toml(file)
    assert str(error.value).startswith(f"{file}: ")
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.toml: no such file; write it"):
        read_toml(tmp_path / "no.toml", hint="write it")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_toml(tmp_path)


def test_commented_file_holds_every_key_and_reads_as_the_defaults() -> None:
    text = commented(Outer, title="A file")
    assert validate(Outer, tomllib.loads(text), name="f") == Outer()
    for key, _ in keys(Outer):
        assert f"{key.rsplit('.', 1)[-1]} = " in text
    assert all(len(line) <= 100 for line in text.splitlines())


toml_values = st.recursive(
    st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs", "Cc"])),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@given(value=toml_values)
def test_a_literal_reads_back(value: object) -> None:
    assert tomllib.loads(f"a = {literal(value)}")["a"] == value


@given(values=st.dictionaries(st.sampled_from([*Outer.model_fields, "other"]), toml_values))
def test_any_values_give_a_model_or_clear_lines(values: dict[str, object]) -> None:
    try:
        validate(Outer, values, name="f")
    except ConfigError as error:
        for line in str(error).splitlines():
            assert line.startswith("f: ")
            assert " must be " in line or "is not a known key" in line
