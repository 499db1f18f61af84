"""Lines over time as SVG files of their own, which follow light and dark.

Unlike the report's inline charts (`simulation.charts`) they are images: no style sheet reaches
into them, so each carries its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from simulation.charts import Scale

#: Size of a picture, pixels; and what its axes need on the left and below.
WIDTH, HEIGHT = 420, 300
LEFT, BELOW, TOP, RIGHT = 52, 42, 12, 12

_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#444}"
    ".grid{stroke:#ddd}polyline{fill:none}.true{stroke-width:1.2;stroke-dasharray:5 4}"
    ".said{stroke-width:2}.c0{stroke:#0b63ce}.c1{stroke:#c2570c}.c2{stroke:#15803d}"
    ".c3{stroke:#9333ea}"
    "@media(prefers-color-scheme:dark){text{fill:#ccc}.grid{stroke:#444}.c0{stroke:#6db0ff}"
    ".c1{stroke:#fb923c}.c2{stroke:#4ade80}.c3{stroke:#c084fc}}"
)

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Axes with round figures, and where a pair of figures lies between them."""

    across: Scale
    up: Scale
    x: str
    y: str

    def place(self, point: tuple[float, float]) -> tuple[float, float]:
        """Return pixels from the left and from the top."""
        left = LEFT + self.across(point[0]) / 100 * (WIDTH - LEFT - RIGHT)
        top = HEIGHT - BELOW - self.up(point[1]) / 100 * (HEIGHT - BELOW - TOP)
        return round(left, 1), round(top, 1)

    def axes(self) -> list[str]:
        """Draw grid, figures and words."""
        found = []
        right, bottom = WIDTH - RIGHT, HEIGHT - BELOW
        for tick in self.across.ticks:
            left, _ = self.place((tick, self.up.low))
            found.append(f'<line class="grid" x1="{left}" x2="{left}" y1="{TOP}" y2="{bottom}"/>')
            found.append(_text(tick, left, bottom + 16, "middle"))
        for tick in self.up.ticks:
            _, top = self.place((self.across.low, tick))
            found.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{top}" y2="{top}"/>')
            found.append(_text(tick, LEFT - 6, top + 4, "end"))
        middle = (LEFT + right) / 2
        found.append(_text(self.x, middle, HEIGHT - 6, "middle"))
        found.append(
            f'<text transform="translate(12 {(TOP + bottom) / 2}) rotate(-90)" '
            f'text-anchor="middle">{escape(self.y)}</text>'
        )
        return found


def lines(true: Sequence[Points], said: Sequence[Points], *, x: str, y: str) -> str:
    """Draw predicted lines, and in the same colour, dashed and thin, the true ones."""
    every = [point for line in (*true, *said) for point in line]
    frame = Frame(
        across=Scale.around([point[0] for point in every]),
        up=Scale.around([point[1] for point in every]),
        x=x,
        y=y,
    )
    drawn = [_path(frame, line, f"true c{place % 4}") for place, line in enumerate(true)]
    drawn += [_path(frame, line, f"said c{place % 4}") for place, line in enumerate(said)]
    return _svg([*frame.axes(), *drawn])


def _path(frame: Frame, points: Points, kind: str) -> str:
    places = " ".join(f"{left},{top}" for left, top in map(frame.place, points))
    return f'<polyline class="{kind}" points="{places}"/>'


def _text(what: float | str, left: float, top: float, anchor: str) -> str:
    words = what if isinstance(what, str) else f"{what:g}"
    return f'<text x="{left}" y="{top}" text-anchor="{anchor}">{escape(words)}</text>'


def _svg(parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}"><style>{_STYLE}</style>{"".join(parts)}</svg>'
    )
