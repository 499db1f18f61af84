"""What the three command lines share: one console, one-line errors, progress.

Results go to standard output, errors and progress to standard error, so that output can be
piped. Off a terminal everything is plain text without colour, and progress is a line now and
then instead of a moving bar.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from common.errors import TransferlineError
from common.version import program_version

#: Exit codes: 0 done, 1 an error that was explained in one line, 2 wrong usage, 130 Ctrl-C.
FAILED = 1
INTERRUPTED = 130

#: Seconds between lines of progress where the output is not a terminal.
QUIET = 10.0

Advance = Callable[[str], None]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


def console() -> Console:
    """Return the console for results; [brackets] in a name are brackets."""
    return Console(soft_wrap=not sys.stdout.isatty(), highlight=False, markup=False)


def errors() -> Console:
    """Return the console for errors and progress."""
    return Console(stderr=True, soft_wrap=True, highlight=False, markup=False)


def print_json(value: object) -> None:
    """Print a value as JSON, for scripts."""
    console().print_json(json.dumps(value))


def command_line(*, about: str) -> typer.Typer:
    """Return an empty command line with ``--help`` and ``--version``."""
    app = typer.Typer(
        help=about,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="rich",
        pretty_exceptions_show_locals=False,  # locals may hold keys or data
    )

    @app.callback(help=about)
    def options(
        *,
        version: Annotated[
            bool,
            typer.Option(
                "--version",
                callback=_show_version,
                is_eager=True,
                help="Print the version and exit.",
            ),
        ] = False,
    ) -> None:
        del version  # the callback has answered

    return app


def run(app: typer.Typer) -> None:
    """Run a command line and exit.

    A `TransferlineError` becomes its lines on standard error and exit code 1, Ctrl-C exit code
    130; anything else is a bug and keeps its traceback.
    """
    try:
        app(standalone_mode=True)
    except TransferlineError as error:
        for line in str(error).splitlines():
            errors().print(Text.assemble(("error:", "bold red"), " ", line))
        sys.exit(FAILED)
    except KeyboardInterrupt:
        errors().print("stopped")
        sys.exit(INTERRUPTED)


@contextmanager
def loading() -> Iterator[None]:
    """Say on a terminal that libraries are loaded, which takes seconds for torch."""
    with errors().status("loading libraries"):
        yield


def moving_bar(screen: Console, *, width: int = 0, stays: bool = False) -> Progress:
    """Return a bar with a note at its end; off a terminal it shows nothing.

    Parameters
    ----------
    width : of the description, at least.
    stays : whether it is left behind at the end.
    """
    return Progress(
        SpinnerColumn(),
        TextColumn(
            f"{{task.description:<{width}}}" if width else "{task.description}", markup=False
        ),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", style="dim", markup=False),
        console=screen,
        disable=not screen.is_terminal,
        transient=not stays,
    )


@contextmanager
def progress(what: str, *, total: int | None = None) -> Iterator[Advance]:
    """Show progress of something that takes more than two seconds.

    Yields
    ------
    A function to call once a step is done, with a few words on it (or "").
    """
    screen = errors()
    if screen.is_terminal:
        with moving_bar(screen) as bar:
            task = bar.add_task(what, total=total, note="")
            yield lambda note: bar.update(task, advance=1, note=note)
    else:
        yield _lines(what, total=total, print_line=screen.print)


def _lines(
    what: str,
    *,
    total: int | None,
    print_line: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> Advance:
    """Return an advance that prints a line at most every QUIET seconds."""
    done, last = 0, clock()

    def advance(note: str) -> None:
        nonlocal done, last
        done += 1
        if clock() - last >= QUIET:
            last = clock()
            count = f"{done}/{total}" if total else str(done)
            print_line(f"{what}: {count} {note}".rstrip())

    return advance


def _show_version(wanted: bool) -> None:  # noqa: FBT001  # typer calls it so
    if wanted:
        console().print(f"transferline {program_version()}")
        raise typer.Exit
