"""``transferline-plant``: what the engineer of a plant types.

What needs torch is imported by the command that needs it: ``status``, ``history`` and ``--help``
are there at once.
"""

from __future__ import annotations

import math
import sys
from contextlib import closing
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from client.console import looking, screens
from client.console.checks import Check, Plant, State, checks
from client.console.looking import PlantFolder
from client.layout import federation_of, holds_plant, open_settings
from common.agreed import at_plant
from common.errors import ConfigError, DataError
from common.tasks import KINDS
from common.terminal import (
    FAILED,
    AsJson,
    command_line,
    console,
    errors,
    loading,
    print_json,
    progress,
    run,
)
from common.token import Token

app = command_line(about="One plant of a federation.")


@app.command()
def join(
    *,
    token: Annotated[
        str,
        typer.Option(
            envvar="TRANSFERLINE_TOKEN",
            show_envvar=False,
            help="The line that `invite` printed at the centre; `-` reads it from standard input.",
        ),
    ],
    folder: Annotated[Path, typer.Option("--dir", help="The plant's new folder.")],
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of the data (images: one folder a class); it stays there."),
    ] = None,
    link_user: Annotated[
        str, typer.Option(help="User for the link, who can read no data; needs root.")
    ] = "",
    good: Annotated[str, typer.Option(help="The class of good parts.")] = "",
    classes: Annotated[
        list[str] | None, typer.Option("--class", help="Use only this class; may be repeated.")
    ] = None,
    readmitted: Annotated[
        bool, typer.Option("--readmitted", help="New keys for a plant that was revoked.")
    ] = False,
) -> None:
    """Join a federation: makes the plant's folder, its keys and its settings.

    Images are read before the token is used; whether data fits what the federation learns is
    known only then, and said. Keys are made here and stay here. If it is cut off, give the same
    command again.

    Example: transferline-plant join --token TOKEN --data /data/line-3 --dir ./plant-a
    """
    invitation = Token.parse(sys.stdin.readline() if token == "-" else token)
    with loading():
        from client.joining import joining  # noqa: PLC0415  loads torch and grpc

    entry = joining.Entry(
        token=invitation,
        folder=folder,
        data=data,
        link_user=link_user,
        good=good,
        classes=tuple(classes or ()),
    )
    if readmitted:
        found = joining.join_again(entry)
    else:
        with progress("reading data") as advance:
            found = joining.join(entry, progress=lambda done, total: advance(f"of {total}"))
    screens.show_joined(console(), found, folder=folder)


@app.command()
def up(
    folder: PlantFolder,
    *,
    no_link: Annotated[
        bool, typer.Option("--no-link", help="The link is a unit or a container of its own.")
    ] = False,
) -> None:
    """Run the plant: the daemon, and its link to the centre, until Ctrl-C or SIGTERM.

    Started as root, the link runs as `link.user` of plant.toml. One line a round is logged.

    Example: transferline-plant up ./plant-a
    """
    from client.console import running  # noqa: PLC0415  loads grpc

    running.up(folder, with_link=not no_link)


@app.command()
def link(
    folder: Annotated[Path, typer.Argument(help="The plant's folder, or its link/ alone.")],
) -> None:
    """Run the link alone, where it has a user, a unit or a zone of its own.

    It needs the folder link/ and the way to the daemon, and reads nothing else of the plant.

    Example: transferline-plant link ./plant-a/link
    """
    from client.link import link as linked  # noqa: PLC0415  loads grpc

    if status := linked.main([str(folder)]):
        raise typer.Exit(status)


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="The plant's folder; or a folder of data alone.")],
    *,
    as_json: AsJson = False,
    task: Annotated[
        str, typer.Option(help=f"Of a folder of data: what it is for, {', '.join(KINDS)}.")
    ] = "",
    federation: Annotated[
        Path | None,
        typer.Option(help="Of a folder of data: the federation.toml by which it is read."),
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(min=32, max=1024, help="Of a folder of images: side, pixels.")
    ] = None,
    good: Annotated[str, typer.Option(help="Of a folder of images: the class of good parts.")] = "",
    labels_per_class: Annotated[
        int | None,
        typer.Option(min=2, help="Of a folder of data: labelled examples a class; default: all."),
    ] = None,
) -> None:
    """Say whether a plant can take part, one line each, with what to do.

    Data, device, disk, clock, connection, certificate, policy, and what the link could reach. Exit
    code 1 if something would keep the plant from taking part. For a folder of data: what a
    federation would learn from it, images if nothing else is said.

    Example: transferline-plant check ./plant-a
    """
    if not folder.exists():
        raise DataError(
            f"folder must exist, a plant's or one of data alone, got {folder}; check the path"
        )
    if not holds_plant(folder):
        with loading():
            from client.console import survey  # noqa: PLC0415  loads torch

        given = {
            "task": task or None,
            "image_size": image_size,
            "good": good or None,
            "labels_per_class": labels_per_class,
        }
        asked = survey.Asked.of(folder, file=federation, given=given)
        with progress("reading data") as advance:
            data = asked.read(progress=lambda done, total: advance(f"of {total}"))
        if as_json:
            print_json(survey.facts(data))
        else:
            survey.show(console(), data)
        return
    found = _checks(Plant.open(folder, now=datetime.now().astimezone()), quiet=as_json)
    if as_json:
        print_json({"plant": str(folder), "checks": [asdict(one) for one in found]})
    else:
        console().print(f"\n{screens.verdict(found)}")
    if any(one.state is State.FAIL for one in found):
        raise typer.Exit(FAILED)


@app.command("preview")
def preview_(folder: PlantFolder, *, as_json: AsJson = False) -> None:
    """Say what would leave the plant in a round, tensor by tensor. Nothing is sent.

    Worked out from the federation's settings as they were at joining, without a connection. Each
    order brings its own settings, and is answered only within the plant's policy.

    Example: transferline-plant preview ./plant-a
    """
    settings, config = open_settings(folder), federation_of(folder)
    with loading():
        from client.console.preview import classes_of, preview  # noqa: PLC0415  loads torch

    found = preview(at_plant(config, settings), classes=classes_of(folder, settings))
    if as_json:
        about = {"federation": config.name, "method": config.method, "backbone": config.backbone}
        print_json(about | found.facts())
    else:
        screens.show_preview(console(), found, settings=settings, config=config)


@app.command()
def inspect(
    folder: PlantFolder,
    parts: Annotated[
        Path,
        typer.Argument(help="A file or a folder, of the kind of data that the plant has."),
    ],
    *,
    as_json: AsJson = False,
) -> None:
    """Judge new parts, recordings, rows or texts with the model that the plant runs.

    One line each: what it is, and how sure the model is; numbers in the plant's units. What lies
    outside what the model knows is warned of. Nothing is stored and nothing leaves the plant.

    Example: transferline-plant inspect ./plant-a /data/line-3/today
    """
    with loading():
        from client.console import inspecting  # noqa: PLC0415  loads torch

    with progress("reading what is to be judged") as advance:
        found = inspecting.inspect(
            folder, parts, progress=lambda done, total: advance(f"of {total}")
        )
    if as_json:
        print_json(found.facts())
    else:
        inspecting.show(console(), found)
        for note in found.notes:
            errors().print(f"warning: {note}")


@app.command()
def optimise(
    folder: PlantFolder,
    *,
    maximise: Annotated[str, typer.Option(help="The target of the plant's table.")] = "",
    minimise: Annotated[str, typer.Option(help="The same, where less is better.")] = "",
    bounds: Annotated[
        Path | None, typer.Option(help="bounds.toml: what may be set, and formulas.")
    ] = None,
    at_most: Annotated[
        list[str] | None, typer.Option(help="NAME=NUMBER, of a column or a formula; repeatable.")
    ] = None,
    at_least: Annotated[
        list[str] | None, typer.Option(help="NAME=NUMBER, of a column or a formula; repeatable.")
    ] = None,
    caution: Annotated[
        float,
        typer.Option(min=0, max=1000, help="Deviations of doubt that a proposal must make up for."),
    ] = 1.0,
    trials: Annotated[int, typer.Option(min=20, help="Settings to try.")] = 400,
    proposals: Annotated[int, typer.Option(min=1, help="How many to show.")] = 3,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the search.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Propose process settings from the plant's own model of its table.

    Never outside what the plant's rows support, and with how sure it is. Columns that bounds.toml
    does not name are held at their usual value. Nothing leaves the plant.

    Example: transferline-plant optimise ./plant-a --maximise strength --bounds bounds.toml
    --at-most cost=60
    """
    if bool(maximise) == bool(minimise):
        raise ConfigError("one of --maximise and --minimise must be given, got both or none")
    if math.isnan(caution):  # no range refuses it
        raise ConfigError("--caution must be a number from 0 to 1000, got nan")
    with loading():
        from client.console import proposing  # noqa: PLC0415  loads torch
        from client.optimise import wishes as asked  # noqa: PLC0415  for this command alone

    wishes = asked.Wishes(
        target=maximise or minimise,
        lower=bool(minimise),
        bounds=asked.read_bounds(bounds),
        limits=(
            *asked.read_limits(at_most or (), least=False),
            *asked.read_limits(at_least or (), least=True),
        ),
        caution=caution,
        trials=trials,
        proposals=proposals,
        seed=seed,
    )
    with progress("training an ensemble, then searching"):
        ensemble, found = proposing.propose(folder, wishes)
    if as_json:
        print_json(proposing.facts(ensemble, found))
    else:
        proposing.show(console(), ensemble, found, wishes=wishes)


for command in (
    looking.status,
    looking.history,
    looking.personal,
    looking.peers,
    looking.releases,
):
    app.command()(command)


def main() -> None:
    """Run the command line."""
    run(app)


def _checks(plant: Plant, *, quiet: bool) -> list[Check]:
    """Go through all checks, each printed as soon as it is known."""
    found = []
    out = console()

    def note(one: Check) -> None:
        found.append(one)
        if not quiet:
            screens.show_check(out, one)

    with closing(checks(plant)) as looked:
        while True:
            # Nothing is printed while progress is shown: it would go where progress goes.
            with progress("asking the centre"):
                one = next(looked, None)
            if one is None:
                break
            note(one)
    with loading():
        from client.console import fitness  # noqa: PLC0415  loads torch

        one = fitness.device(plant)
    note(one)
    with progress("reading data") as advance:
        one = fitness.data(plant, progress=lambda done, total: advance(f"of {total}"))
    note(one)
    return found


if __name__ == "__main__":
    main()
