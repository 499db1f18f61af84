"""Writes docs/configuration.md from the models: ``python -m common.reference``.

A test compares the file with the models, so that the reference stays true.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from common.config import CentreConfig, FederationConfig, PlantConfig, TrainingConfig
from common.rules import rule, subsection, tables
from common.tasks import KINDS
from common.toml import literal

TARGET = Path("docs/configuration.md")

_FEDERATION = """\
# Configuration

This page is generated from `common/config/` by `python -m common.reference`. In all files
unknown keys are refused, and every mistake is reported at once, one line each.

## federation.toml

One file describes a federation: what is learned, how plants train and how the centre combines
their replies. Every key has a default, so an empty file is valid; `transferline-sim init` writes
one with every key of its task.
"""

_PLANT = """\
## plant.toml

What one plant knows of itself, and what it will not do for anybody. It stays at the plant;
`transferline-plant join` writes it.
"""

_CENTRE = """\
## centre.toml

Where a centre listens and keeps its state; `transferline-server init` writes it.
"""


def configuration() -> str:
    """Return the reference of the three files as Markdown."""
    files = ((_FEDERATION, FederationConfig), (_PLANT, PlantConfig), (_CENTRE, CentreConfig))
    return "\n".join(part for text, model in files for part in (text, *_sections(model)))


def _sections(model: type[BaseModel]) -> Iterator[str]:
    yield _table(model.model_fields)
    for name, field in model.model_fields.items():
        inner, named = subsection(field), tables(field)
        if inner is not None:
            yield f"### `[{name}]`\n\n{inner.__doc__}\n\n{_table(inner.model_fields)}"
            if inner is TrainingConfig:
                yield _beginnings()
        elif named is not None:
            yield from _named(named, f"{name}.NAME")


def _beginnings() -> str:
    """Say where ``[training]`` begins with something else than the table's defaults."""
    rows: dict[str, Mapping[str, Any]] = {}
    for task, kind in KINDS.items():
        if kind.training:
            rows[f"`{task}`"] = kind.training
        for backbone, training in kind.pretrained.items():
            rows[f"`{task}`, {backbone}"] = training
    listed = list(dict.fromkeys(key for training in rows.values() for key in training))
    columns = [name for name in TrainingConfig.model_fields if name in listed]
    lines = [
        "These are for pretrained backbones of images. Another kind of data begins with what suits "
        "its networks, where the file says nothing:\n",
        f"| task, backbone | {' | '.join(f'`{name}`' for name in columns)} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for name, training in rows.items():
        cells = [f"`{literal(training[key])}`" if key in training else "" for key in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _named(model: type[BaseModel], name: str) -> Iterator[str]:
    yield f"### `[{name}]`\n\n{model.__doc__}\n\n{_table(model.model_fields)}"
    for key, field in model.model_fields.items():
        if (inner := subsection(field)) is not None:
            yield from _named(inner, f"{name}.{key}")


def main(target: Path = TARGET) -> None:
    """Write the reference."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(configuration(), encoding="utf-8")
    sys.stdout.write(f"wrote {target}\n")


def _table(fields: dict[str, FieldInfo]) -> str:
    rows = [
        f"| `{name}` | {_cell(rule(field))} | {_default(field)} | {_cell(field.description)} |"
        for name, field in fields.items()
        if subsection(field) is None and tables(field) is None
    ]
    return "\n".join(["| key | value | default | meaning |", "|---|---|---|---|", *rows, ""])


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, dict):
        return "none"
    return "not set" if value is None else f"`{literal(value)}`"


def _cell(text: str | None) -> str:
    return (text or "").replace("|", "\\|")


if __name__ == "__main__":
    main()
