"""``transferline-server``: what the operator of the centre types.

The commands and the daemon (`up`) talk through the store alone: a command writes a row, and `up`
acts on it within a second. So each works whether the centre is up or not.
"""

from __future__ import annotations

import logging
import re
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from common.config import CentreConfig, FederationConfig
from common.errors import ConfigError, EngineError
from common.pki import fingerprint
from common.tasks import KINDS
from common.terminal import AsJson, command_line, console, errors, print_json, run
from common.toml import validate
from server.centre import Centre
from server.console import inviting, records
from server.console.display import follow
from server.console.inviting import Invitations
from server.console.listing import (
    invitation_facts,
    plant_facts,
    run_facts,
    status_facts,
    table,
)
from server.engine.launch import launch
from server.state.tables import ACTIVE, ENDED, ENROLLED, FINISHED, HOLDING, STOPPED, utcnow

app = command_line(about="The centre of a federation.")
app.add_typer(records.releases, name="releases")
app.add_typer(records.log, name="log")

Folder = Annotated[Path, typer.Argument(help="The centre's folder.")]
Plant = Annotated[str, typer.Argument(help="Name of the plant.")]
Valid = Annotated[
    str, typer.Option(help="How long the token may be used: 30m, 24h, 7d; at most 30d.")
]


@app.command()
def init(
    folder: Folder,
    *,
    name: Annotated[str, typer.Option(help="Name of the federation.")],
    address: Annotated[str, typer.Option(help="host:port that plants reach this machine at.")],
    enrolment: Annotated[
        str, typer.Option(help="host:port of enrolment; by default the next port.")
    ] = "",
    bind: Annotated[str, typer.Option(help="Address of this machine to listen on.")] = "0.0.0.0",
    metrics: Annotated[
        str, typer.Option(help="host:port of the metrics; empty for none.")
    ] = "127.0.0.1:9464",
    database: Annotated[
        str, typer.Option(help="URL of a PostgreSQL database; by default a file.")
    ] = "",
    task: Annotated[
        str, typer.Option(help=f"What the plants learn: {', '.join(KINDS)}.")
    ] = "image-classification",
    invite: Annotated[
        list[str] | None,
        typer.Option(metavar="PLANT", help="Print a token for this plant too; may be repeated."),
    ] = None,
) -> None:
    """Make a centre: its CA, keys, settings and state.

    Example: transferline-server init ./centre --name acme --address centre.example:8443
    --invite plant-a --invite plant-b
    """
    invited = Invitations.of(invite or ())
    values: dict[str, Any] = {
        "name": name,
        "address": address,
        "enrolment": enrolment or _next_port(address),
        "bind": bind,
        "metrics": metrics,
        "database": database,
    }
    federation = validate(FederationConfig, {"name": name, "task": task}, name="federation.toml")
    centre = Centre.create(
        folder, validate(CentreConfig, values, name="init"), task=federation.task
    )
    console().print(
        f"{folder} is the centre of {name}. Edit {centre.federation_toml}, then:\n"
        f"  transferline-server up {folder}",
        *([] if invited.names else [f"\n  transferline-server invite {folder} PLANT"]),
        sep="",
        soft_wrap=True,
    )
    if invited.names:
        inviting.show(centre, invited)


@app.command()
def up(folder: Folder) -> None:
    """Run the centre until it is told to end; continue whatever was running.

    Example: transferline-server up ./centre
    """
    # Its imports take a second, and no other command needs them.
    from server.daemon import Daemon  # noqa: PLC0415

    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    for layer in ("server", "common"):
        logger = logging.getLogger(layer)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        logger.addHandler(handler)
    daemon = Daemon(Centre.open(folder))
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: daemon.stop())
    daemon.run()


@app.command()
def invite(
    folder: Folder,
    names: Annotated[list[str], typer.Argument(metavar="PLANT...", help="Names of plants.")],
    *,
    valid: Valid = "24h",
    as_json: AsJson = False,
) -> None:
    """Print a token with which a plant may join, once; for several plants, a line each.

    Example: transferline-server invite ./centre plant-a plant-b --valid 7d
    """
    asked = Invitations.of(names, valid=valid)
    inviting.show(Centre.open(folder), asked, as_json=as_json)


@app.command()
def readmit(folder: Folder, plant: Plant, *, valid: Valid = "24h", as_json: AsJson = False) -> None:
    """Print a token with which a revoked plant may join again, with new keys.

    Example: transferline-server readmit ./centre plant-a
    """
    asked = Invitations.of([plant], valid=valid, readmit=True)
    inviting.show(Centre.open(folder), asked, as_json=as_json)


@app.command("run")
def start_run(
    folder: Folder,
    *,
    rounds: Annotated[
        int | None, typer.Option(min=0, help="Rounds; by default federation.toml's.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start from the source weights, not the last release.")
    ] = False,
    name: Annotated[str, typer.Option(help="Name of the run; by default the time.")] = "",
    detach: Annotated[
        bool, typer.Option("--detach", help="Put it into the queue and return.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Start a run and show it live; Ctrl-C leaves it running.

    Example: transferline-server run ./centre --rounds 20
    """
    if name and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise ConfigError(f"--name must be letters, digits, '.', '_' and '-', got {name!r}")
    centre = Centre.open(folder)
    launched = launch(centre, rounds=rounds, fresh=fresh, name=name)
    told = f"run {launched.run} starts from {launched.origin}"
    errors().print(told)
    if idle := launched.without_effect:
        said = f"warning: {', '.join(idle)} of federation.toml is for simulation; a plant's own "
        errors().print(f"{said}plant.toml says which of its data count")
    if not detach:
        try:
            follow(centre, launched.run, quiet=as_json)
        except KeyboardInterrupt:
            errors().print(f"run {launched.run} goes on; see transferline-server runs {folder}")
            raise typer.Exit(130) from None
    row = centre.registry.run(launched.run)
    if as_json:
        with centre.store().reading() as session:
            print_json(run_facts(session, row))
    if row.state in ENDED and (row.state != FINISHED or row.reason):
        raise EngineError(f"run {row.name} {row.state}: {row.reason or 'no reason was given'}")


@app.command()
def status(folder: Folder, *, as_json: AsJson = False) -> None:
    """Say how the centre is.

    Example: transferline-server status ./centre
    """
    facts = status_facts(Centre.open(folder))
    if as_json:
        print_json(facts)
        return
    plants, release = facts["plants"], facts["release"]
    lines = {
        "centre": f"{facts['federation']}, {'up' if facts['up'] else 'not up'}",
        "address": f"{facts['address']}, enrolment {facts['enrolment']}",
        "plants": f"{len(plants['connected'])} of {plants['enrolled']} connected"
        + "".join(f", {name}" for name in plants["connected"]),
        "invited": ", ".join(plants["invited"]),
        "release": "none yet"
        if release is None
        else f"{release['number']} ({release['hash'][:12]})",
        **{f"run {one['run']}": _stands(one) for one in facts["runs"]},
    }
    rows = [{"what": name, "how": text} for name, text in lines.items() if text]
    found = table(rows, ("what", "how"))
    found.show_header = False
    console().print(found)
    for line in facts["warnings"]:
        errors().print(f"warning: {line}")


@app.command()
def runs(folder: Folder, *, as_json: AsJson = False) -> None:
    """List the runs, the newest last.

    Example: transferline-server runs ./centre
    """
    centre = Centre.open(folder)
    rows = centre.registry.runs()
    with centre.store().reading() as session:
        facts = [run_facts(session, row) for row in rows]
    _list(
        facts,
        ("run", "state", "committed", "skipped", "rounds", "method", "reason"),
        as_json=as_json,
    )


@app.command()
def plants(folder: Folder, *, as_json: AsJson = False) -> None:
    """List the plants that joined, and the invitations that are open.

    Example: transferline-server plants ./centre
    """
    centre, now = Centre.open(folder), utcnow()
    facts = [plant_facts(row, now=now, up=centre.is_up) for row in centre.registry.plants()]
    facts += [invitation_facts(row) for row in centre.registry.invitations()]
    _list(
        facts,
        ("plant", "state", "connected", "last_seen", "certificate_until", "reason"),
        as_json=as_json,
    )


@app.command()
def stop(
    folder: Folder,
    run_name: Annotated[
        str, typer.Argument(metavar="[RUN]", help="By default the one that is running.")
    ] = "",
    *,
    now: Annotated[
        bool, typer.Option("--now", help="Drop the round in progress; it does not count.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Stop a run after its round in progress.

    Example: transferline-server stop ./centre
    """
    registry = Centre.open(folder).registry
    names = [run_name] if run_name else [row.name for row in registry.runs() if row.state in ACTIVE]
    if not names:
        raise ConfigError("a run must be active to be stopped, got none; see `runs`")
    name = names[0]
    state = registry.request_stop(name)
    if now and state in HOLDING:
        row = registry.run(name)
        registry.finish(name, fence=row.fence, state=STOPPED, reason="stopped by the operator")
        state = STOPPED
    if as_json:
        print_json({"run": name, "state": state})
        return
    said = f"run {name} {state}"
    console().print(said if state in ENDED else f"{said}: it ends after its round")


@app.command()
def revoke(
    folder: Folder,
    plant: Plant,
    *,
    reason: Annotated[str, typer.Option(help="Kept in the log.")] = "",
    as_json: AsJson = False,
) -> None:
    """Shut a plant out at once, also from the round in progress.

    Example: transferline-server revoke ./centre plant-a --reason "lost laptop"
    """
    Centre.open(folder).registry.revoke(plant, reason=reason)
    if as_json:
        print_json({"plant": plant, "state": "revoked"})
    else:
        console().print(f"{plant} is revoked")


@app.command()
def rotate(
    folder: Folder,
    *,
    ca: Annotated[
        bool, typer.Option("--ca", help="Make a new CA too; plants take it over by themselves.")
    ] = False,
    end: Annotated[
        bool, typer.Option("--end", help="End the overlap: only the new CA counts from now on.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make new keys for the centre: TLS, signatures and, if asked, the CA. Nobody has to rejoin.

    Example: transferline-server rotate ./centre --ca
    """
    if ca and end:
        raise ConfigError("--ca and --end must be days apart, got both; plants renew in between")
    centre = Centre.open(folder)
    authority = centre.authority()
    if ca:
        authority = authority.rotate()
    elif end:
        behind = [
            plant.name
            for plant in centre.registry.plants()
            if plant.state == ENROLLED and not authority.issued(plant.certificate)
        ]
        if behind:
            raise ConfigError(
                f"plants must all have certificates of the new CA, got {behind} without; a plant "
                "renews within minutes of its next order: hold a round, or revoke them"
            )
        authority = authority.retire()
    centre.renew_release(authority, new_key=not end)
    centre.renew_server(authority)
    said = fingerprint(authority.pem)
    if as_json:
        print_json({"authority": said, "overlap": bool(authority.older)})
        return
    console().print(
        f"new keys are in {centre.pki}; the CA is {said[:16]}"
        + (", beside the old one until --end" if authority.older else ""),
    )


def main() -> None:
    """Run the command line."""
    run(app)


def _list(facts: list[dict[str, Any]], columns: tuple[str, ...], *, as_json: bool) -> None:
    if as_json:
        print_json(facts)
    else:
        console().print(table(facts, columns))


def _stands(one: dict[str, Any]) -> str:
    skipped = f", {one['skipped']} skipped" if one["skipped"] else ""
    return f"{one['state']}, {one['committed']} of {one['rounds']} rounds{skipped}"


def _next_port(address: str) -> str:
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal()):
        raise ConfigError(
            f"--address must be host:port, such as centre.example:8443, got {address!r}"
        )
    return f"{host}:{int(port) + 1}"


if __name__ == "__main__":
    main()
