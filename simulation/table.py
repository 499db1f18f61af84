"""The results of a run as a table for the terminal: plants as rows, the five models as columns.

Plain text where the output is no terminal, ASCII only, and no wider than 80 columns unless the
console is.
"""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from simulation.notation import Notation
from simulation.results import VARIANTS, Interval, Results

WIDE = 120
"""From this many columns on, an interval stands beside its figure instead of below it."""


def print_table(results: Results, console: Console) -> None:
    """Print scores and gains with their 95 % intervals, and the mean over plants."""
    gap = " " if console.width >= WIDE else "\n"
    told = Notation(share=results.share, lower=results.lower)
    pooled = any(plant.pooled for plant in results.plants.values())
    columns = [name for name in VARIANTS if pooled or name != "pooled"]
    table = Table(
        title=f"{results.word}{told.where.replace(' in ', ' ')}, with 95 % intervals",
        title_justify="left",
        title_style="",
        show_footer=len(results.plants) > 1,
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1) if gap == " " else (0, 0),
    )
    table.add_column("plant", Text("mean"), overflow="fold", min_width=9)
    for name in columns:
        mean = _figure(getattr(results.mean, name), gap, told)
        table.add_column(name.replace("_", " "), mean, justify="right", no_wrap=True)
    table.add_column("gain", _gain(results.gain, gap, told), justify="right", no_wrap=True)
    for plant, row in results.plants.items():
        title = Text(plant).append(f"\n runs {row.deployed.source}".replace("_", " "), "dim")
        table.add_row(
            title,
            *(_figure(getattr(row, column), gap, told) for column in columns),
            _gain(row.gain, gap, told),
        )
    console.print(table)


def _figure(interval: Interval | None, gap: str, told: Notation) -> Text:
    if interval is None:
        return Text("-")
    low, value, high = (
        _ascii(told.score(x)) for x in (interval.low, interval.value, interval.high)
    )
    span = f"{low}-{high}" if interval.low >= 0 else f"{low} to {high}"
    return Text(f"{value}{gap}").append(span, "dim")


def _gain(gain: Interval, gap: str, told: Notation) -> Text:
    style = "green" if gain.low > 0 else "red" if gain.high < 0 else ""
    text = Text(_ascii(told.change(gain.value)), style=f"bold {style}".strip())
    return text.append(
        f"{gap}{_ascii(told.change(gain.low))} to {_ascii(told.change(gain.high))}", "not bold dim"
    )


def _ascii(text: str) -> str:
    return text.replace("−", "-")
