"""Scores of good and of defective parts as one picture: how far apart they lie, and the threshold.

Good parts grow upwards from the middle line and defective ones downwards, so that neither hides
the other and nothing hangs on telling colours apart. Each are drawn as shares of their own number.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from simulation.charts import Scale

Scores = npt.NDArray[np.floating]

WIDTH, HEIGHT = 420, 300
LEFT, RIGHT, TOP, BELOW = 12, 12, 26, 44
MIDDLE = (TOP + HEIGHT - BELOW) / 2
#: Pixels of the highest bar; beyond it there is room for words.
TALLEST = MIDDLE - TOP - 18
BINS = 28
#: Scores beyond it are drawn there: one far part must not push all others together.
MOST = 4.0

_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#444}.grid{stroke:#ddd}.axis{stroke:#888}"
    ".good{fill:#0b63ce}.bad{fill:#c2570c}.line{stroke:#222;stroke-dasharray:5 4}"
    "@media(prefers-color-scheme:dark){text{fill:#ccc}.grid{stroke:#444}"
    ".good{fill:#6db0ff}.bad{fill:#fb923c}.line{stroke:#eee}}"
)


def histogram(good: Scores, bad: Scores) -> str:
    """Return an SVG of both distributions, with a line at the threshold.

    Parameters
    ----------
    good, bad : scores in thresholds: above 1 a part is rejected. Neither is empty.
    """
    shown = [one.clip(max=MOST) for one in (good, bad)]
    scale = Scale.around([0.0, 1.2, *(float(one.max()) for one in shown)])
    edges = np.linspace(scale.low, scale.high, BINS + 1)
    shares = [np.histogram(one, edges)[0] / len(one) for one in shown]
    unit = TALLEST / max(float(one.max()) for one in shares)
    drawn = [*_axis(scale)]
    drawn += _bars("good", edges, unit * shares[0], scale, up=True)
    drawn += _bars("bad", edges, unit * shares[1], scale, up=False)
    line, right = _across(1.0, scale), WIDTH - RIGHT
    drawn += [
        f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{MIDDLE}" y2="{MIDDLE}"/>',
        f'<line class="line" x1="{line}" x2="{line}" y1="{TOP}" y2="{HEIGHT - BELOW}"/>',
        _text("threshold", line, TOP - 8, "middle"),
        _text(f"good: {(good > 1).sum()} of {len(good)} rejected", right, TOP + 12, "end"),
        _text(
            f"defective: {(bad <= 1).sum()} of {len(bad)} pass", right, HEIGHT - BELOW - 6, "end"
        ),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}"><style>{_STYLE}</style>{"".join(drawn)}</svg>'
    )


def _bars(kind: str, edges: Scores, tall: Scores, scale: Scale, *, up: bool) -> Iterator[str]:
    for left, right, height in zip(edges, edges[1:], tall, strict=False):
        if height > 0:
            x, end = _across(float(left), scale), _across(float(right), scale)
            top = MIDDLE - height if up else MIDDLE
            yield (
                f'<rect class="{kind}" x="{x}" y="{top:.1f}" width="{end - x - 1:.1f}" '
                f'height="{height:.1f}"/>'
            )


def _axis(scale: Scale) -> Iterator[str]:
    bottom = HEIGHT - BELOW
    for tick in scale.ticks:
        x = _across(tick, scale)
        yield f'<line class="grid" x1="{x}" x2="{x}" y1="{TOP}" y2="{bottom}"/>'
        yield _text(f"{tick:g}", x, bottom + 16, "middle")
    yield _text("score, in thresholds", (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, "middle")


def _across(value: float, scale: Scale) -> float:
    return round(LEFT + scale(value) / 100 * (WIDTH - LEFT - RIGHT), 1)


def _text(words: str, x: float, y: float, anchor: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{words}</text>'
