"""The command lines in units, containers, manifests and docs: the program must have them all."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import typer

import client.cli
import server.cli
from deploy.checks.tools import DEPLOY, PAGE, ROOT

PROGRAMS = {
    "transferline-server": typer.main.get_command(server.cli.app),
    "transferline-plant": typer.main.get_command(client.cli.app),
}

_LINE = re.compile(r"\b(transferline-(?:server|plant)) ([^\n`|&;)\"]*)")


def commands() -> list[str]:
    """Return a line for each command or option that the program does not have."""
    paths = [PAGE, *(path for path in sorted(DEPLOY.rglob("*")) if _is_text(path))]
    return [line for path in paths for line in wrong_in(path)]


def wrong_in(path: Path) -> list[str]:
    """Return what is wrong with the command lines in a file."""
    text = re.sub(r"\s*\\\n\s*", " ", path.read_text(encoding="utf-8"))
    where = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    return [
        f"{where}: {line}" for match in _LINE.finditer(text) for line in _wrong(*match.groups())
    ]


def _wrong(program: str, rest: str) -> Iterator[str]:
    words = rest.split()
    command: click.Command = PROGRAMS[program]
    if not words or not re.fullmatch(r"[a-z]+", words[0]):
        return  # a name in a sentence
    while words and isinstance(command, click.Group):
        inner = command.commands.get(words[0])
        if inner is None:
            if command is PROGRAMS[program]:
                yield f"{program} has no command {words[0]}"
            return
        command, words = inner, words[1:]
    known = {option for parameter in command.params for option in parameter.opts}
    for word in words:
        option = word.partition("=")[0]
        if option.startswith("--") and option not in (*known, "--help"):
            yield f"{program} {command.name} has no option {option}"


def _is_text(path: Path) -> bool:
    kinds = (".service", ".socket", ".yaml", ".yml", ".conf", "", ".json")
    return path.is_file() and path.suffix in kinds and "__pycache__" not in path.parts
