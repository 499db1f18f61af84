"""The results of a run as a table for the terminal: plants as rows, the five models as columns.

Plain text where the output is no terminal, ASCII only, and no wider than 80 columns unless the
console is.
"""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from simulation.charts import points
from simulation.results import VARIANTS, Interval, Results

WIDE = 120
"""From this many columns on, an interval stands beside its figure instead of below it."""


def print_table(results: Results, console: Console) -> None:
    """Print scores and gains in per cent with their 95 % intervals, and the mean over plants."""
    gap = " " if console.width >= WIDE else "\n"
    pooled = any(plant.pooled for plant in results.plants.values())
    columns = [name for name in VARIANTS if pooled or name != "pooled"]
    table = Table(
        title=f"{results.metric.replace('_', ' ')}, per cent, with 95 % intervals",
        title_justify="left",
        title_style="",
        show_footer=len(results.plants) > 1,
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1) if gap == " " else (0, 0),
    )
    table.add_column("plant", Text("mean"), overflow="fold", min_width=8)
    for name in columns:
        mean = _figure(getattr(results.mean, name), gap)
        table.add_column(name.replace("_", " "), mean, justify="right", no_wrap=True)
    table.add_column("gain", _gain(results.gain, gap), justify="right", no_wrap=True)
    for plant, row in results.plants.items():
        title = Text(plant).append(f"{gap}{row.deployed.source}".replace("_", " "), "dim")
        table.add_row(
            title, *(_figure(getattr(row, column), gap) for column in columns), _gain(row.gain, gap)
        )
    console.print(table)


def _figure(interval: Interval | None, gap: str) -> Text:
    if interval is None:
        return Text("-")
    span = f"{100 * interval.low:.1f}-{100 * interval.high:.1f}"
    return Text(f"{100 * interval.value:.1f}{gap}").append(span, "dim")


def _gain(gain: Interval, gap: str) -> Text:
    style = "green" if gain.low > 0 else "red" if gain.high < 0 else ""
    text = Text(_points(gain.value), style=f"bold {style}".strip())
    return text.append(f"{gap}{_points(gain.low)} to {_points(gain.high)}", "not bold dim")


def _points(value: float) -> str:
    return points(value).replace("−", "-")
