"""``transferline-server``: what the operator of the centre types.

``releases`` reads a run folder: which versions of the shared model there are, what each was made
from, and whether the files are still what was written.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from common.errors import StateError
from common.terminal import command_line, console, progress, run
from server.releases import Manifest, Releases

app = command_line(about="The centre of a federation.")
releases = typer.Typer(no_args_is_help=True, help="The versions of the shared model.")
app.add_typer(releases, name="releases")

RunFolder = Annotated[Path, typer.Argument(help="The folder of a run, as given with --out.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


@releases.command("list")
def list_releases(run_folder: RunFolder, *, as_json: AsJson = False) -> None:
    """List the releases of a run.

    Example: transferline-server releases list out/demo
    """
    found = _open(run_folder)
    manifests = [found.manifest(number) for number in found.numbers()]
    if as_json:
        console().print_json(
            json.dumps([manifest.model_dump(mode="json") for manifest in manifests])
        )
        return
    table = Table(box=None, pad_edge=False)
    for column in ("release", "round", "method", "plants", "examples", "made (UTC)", "hash"):
        table.add_column(column, justify="right" if column in ("release", "round") else "left")
    for manifest in manifests:
        table.add_row(*_row(manifest))
    console().print(table)


@releases.command()
def show(
    run_folder: RunFolder,
    number: Annotated[int, typer.Argument(min=0, help="The release; 0 is the source.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Say what a release is and what it was made from.

    Example: transferline-server releases show out/demo 3
    """
    manifest = _open(run_folder, number=number).manifest(number)
    if as_json:
        console().print_json(manifest.model_dump_json())
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column()
    for name, value in manifest.model_dump(mode="json", exclude={"replies"}).items():
        if value not in (None, "", []):
            table.add_row(name, str(value))
    for plant, weight in sorted(manifest.replies.items()):
        table.add_row("reply", f"{plant}, {weight} examples")
    console().print(table)


@releases.command()
def verify(run_folder: RunFolder) -> None:
    """Check every release against its hash and its parent.

    Example: transferline-server releases verify out/demo
    """
    found = _open(run_folder)
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
            advance(f"release {number}")
    console().print(f"{len(hashes)} releases are what was written")


def main() -> None:
    """Run the command line."""
    run(app)


def _open(run_folder: Path, *, number: int | None = None) -> Releases:
    """Return a run folder's releases; StateError if it has none, or not this one."""
    found = Releases(run_folder)
    numbers = found.numbers()
    if not numbers:
        raise StateError(f"{run_folder} must be the folder of a run, got one without releases")
    if number is not None and number not in numbers:
        raise StateError(f"release must be one of {numbers}, got {number}")
    return found


def _row(manifest: Manifest) -> list[str]:
    return [
        str(manifest.number),
        str(manifest.round),
        manifest.method if manifest.parent else "source",
        str(len(manifest.replies)),
        str(sum(manifest.replies.values())),
        manifest.created[:19].replace("T", " "),
        manifest.hash[:12],
    ]


if __name__ == "__main__":
    main()
