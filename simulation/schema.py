"""docs/results-schema.md: every field of results.json and compare.json, from the models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from simulation.results import Comparison, Interval, Results, title


def schema_reference() -> str:
    """Return docs/results-schema.md: every field of both files, from the models above."""
    lines = [
        "# results.json and compare.json, version 2",
        "",
        "Generated from `simulation/results.py` by `python -m simulation.schema`; a test keeps "
        "it true.",
        "Scores of classes are shares from 0 to 1, scores of numbers have the units of the plants; "
        "sizes are bytes, durations seconds. An interval is an object "
        "with `value`, `low` and `high`: the figure and its 95 % confidence interval.",
        "A reader should refuse another `version`. `<name>` stands for a key of your data, `[]` "
        "for each item of a list.",
    ]
    for model in (Results, Comparison):
        lines += ["", f"## {title(model)}", "", "| field | type | meaning |", "|---|---|---|"]
        lines += [f"| `{field}` | {kind} | {text} |" for field, kind, text in _rows(model, "")]
    return "\n".join(lines) + "\n"


def _rows(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str]]:
    """Yield (path, type, description) of each field, and of the fields inside it."""
    for name, field in model.model_fields.items():
        path, kind, inner = _describe(f"{prefix}{name}", field.annotation)
        yield path, kind, field.description or ""
        if inner is not None and inner is not Interval:
            yield from _rows(inner, f"{path}.")


def _describe(path: str, kind: Any) -> tuple[str, str, type[BaseModel] | None]:
    """Follow containers down: the path with ``<name>`` and ``[]``, the type, the model within."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _describe(path, inside[0])
    if origin in (Union, UnionType):
        path, word, model = _describe(path, inside[0])
        return path, f"{word} or null", model
    if origin is dict:
        return _describe(f"{path}.<name>", inside[1])
    if origin is tuple:
        return _describe(f"{path}[]", inside[0])
    if origin is Literal:
        return path, " or ".join(map(str, inside)), None
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return path, "interval" if kind is Interval else "object", kind
    words = {str: "text", float: "number", int: "integer", bool: "true or false"}
    return path, words.get(kind, "any"), None


if __name__ == "__main__":
    Path("docs/results-schema.md").write_text(schema_reference())
