"""TOML files in and out: read, validate with one line an error, write with comments.

Every mistake in a file is reported at once, each as
``federation.toml: rounds must be a whole number of at least 0, got -3``.
"""

from __future__ import annotations

import difflib
import json
import re
import textwrap
import tomllib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from common.errors import ConfigError
from common.rules import rule, subsection, tables

Model = TypeVar("Model", bound=BaseModel)


def read_toml(path: Path, *, hint: str = "see docs/configuration.md") -> dict[str, Any]:
    """Read a TOML file; ``hint`` says what to do if it is not there.

    Raises
    ------
    ConfigError
        If the file is missing, unreadable or not TOML; with the line where it is known.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file; {hint}") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: must be UTF-8 text, got other bytes") from error
    except tomllib.TOMLDecodeError as error:
        what, line = re.fullmatch(
            r"(.*?)(?: \(at (?:line (\d+), column \d+|end of document)\))?", str(error), re.DOTALL
        ).groups()  # type: ignore[union-attr]  # matches any text
        where = f"line {line}" if line else "last line"
        raise ConfigError(f"{path}: {where}: {what[:1].lower()}{what[1:]}") from error


def validate(model: type[Model], values: Mapping[str, Any], *, name: str) -> Model:
    """Build a model from the values of a file.

    Raises
    ------
    ConfigError
        With one line for each mistake, each beginning with ``name``.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = dict.fromkeys(_line(model, values, detail) for detail in error.errors())
        raise ConfigError("\n".join(f"{name}: {line}" for line in lines)) from error


def keys(model: type[BaseModel], *, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield (dotted key, field) of a file, tables opened; ``NAME`` stands for a name of choice."""
    for name, field in model.model_fields.items():
        inner, named = subsection(field), tables(field)
        if inner is not None:
            yield from keys(inner, prefix=f"{prefix}{name}.")
        elif named is not None:
            yield from keys(named, prefix=f"{prefix}{name}.NAME.")
        else:
            yield f"{prefix}{name}", field


def commented(
    model: type[BaseModel],
    *,
    title: str,
    values: BaseModel | None = None,
    without: Collection[str] = (),
) -> str:
    """Return a TOML file that holds every key and explains each.

    Parameters
    ----------
    values : what the keys are set to; by default each key has its default. A key without a value
        is commented out, with the first of its examples.
    without : keys and tables to leave out, here and in tables by name.
    """
    lines = [f"# {title}", ""]
    fields = {name: one for name, one in model.model_fields.items() if name not in without}
    for name, field in fields.items():
        if subsection(field) is None and tables(field) is None:
            lines += _entry(name, field, values)
    for name, field in fields.items():
        inner, named = subsection(field), tables(field)
        if inner is not None:
            given = None if values is None else getattr(values, name)
            lines += ["", f"# {inner.__doc__}", f"[{name}]"]
            lines += [x for key, one in inner.model_fields.items() for x in _entry(key, one, given)]
        elif named is not None:
            example = _example(named, f"{name}.NAME", without)
            lines += ["", *(f"# {line}" if line else "" for line in example)]
    return "\n".join(lines) + "\n"


def _example(model: type[BaseModel], name: str, without: Collection[str]) -> list[str]:
    """Return a table by name with every key at its default, and the tables inside it."""
    lines, below = [f"{model.__doc__}", f"[{name}]"], []
    for key, field in model.model_fields.items():
        if key in without:
            continue
        if (inner := subsection(field)) is not None:
            below += ["", *_example(inner, f"{name}.{key}", without)]
        else:
            lines += _entry(key, field, None)
    return [*lines, *below]


def literal(value: Any) -> str:
    """Write a value as in a TOML file; a table by name only."""
    if isinstance(value, dict):
        return "a table"
    try:
        return json.dumps(value, ensure_ascii=False)
    except TypeError:  # a date or a time, which JSON has not
        return str(value)


def _entry(name: str, field: FieldInfo, values: BaseModel | None) -> list[str]:
    note = textwrap.wrap(f"{field.description} ({rule(field)})", 96, break_on_hyphens=False)
    if values is None:
        value = None if field.is_required() else field.get_default(call_default_factory=True)
    else:
        value = getattr(values, name)
    if value is None:
        entry = f"# {name} = {_inline((field.examples or ['...'])[0])}"
    else:
        entry = f"{name} = {_inline(value)}"
    return [*(f"# {line}" for line in note), entry]


def _inline(value: Any) -> str:
    """Write a value on one line, a table too: ``{ "power kW" = 450.0 }``."""
    if not isinstance(value, dict):
        return literal(value)
    pairs = ", ".join(f"{literal(key)} = {_inline(inner)}" for key, inner in value.items())
    return f"{{ {pairs} }}" if pairs else "{}"


def _line(model: type[BaseModel], values: Mapping[str, Any], detail: ErrorDetails) -> str:
    """Translate one of pydantic's findings."""
    key, field, value = _locate(model, values, detail["loc"])
    if detail["type"] == "extra_forbidden":
        return f"{key} is not a known key{_hint(model, key)}"
    if detail["type"] == "value_error":
        said = str(detail["ctx"]["error"])
        return f"{key} {said}" if field is not None else f"{key}.{said}".lstrip(".")
    wanted = rule(field) if field is not None else "a table"
    if detail["type"] == "missing" and value is None:
        return f"{key} must be given: {wanted}"
    return f"{key} must be {wanted}, got {_shorten(literal(value))}"


def _locate(
    model: type[BaseModel], values: Any, place: tuple[int | str, ...]
) -> tuple[str, FieldInfo | None, Any]:
    """Follow pydantic's path to a key; a place inside a list counts as the list's key.

    Returns
    -------
    The dotted key, its field (None for a table), and the value that was given.
    """
    inside: type[BaseModel] | None = model
    by_name: type[BaseModel] | None = None
    field: FieldInfo | None = None
    parts: list[str] = []
    for step in place:
        if not isinstance(step, str) or step == "[key]":
            break
        parts.append(step)
        values = values.get(step) if isinstance(values, Mapping) else None
        if by_name is not None:
            inside, by_name, field = by_name, None, None
        elif inside is not None and step in inside.model_fields:
            field = inside.model_fields[step]
            inside, by_name = subsection(field), tables(field)
            if inside is not None or by_name is not None:
                field = None
        elif field is not None and get_origin(field.annotation) is dict:
            field = FieldInfo.from_annotation(get_args(field.annotation)[1])
    return ".".join(parts), field, values


def _hint(model: type[BaseModel], key: str) -> str:
    """Name the known key that was probably meant: the same name elsewhere, or a near one."""
    known = [*(name for name, _ in keys(model)), *model.model_fields]
    parts = key.split(".")
    if tables(model.model_fields.get(parts[0], FieldInfo())) is not None:
        known = [name.replace(".NAME.", f".{parts[1]}.") for name in known]
    lasts = [name.rsplit(".", 1)[-1] for name in known]
    meant = (
        [name for name, last in zip(known, lasts, strict=True) if last == parts[-1]]
        or difflib.get_close_matches(key, known, n=1, cutoff=0.75)
        or [known[lasts.index(x)] for x in difflib.get_close_matches(parts[-1], lasts, n=1)]
    )
    return f"; did you mean {meant[0]}?" if meant else "; see docs/configuration.md"


def _shorten(text: str, *, limit: int = 80) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 3]}..."
