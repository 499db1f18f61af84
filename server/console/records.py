"""``transferline-server releases`` and ``log``: what was recorded, and whether it still is that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from sqlalchemy import select

from common.errors import ConfigError, StateError
from common.terminal import AsJson, console, print_json, progress
from server.centre import CENTRE, Centre
from server.chain import Place
from server.console.listing import table
from server.releases import Manifest, Releases, verify_signature
from server.rollback import roll_back
from server.state.audit import verify as verify_log
from server.state.tables import EntryRow

releases = typer.Typer(invoke_without_command=True)
log = typer.Typer(invoke_without_command=True)

Folder = Annotated[Path, typer.Argument(help="The centre's folder, or that of a simulated run.")]
CentreFolder = Annotated[Path, typer.Argument(help="The centre's folder.")]
Number = Annotated[int, typer.Argument(min=0, help="The release.")]


@releases.callback()
def begin_releases(context: typer.Context, folder: Folder) -> None:
    """List, show, verify or roll back the versions of the shared model.

    Example: transferline-server releases ./centre list --json
    """
    context.obj = folder
    if context.invoked_subcommand is None:
        _list_releases(folder, as_json=False)


@releases.command("list")
def list_releases(context: typer.Context, *, as_json: AsJson = False) -> None:
    """List the releases.

    Example: transferline-server releases ./centre list
    """
    _list_releases(context.obj, as_json=as_json)


@releases.command()
def show(context: typer.Context, number: Number, *, as_json: AsJson = False) -> None:
    """Say what a release is and what it was made from.

    Example: transferline-server releases ./centre show 3
    """
    manifest = _open(context.obj, number=number).manifest(number)
    if as_json:
        console().print_json(manifest.model_dump_json())
        return
    found = Table(box=None, pad_edge=False, show_header=False)
    found.add_column(style="bold")
    found.add_column()
    for name, value in manifest.model_dump(mode="json", exclude={"replies"}).items():
        if value not in (None, "", []):
            found.add_row(name, str(value))
    for plant, weight in sorted(manifest.replies.items()):
        found.add_row("reply", f"{plant}, {weight} examples")
    console().print(found)


@releases.command()
def verify(context: typer.Context) -> None:
    """Check every release against its hash, its parent and, at a centre, its signature.

    Example: transferline-server releases ./centre verify
    """
    folder: Path = context.obj
    found = _open(folder)
    trust = None
    if (folder / CENTRE).exists():
        trust = Centre.open(folder).trust(history=True)
    hashes: dict[str, int] = {}
    with progress("verifying", total=len(found.numbers())) as advance:
        for number in found.numbers():
            hashes[found.read(number).hash] = number
            parent = found.manifest(number).parent
            if parent is not None and parent not in hashes and number - 1 in hashes.values():
                raise StateError(
                    f"{found.path(number)} must follow a release before it, got parent "
                    f"{parent[:12]}; restore the folder from a backup"
                )
            if trust is not None:
                verify_signature(found.path(number), trust=trust)
            advance(f"release {number}")
    signed = "" if trust is None else ", and signed by the centre"
    console().print(f"{len(found.numbers())} releases are what was written{signed}")


@releases.command()
def rollback(context: typer.Context, number: Number) -> None:
    """Make the content of an earlier release the one in force, as a new release.

    Plants hear of it with the next run.

    Example: transferline-server releases ./centre rollback 3
    """
    centre = Centre.open(context.obj)
    row = roll_back(
        Place(home=centre.folder, database=centre.config.database, signer=centre.signer()), number
    )
    console().print(f"release {row.number} is in force, with the content of release {number}")


@log.callback()
def begin_log(context: typer.Context, folder: CentreFolder) -> None:
    """Show or verify the log: what happened, hash-chained and signed.

    Example: transferline-server log ./centre verify
    """
    context.obj = Centre.open(folder)
    if context.invoked_subcommand is None:
        show_log(context)


@log.command("show")
def show_log(
    context: typer.Context,
    *,
    last: Annotated[int, typer.Option(min=1, help="So many of the newest entries.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show the newest entries.

    Example: transferline-server log ./centre show --last 50
    """
    query = select(EntryRow).order_by(EntryRow.number.desc()).limit(last)
    with context.obj.store().reading() as session:
        entries = [
            {"number": row.number, "at": row.at, "kind": row.kind, "what": json.loads(row.body)}
            for row in reversed(session.scalars(query).all())
        ]
    if as_json:
        print_json(entries)
        return
    for entry in entries:
        what = ", ".join(f"{name} {value}" for name, value in entry["what"].items() if value)
        line = f"{entry['number']} {entry['at'][:19]} {entry['kind']}: {what}"
        console().print(line, soft_wrap=True)


@log.command("verify")
def check_log(context: typer.Context) -> None:
    """Find any entry that was changed, removed, moved or cut off, and any row that differs.

    Example: transferline-server log ./centre verify
    """
    centre: Centre = context.obj
    with progress("verifying") as advance:
        verdict = verify_log(centre.store(), trust=centre.trust(history=True), advance=advance)
    if verdict.faults:
        raise StateError("\n".join(verdict.faults))
    entries = "1 entry is" if verdict.entries == 1 else f"{verdict.entries} entries are"
    console().print(f"{entries} whole and signed")


def _list_releases(folder: Path, *, as_json: bool) -> None:
    found = _open(folder)
    manifests = [found.manifest(number) for number in found.numbers()]
    if as_json:
        print_json([manifest.model_dump(mode="json") for manifest in manifests])
        return
    columns = ("release", "round", "method", "plants", "examples", "made", "hash")
    console().print(table([_row(manifest) for manifest in manifests], columns))


def _open(folder: Path, *, number: int | None = None) -> Releases:
    """Return a folder's releases; StateError if it has none, or not this one."""
    found = Releases(folder)
    numbers = found.numbers()
    if not numbers:
        raise StateError(
            f"{folder} must be the folder of a centre or a run that has releases, got one without; "
            "start a run first"
        )
    if number is not None and number not in numbers:
        raise ConfigError(f"release must be one of {numbers}, got {number}")
    return found


def _row(manifest: Manifest) -> dict[str, str]:
    how = manifest.method if manifest.replies else "source"
    if manifest.restores is not None:
        how = f"rollback to {manifest.restores}"
    return {
        "release": str(manifest.number),
        "round": str(manifest.round),
        "method": how,
        "plants": str(len(manifest.replies)),
        "examples": str(sum(manifest.replies.values())),
        "made": manifest.created,
        "hash": manifest.hash[:12],
    }
