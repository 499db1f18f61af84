"""``transferline-plant``: what the engineer of a plant types.

What needs torch is imported by the command that needs it: ``status``, ``history`` and ``--help``
are there at once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from client.console import screens, views
from client.console.checks import Check, Plant, State, checks
from client.desk.ledger import Ledger
from client.desk.peers import Peers
from client.identity import CERTIFICATE, KEY
from client.layout import IDENTITY, federation_of, holds_plant, open_settings
from client.personal import PersonalStore
from common.agreed import at_plant
from common.errors import ConfigError
from common.signing import Signer
from common.terminal import FAILED, command_line, console, progress, run
from common.token import Token

app = command_line(about="One plant of a federation.")

PlantFolder = Annotated[Path, typer.Argument(help="The plant's folder, made by `join`.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


class Listing(StrEnum):
    """What to do with the plants that this one sums with."""

    LIST = "list"
    ACCEPT = "accept"
    REMOVE = "remove"


class Action(StrEnum):
    """What to do with personal models."""

    LIST = "list"
    ROLLBACK = "rollback"


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

    Images are read first, so that a token is not used in vain. Keys are made here and stay
    here. If it is cut off, give the same command again.

    Example: transferline-plant join --token TOKEN --data /data/line-3 --dir ./plant-a
    """
    from client.joining import joining  # noqa: PLC0415  loads torch and grpc, which take seconds

    line = sys.stdin.readline() if token == "-" else token
    entry = joining.Entry(
        token=Token.parse(line),
        folder=folder,
        data=data,
        link_user=link_user,
        good=good,
        classes=tuple(classes or ()),
    )
    if readmitted:
        found = joining.join_again(entry)
    else:
        with progress("reading images") as advance:
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
    folder: Annotated[
        Path, typer.Argument(help="The plant's folder; or a folder of images, one folder a class.")
    ],
    *,
    as_json: AsJson = False,
    image_size: Annotated[
        int, typer.Option(min=32, max=1024, help="Of a folder of images: side, pixels.")
    ] = 96,
    good: Annotated[str, typer.Option(help="Of a folder of images: the class of good parts.")] = "",
    labels_per_class: Annotated[
        int | None,
        typer.Option(min=2, help="Of a folder of images: labelled images a class; default: all."),
    ] = None,
) -> None:
    """Say whether a plant can take part, one line each, with what to do.

    Data, device, disk, clock, connection, certificate, policy, and what the link could reach. Exit
    code 1 if something would keep the plant from taking part. For a folder of images: what a
    federation would learn from them.

    Example: transferline-plant check ./plant-a
    """
    if not holds_plant(folder):
        from client.console import survey  # noqa: PLC0415  loads torch, which takes seconds
        from client.tasks.images import Selection, load_images  # noqa: PLC0415  the same

        chosen = Selection(good=good, labels_per_class=labels_per_class, image_size=image_size)
        with progress("reading images") as advance:
            data = load_images(
                folder, selection=chosen, progress=lambda done, total: advance(f"of {total}")
            )
        if as_json:
            _print_json(survey.facts(data))
        else:
            survey.show(console(), data)
        return
    found = _checks(Plant.open(folder, now=datetime.now().astimezone()), quiet=as_json)
    if as_json:
        _print_json({"plant": str(folder), "checks": [asdict(one) for one in found]})
    else:
        console().print(f"\n{screens.verdict(found)}", markup=False)
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
    from client.console.preview import classes_of, preview  # noqa: PLC0415  loads torch

    found = preview(at_plant(config, settings), classes=classes_of(folder, settings))
    if as_json:
        about = {"federation": config.name, "method": config.method, "backbone": config.backbone}
        _print_json(about | found.facts())
    else:
        screens.show_preview(console(), found, settings=settings, config=config)


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
        float, typer.Option(min=0, help="Deviations of doubt that a proposal must make up for.")
    ] = 1.0,
    trials: Annotated[int, typer.Option(min=20, help="Settings to try.")] = 400,
    proposals: Annotated[int, typer.Option(min=1, help="How many to show.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Of the search.")] = 0,
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
    from client.console import proposing  # noqa: PLC0415  loads torch, which takes seconds
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
        _print_json(proposing.facts(ensemble, found))
    else:
        proposing.show(console(), ensemble, found, wishes=wishes)


@app.command()
def status(folder: PlantFolder, *, as_json: AsJson = False) -> None:
    """Show how the plant is: daemon, link, the order in hand, the model that inspects parts.

    Exit code 1 if the daemon does not run.

    Example: transferline-plant status ./plant-a --json
    """
    found = views.overview(folder, settings=open_settings(folder), now=datetime.now().astimezone())
    if as_json:
        _print_json(found.facts())
    else:
        screens.show_overview(console(), found, folder=folder)
    if found.daemon is None:
        raise typer.Exit(FAILED)


@app.command()
def history(
    folder: PlantFolder,
    *,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 20,
    repeated: Annotated[
        bool, typer.Option("--repeated", help="Also answers that were given again.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what the plant was asked and what it answered: all that has ever left it.

    Example: transferline-plant history ./plant-a --limit 50
    """
    open_settings(folder)
    found = Ledger(folder).history(limit=limit, repeated=repeated)[::-1]
    if as_json:
        _print_json([views.report(answer) for answer in found])
    elif found:
        screens.show_history(console(), found)
    else:
        console().print("nothing was asked yet")


@app.command()
def personal(
    folder: PlantFolder,
    action: Annotated[Action, typer.Argument(help="What to do.")] = Action.LIST,
    number: Annotated[int | None, typer.Argument(help="The version to roll back to.")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """List the plant's own models, or put an earlier one back.

    The model that inspects parts has a star. After a rollback the next release is compared with
    the model that was put back, and takes its place only if it is not worse.

    Example: transferline-plant personal ./plant-a rollback 3
    """
    open_settings(folder)
    store = PersonalStore(folder / "personal")
    if (number is None) == (action is Action.ROLLBACK):
        raise typer.BadParameter("a version goes with rollback: rollback 3", param_hint="NUMBER")
    before = store.deployed()
    if number is not None:
        store.rollback(number)
    found = views.models(store)
    if as_json:
        _print_json([model.facts() for model in found])
        return
    if number is not None and before is not None:
        console().print(f"version {number} inspects parts now, before it was {before.version}\n")
    if found:
        screens.show_models(console(), found)
    else:
        console().print("no model yet: the first one comes with the first release")


@app.command()
def peers(
    folder: PlantFolder,
    action: Annotated[Listing, typer.Argument(help="What to do.")] = Listing.LIST,
    fingerprint: Annotated[
        str, typer.Argument(help="Of an identity: 64 hexadecimal digits, or 8 of one that waits.")
    ] = "",
    *,
    name: Annotated[str, typer.Option(help="What to call an identity that is accepted.")] = "",
    as_json: AsJson = False,
) -> None:
    """List, accept or remove the plants that this one sums its updates with.

    A certificate of the federation is not enough: compare the fingerprint with the other plant's
    engineer, over the telephone. This plant's own is shown first. A sum with a plant that is not
    accepted is refused; who turned up in one waits in the list.

    Example: transferline-plant peers ./plant-a accept 3f2a9c01
    """
    settings = open_settings(folder)
    if bool(fingerprint) != (action is not Listing.LIST):
        raise typer.BadParameter(
            "a fingerprint goes with accept and remove", param_hint="FINGERPRINT"
        )
    ledger = Ledger(folder)
    ledger.prepare()
    known = Peers(ledger=ledger)
    said = ""
    if action is Listing.ACCEPT:
        peer = known.accept(fingerprint, name=name)
        said = f"accepted {peer.name or 'the identity'} {peer.fingerprint}"
    elif action is Listing.REMOVE:
        peer = known.remove(fingerprint)
        said = f"removed {peer.name or 'the identity'} {peer.fingerprint}; no sum with it any more"
    own = Signer.open(folder / IDENTITY / KEY, folder / IDENTITY / CERTIFICATE).fingerprint
    if as_json:
        _print_json({"name": settings.name, "fingerprint": own,
                     "peers": [asdict(peer) for peer in known.all()]})  # fmt: skip
        return
    if said:
        console().print(f"{said}\n", soft_wrap=True)
    screens.show_peers(console(), known.all(), name=settings.name, fingerprint=own)


@app.command()
def releases(folder: PlantFolder, *, as_json: AsJson = False) -> None:
    """List the releases that came to the plant, and which one its model was made from.

    Example: transferline-plant releases ./plant-a
    """
    open_settings(folder)
    store = PersonalStore(folder / "personal")
    now = store.deployed()
    version = None if now is None else store.version(now.version)
    found = views.received(Ledger(folder).history(), deployed=version)
    if as_json:
        _print_json([one.facts() for one in found])
    elif found:
        screens.show_releases(console(), found)
    else:
        console().print("no release came yet")


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
    with progress("loading torch"):
        from client.console import fitness  # noqa: PLC0415  loads torch, which takes seconds

        one = fitness.device(plant)
    note(one)
    with progress("reading images") as advance:
        one = fitness.data(plant, progress=lambda done, total: advance(f"of {total}"))
    note(one)
    return found


def _print_json(value: Mapping[str, Any] | list[Any]) -> None:
    console().print_json(json.dumps(value))


if __name__ == "__main__":
    main()
