"""``optimise``: settings that a plant's own model proposes, and how sure it says to be.

Reads the plant's table and the model that it runs; nothing is written and nothing leaves.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from client.layout import federation_of
from client.optimise.ensemble import Ensemble, train
from client.optimise.search import Found, Measured, search
from client.optimise.support import Support
from client.optimise.wishes import Wishes
from client.plant import Plant
from client.tasks.data import PlantData
from common.config import FederationConfig
from common.errors import ConfigError
from common.tasks import KINDS, learns

#: Below this rank correlation on validation rows a model cannot tell good settings from bad ones.
WEAK = 0.5


def propose(folder: Path, wishes: Wishes) -> tuple[Ensemble, Found]:
    """Let the model of the plant in a folder propose settings.

    Raises
    ------
    ConfigError
        If the plant's task is no table of numbers, or it learns another target.
    TransferlineError
        As reading, training and searching raise.
    """
    return propose_by(Plant.open(folder), federation_of(folder), wishes)


def propose_by(plant: Plant, config: FederationConfig, wishes: Wishes) -> tuple[Ensemble, Found]:
    """As `propose`, by settings that are given."""
    if not KINDS[config.task].proposes or learns(config) != "numbers":
        raise ConfigError(
            f"optimise needs a plant that learns a number from a table, got task {config.task}"
        )
    data = plant.data(config)
    if wishes.target not in data.numbers:
        option = "--minimise" if wishes.lower else "--maximise"
        raise ConfigError(
            f"{option} must name what the plant's model says, {data.numbers[0]}, got "
            f"{wishes.target!r}"
        )
    ensemble = train(plant, config)
    data = ensemble.trainer.data  # the rows as the model reads them
    support = Support.of(data, config)
    return ensemble, search(ensemble, support, wishes, measured=measured(data))


def measured(data: PlantData) -> Measured:
    """Return the labelled rows' targets and names."""
    rows = np.concatenate([data.train.cpu().numpy(), data.validation.cpu().numpy()])
    targets = data.targets.cpu().numpy()[rows, 0].astype(np.float64)
    return Measured(targets=targets, names=tuple(data.names[row] for row in rows))


def facts(ensemble: Ensemble, found: Found) -> dict[str, Any]:
    """Return everything, ready for JSON."""
    return {
        "proposals": [asdict(one) for one in found.proposals],
        "compared": {
            "value": found.compared[0],
            "row": found.compared[1],
            "elsewhere": dict(found.elsewhere),
        },
        "held": dict(found.held),
        "notes": list(found.notes),
        "tried": found.tried,
        "allowed": found.allowed,
        "validation": {
            "rows": ensemble.judged,
            "rank_correlation": ensemble.correlation,
            "deviation_left": ensemble.left,
            "doubt": ensemble.doubt,
        },
    }


def show(out: Console, ensemble: Ensemble, found: Found, *, wishes: Wishes) -> None:
    """Print the proposals, one column each, and what they rest on."""
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for number in range(1, len(found.proposals) + 1):
        table.add_column(f"proposal {number}", justify="right")
    free = [name for name in found.proposals[0].values if name not in found.held]
    for name in free:
        table.add_row(name, *(_said(one.values[name]) for one in found.proposals))
    for name in found.proposals[0].limits:
        if name not in free:
            table.add_row(name, *(_said(one.limits[name]) for one in found.proposals))
    table.add_row(f"{wishes.target}, expected", *(_said(one.mean) for one in found.proposals))
    if not ensemble.doubt:
        ends = (f"{one.low:.4g} to {one.high:.4g}" for one in found.proposals)
        table.add_row("90 % interval", *ends)
        word = "below" if wishes.lower else "above"
        title = f"chance of being {word} {found.compared[0]:.4g}"
        table.add_row(title, *(f"{one.chance:.0%}" for one in found.proposals))
    table.add_row("of the supported distance", *(f"{one.distance:.0%}" for one in found.proposals))
    table.add_row("nearest measured row", *(one.nearest for one in found.proposals))
    out.print(table)
    out.print(
        f"\n{found.compared[0]:.4g} is {found.compared[1]}: the best that was measured within "
        f"bounds and limits{_elsewhere(found)}",
    )
    if found.held:
        held = ", ".join(f"{name} {_said(value)}" for name, value in found.held.items())
        out.print(f"held: {held}")
    for note in found.notes:
        out.print(f"note: {note}")
    out.print(
        f"{found.allowed} of {found.tried} settings that were tried are within bounds, limits and "
        f"what the rows support; on {ensemble.judged} validation rows the model ranks with "
        f"{ensemble.correlation:.2f} (1 is perfect)"
        + ("" if ensemble.doubt else ", its interval holds 90 %"),
    )
    if ensemble.doubt:
        out.print(f"no interval: {ensemble.doubt}", style="bold red")
    if ensemble.correlation < WEAK:
        out.print(
            "this model can hardly tell good settings from bad ones: do not rely on it",
            style="bold red",
        )
    else:
        out.print("a proposal is a model's word: try it once before the line runs on it")


def _elsewhere(found: Found) -> str:
    """Say what the row that was measured has in columns that are held at other values."""
    there = {name: _said(value) for name, value in found.elsewhere.items()}
    said = [f"{n} {value}" for n, value in there.items() if value != _said(found.held[n])]
    if not said:
        return ""
    which = "are held at other values" if len(said) > 1 else "is held at another value"
    return f" (there {', '.join(said)}, which {which} here)"


def _said(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"
