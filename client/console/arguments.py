"""What the commands of ``transferline-plant`` have in common."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from common.terminal import console

PlantFolder = Annotated[Path, typer.Argument(help="The plant's folder, made by `join`.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


def print_json(value: Mapping[str, Any] | list[Any]) -> None:
    """Print a value as JSON."""
    console().print_json(json.dumps(value))
