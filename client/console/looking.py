"""The commands that read what a plant has on record: how it is, what it was asked, its models."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from client.console import screens, views
from client.desk.ledger import Ledger
from client.desk.peers import Peers
from client.identity import signer_of
from client.layout import open_settings
from client.personal import PersonalStore
from common.terminal import FAILED, AsJson, console, print_json

PlantFolder = Annotated[Path, typer.Argument(help="The plant's folder, made by `join`.")]


class Listing(StrEnum):
    """What to do with the plants that this one sums with."""

    LIST = "list"
    ACCEPT = "accept"
    REMOVE = "remove"


class Action(StrEnum):
    """What to do with personal models."""

    LIST = "list"
    ROLLBACK = "rollback"


def status(folder: PlantFolder, *, as_json: AsJson = False) -> None:
    """Show how the plant is: daemon, link, the order in hand, the model that inspects parts.

    Exit code 1 if the daemon does not run.

    Example: transferline-plant status ./plant-a --json
    """
    found = views.overview(folder, settings=open_settings(folder), now=datetime.now().astimezone())
    if as_json:
        print_json(found.facts())
    else:
        screens.show_overview(console(), found, folder=folder)
    if found.daemon is None:
        raise typer.Exit(FAILED)


def history(
    folder: PlantFolder,
    *,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 20,
    repeated: Annotated[
        bool, typer.Option("--repeated", help="Also answers that were given again.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what the plant was asked and what it answered.

    Example: transferline-plant history ./plant-a --limit 50
    """
    open_settings(folder)
    found = Ledger(folder).history(limit=limit, repeated=repeated)[::-1]
    if as_json:
        print_json([views.report(answer) for answer in found])
    elif found:
        screens.show_history(console(), found, private=views.private_runs(folder))
    else:
        console().print("nothing was asked yet")


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
        print_json([model.facts() for model in found])
        return
    if number is not None and before is not None:
        console().print(f"version {number} inspects parts now, before it was {before.version}\n")
    if found:
        screens.show_models(console(), found)
    else:
        console().print("no model yet: the first one comes with the first release")


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
    own = signer_of(folder).fingerprint
    if as_json:
        print_json({"name": settings.name, "fingerprint": own,
                     "peers": [asdict(peer) for peer in known.all()]})  # fmt: skip
        return
    if said:
        console().print(f"{said}\n", soft_wrap=True)
    screens.show_peers(console(), known.all(), name=settings.name, fingerprint=own)


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
        print_json([one.facts() for one in found])
    elif found:
        screens.show_releases(console(), found)
    else:
        console().print("no release came yet")
