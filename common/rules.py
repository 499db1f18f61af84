"""The rule of a configuration key, in words: one text for error lines and for the reference.

Derived from the pydantic field, so that what is enforced and what is said cannot differ.
"""

from __future__ import annotations

import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

_NOUNS: dict[object, tuple[str, str]] = {
    bool: ("true or false", "true or false"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("text", "texts"),
}


def rule(field: FieldInfo) -> str:
    """Return what a key must be, for example ``a whole number of at least 0``."""
    return _describe(field.annotation, list(field.metadata), plural=False)


def subsection(field: FieldInfo) -> type[BaseModel] | None:
    """Return the model of the table that a key holds, if it holds one."""
    annotation = field.annotation
    return (
        annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
    )


def tables(field: FieldInfo) -> type[BaseModel] | None:
    """Return the model of the tables that a key holds by name (``[plants.NAME]``), if it does."""
    if get_origin(field.annotation) is not dict:
        return None
    value = get_args(field.annotation)[1]
    return value if isinstance(value, type) and issubclass(value, BaseModel) else None


def _describe(annotation: Any, metadata: list[Any], *, plural: bool) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _describe(inner[0], [*metadata, *inner[1:]], plural=plural)
    if origin in (Union, types.UnionType):
        some = next(kind for kind in inner if kind is not type(None))
        return _describe(some, metadata, plural=plural)
    if origin is Literal:
        choices = ", ".join(str(choice) for choice in inner)
        return f"one of {choices}" if len(inner) > 1 else choices
    if origin is tuple:
        count = "" if inner[1:] == (...,) else f"{len(inner)} "
        return f"a list of {count}{_describe(inner[0], [], plural=True)}"
    if annotation in _NOUNS:
        return _NOUNS[annotation][plural] + _bounds(metadata)
    return "a table"


def _bounds(metadata: list[Any]) -> str:
    """Say limits: `` from 1 to 9``, `` of at least 2``, `` above 0 and at most 1``."""
    limits: dict[type, Any] = {}
    for item in _flat(metadata):
        for kind, name in _LIMITS.items():
            if isinstance(item, kind):
                limits[kind] = getattr(item, name)
    if MinLen in limits or MaxLen in limits:
        low, high = limits.get(MinLen, 0), limits.get(MaxLen)
        return f" of {low} to {high} characters" if high else f" of {low} or more characters"
    if Ge in limits and Le in limits:
        return f" from {limits[Ge]} to {limits[Le]}"
    words = [f"{word} {limits[kind]}" for kind, word in _WORDS.items() if kind in limits]
    if not words:
        return ""
    return (" of " if words[0].startswith("at ") else " ") + " and ".join(words)


def _flat(metadata: list[Any]) -> list[Any]:
    """Open the FieldInfo that ``Annotated[float, Field(gt=0)]`` nests."""
    return [
        part
        for item in metadata
        for part in (item.metadata if isinstance(item, FieldInfo) else [item])
    ]


_LIMITS = {
    Ge: "ge",
    Gt: "gt",
    Le: "le",
    Lt: "lt",
    MinLen: "min_length",
    MaxLen: "max_length",
}
_WORDS: dict[type, str] = {Ge: "at least", Gt: "above", Le: "at most", Lt: "below"}
