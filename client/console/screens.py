"""How the plant's commands look: lines of at most 80 columns on a terminal, and never cut off it.

Off a terminal a line is one line however long, so that grep and a log see it whole.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from client.console.checks import Check, State, lasting
from client.console.views import (
    Model,
    Overview,
    Received,
    best_known,
    moment,
    number,
    score,
    size,
)
from client.desk.ledger import Answer
from client.desk.peers import Peer
from client.desk.spending import Spent
from client.layout import SETTINGS
from client.link.zones import SHARED, is_shared
from common.config import FederationConfig, PlantConfig
from common.privacy import UNITS
from common.tasks import KINDS

if TYPE_CHECKING:  # they load torch
    from client.console.preview import Preview
    from client.joining.joining import Membership

NAMED = 3  #: files that a line names
WIDTH = 80  #: columns that a line may take on a terminal
_STYLES = {State.OK: "green", State.WARN: "yellow", State.FAIL: "bold red", State.SKIP: "dim"}


def put(
    out: Console,
    text: str,
    *,
    indent: int = 0,
    first: str = "",
    style: str = "",
    cut: bool = False,
) -> None:
    """Print a line, on a terminal wrapped with a hanging indent.

    Parameters
    ----------
    first : what stands in the indent of the first line.
    cut : whether a word that is too long is cut; a path that somebody may copy is not.
    """
    head = f"{first:<{indent}}"
    if out.is_terminal:
        lines = textwrap.wrap(
            text,
            min(out.width, WIDTH) - indent,
            break_on_hyphens=False,
            break_long_words=cut,
        )
    else:
        lines = [text]
    for place, line in enumerate(lines or [""]):
        lead = Text(head if place == 0 else " " * indent, style=style)
        out.print(lead + Text(line), soft_wrap=True)


def show_check(out: Console, check: Check) -> None:
    """Print one check: a line, and below it what to do."""
    put(
        out,
        check.says,
        indent=17,
        first=f"{check.state:<4}  {check.name}",
        style=_STYLES[check.state],
    )
    if check.do:
        put(out, check.do, indent=19, first=f"{'':<17}→")


def verdict(found: Iterable[Check]) -> str:
    """Return the sentence below all checks."""
    states = [check.state for check in found]
    failed, warned = states.count(State.FAIL), states.count(State.WARN)
    said = [
        f"{count} {word}{'s' if count > 1 else ''}"
        for count, word in ((failed, "failure"), (warned, "warning"))
        if count
    ]
    if failed:
        return f"{' and '.join(said)}: this plant cannot take part yet"
    return f"{said[0]}: this plant can take part" if said else "all is well"


def show_preview(
    out: Console, found: Preview, *, settings: PlantConfig, config: FederationConfig
) -> None:
    """Print what a round would send, the sums last, where a reader's eye is."""
    rows = [
        ("x".join(map(str, tensor.shape)) or "one value", f"{tensor.size:,}", tensor.name)
        for tensor in found.tensors
    ]
    rows.append(("", f"{found.size:,}", f"{len(found.tensors)} tensors in all"))
    table(out, ("shape", "bytes", "tensor"), rows, right={1}, note=f"type {found.dtype}")
    out.print()
    out.print("What goes with it:")
    for name, what in found.beside.items():
        put(out, what, indent=14, first=f"  {name}")
    out.print()
    out.print("What is done to it before it is sent:")
    for step in found.protection:
        put(out, step, indent=2)
    if found.open:
        put(out, "nothing hides it from the centre: no secure sum, no noise", indent=2)
    out.print()
    stays = [f"{part} {size(count)}" for part, count in found.kept.items()]
    kind = KINDS[config.task]
    pixels = f", {config.image_size} pixels" if kind.images else ""
    about = f"{config.method} on {config.backbone}{pixels}"
    stays = ["images" if kind.images else "the data", "file names", *stays]
    if kind.family == "table":
        stays.append("the layer that its own columns go in by")
    put(out, about, indent=10, first="settings")
    put(out, found.form, indent=10, first="form")
    whole = "" if found.sent == found.size else f" in this form, of {size(found.size)},"
    put(out, f"{size(found.sent)}{whole} and a page of text", indent=10, first="leaves")
    put(out, f"{size(found.arrives)}, the release", indent=10, first="comes in")
    put(out, ", ".join(stays), indent=10, first="stays")
    if is_shared(settings.link):
        put(out, f"{SHARED}; for trials only", indent=10, first="link")
    rate = settings.policy.bandwidth
    if rate:
        put(out, f"{found.sent / 1e6 / rate:.0f} s at {rate:g} MB/s", indent=10, first="takes")


def show_overview(out: Console, found: Overview, *, folder: Path) -> None:
    """Print how a plant is."""

    def row(name: str, text: str, style: str = "") -> None:
        put(out, text, indent=11, first=name, style=style)

    row("plant", f"{found.settings.name} of {found.settings.centre.federation}")
    if found.daemon is None:
        row("daemon", f"not running: transferline-plant up {folder}", "bold red")
    else:
        row("daemon", f"process {found.daemon['pid']}, up for {_since(found, found.daemon)}")
    if found.link is not None and (found.daemon or found.settings.link.listen):
        row("link", f"{found.link.state} for {_since(found, {'since': found.link.since})}")
    if found.daemon is not None:
        row("now", _work(found))
    if found.last is not None:
        one = found.last
        said = one.reason or f"score {number(found.score)}"
        ago = lasting(found.now - one.at)
        row(
            "last",
            f"{one.kind} in round {one.round} of {one.run}, {one.outcome}: {said}; {ago} ago",
        )
    if found.model is not None:
        known = number(best_known(found.model.version.scores))
        row("model", f"version {found.model.version.number}, {found.model.origin}, score {known}")
    else:
        row("model", "none yet")
    for spent in found.privacy:
        row("privacy", _spent(spent, found.settings.policy.privacy_budget))
    if found.certificate is None:
        row("identity", found.trouble, "bold red")
    else:
        left = lasting(found.certificate.not_after - found.now)
        row("identity", f"certificate valid for {left}")


def _spent(spent: Spent, budget: float | None) -> str:
    limit = f" of {budget:g}" if budget is not None else ""
    return (
        f"epsilon {spent.epsilon.value:.3g}{limit} at delta {spent.delta:g} for "
        f"{UNITS[spent.unit]}, {spent.rounds} round{'s' if spent.rounds > 1 else ''}"
    )


def _work(found: Overview) -> str:
    if found.work is None:
        return "waits for orders"
    doing = f"{found.work['kind']} in round {found.work['round']} of {found.work['run']}"
    more = f"; {found.queue} more wait" if found.queue else ""
    return f"{doing}, for {_since(found, found.work)}{more}"


def _since(found: Overview, fact: Mapping[str, Any]) -> str:
    """Say how long something has been so; "an unknown time" where it is not told."""
    try:
        return lasting(found.now - datetime.fromisoformat(str(fact["since"])))
    except (KeyError, ValueError, TypeError):
        return "an unknown time"


def show_joined(out: Console, found: Membership, *, folder: Path) -> None:
    """Print what joining has brought, and what to do next."""
    settings = found.settings
    out.print(f"{settings.name} is a plant of {settings.centre.federation} now")
    if found.data is not None and found.data.skipped:
        skipped = found.data.skipped
        named = "; ".join(f"{one.file}: {one.why}" for one in skipped[:NAMED])
        more = f"; and {len(skipped) - NAMED} more" if len(skipped) > NAMED else ""
        put(out, f"{len(skipped)} of the files cannot be used: {named}{more}")
        put(out, f"all are listed by: transferline-plant check {settings.data}")
    if found.problem:
        put(out, f"its data does not fit yet: {found.problem}")
        put(out, f"if the data lie elsewhere, set `data` in {folder / SETTINGS}")
    for key, address in found.moved.items():
        put(out, f'the centre has moved: set {key} = "{address}" in {folder / SETTINGS}')
    if not settings.link.user:
        put(out, "data and link share a user, which is for trials; see --link-user")
    out.print(f"\nnext:  transferline-plant check {folder}", soft_wrap=True)
    out.print(f"       transferline-plant preview {folder}", soft_wrap=True)
    out.print(f"       transferline-plant up {folder}", soft_wrap=True)


def show_history(out: Console, answers: Sequence[Answer], *, private: Collection[str] = ()) -> None:
    """Print what was asked and answered, oldest first; a reason has a line of its own.

    Parameters
    ----------
    private : runs of which no score leaves the plant.
    """
    width = max([len(answer.run) for answer in answers] + [3])
    head = (
        f"{'when':<11}  {'run':<{width}}  round  asked  answer    score  {'took':>7}  {'sent':>8}"
    )
    out.print(head, soft_wrap=True)
    for one in answers:
        line = (
            f"{moment(one.at)}  {one.run:<{width}}  {one.round:>5}  {one.kind:<5}  "
            f"{one.outcome:<8}  {number(score(one)):>5}  {one.seconds:>5.0f} s  {size(one.sent):>8}"
        )
        out.print(line, soft_wrap=True)
        if one.reason:
            put(out, one.reason, indent=13)
    if any(one.run in private and one.outcome == "done" for one in answers):
        out.print()
        put(
            out,
            "rounds with noise send no score, so none is listed; the newest one is in "
            "transferline-plant status and in the plant's own metrics",
        )


def show_peers(out: Console, peers: Sequence[Peer], *, name: str, fingerprint: str) -> None:
    """Print this plant's fingerprint, and whom it sums with."""
    put(out, f"{name}, this plant")
    put(out, fingerprint, indent=2)
    for peer in peers:
        out.print()
        put(out, f"{peer.name or 'no name'}, {peer.state} since {peer.since}")
        put(out, peer.fingerprint, indent=2)
    if not peers:
        out.print()
        put(out, "nobody is accepted yet: no sum with this plant is formed")


def show_models(out: Console, models: Sequence[Model]) -> None:
    """Print the whole models at a plant."""
    rows = [
        (
            "*" if model.deployed else "",
            str(model.version.number),
            moment(model.made),
            number(best_known(model.version.scores)),
            model.origin,
        )
        for model in models
    ]
    table(out, ("", "version", "made", "score", "from"), rows, right={1, 3})
    for model in models:
        if model.deployed:
            out.print()
            put(
                out,
                f"version {model.version.number} inspects parts: {model.why}",
                indent=2,
                first="*",
            )


def show_releases(out: Console, found: Sequence[Received]) -> None:
    """Print the releases that came to a plant."""
    rows = [
        (
            "*" if one.deployed else "",
            one.release[:12],
            moment(one.first),
            str(one.round),
            number(one.incoming),
            one.run,
        )
        for one in found
    ]
    table(out, ("", "release", "came", "round", "score", "run"), rows, right={3, 4})
    if any(one.deployed for one in found):
        out.print("\n* what inspects parts was made from it")


def table(
    out: Console,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: set[int],
    note: str = "",
) -> None:
    """Print columns, the last of which may be long: on a terminal it is wrapped below itself."""
    widths = [max(len(row[place]) for row in (head, *rows)) for place in range(len(head) - 1)]
    indent = sum(widths) + 2 * len(widths)

    def line(cells: Sequence[str]) -> str:
        parts = [
            f"{cell:>{width}}" if place in right else f"{cell:<{width}}"
            for place, (cell, width) in enumerate(zip(cells, widths, strict=False))
        ]
        return "".join(f"{part}  " for part in parts)

    put(out, f"{head[-1]}{f' ({note})' if note else ''}", indent=indent, first=line(head))
    for row in rows:
        put(out, row[-1], indent=indent, first=line(row), cut=True)
