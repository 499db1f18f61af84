"""The report's charts: small inline SVG that stretches with the page and follows its theme.

Horizontal places are per cent of the chart's width, heights and text are pixels, so that a chart
stays readable on a phone. Colours are CSS classes of ``templates/style.css``. Each chart carries
its figures as text in ``aria-label``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from markupsafe import Markup

from simulation import notation
from simulation.notation import Notation, per_cent
from simulation.results import Interval

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Maps figures to per cent of a length; the ends are round figures."""

    low: float
    high: float
    step: float

    def __call__(self, value: float) -> float:
        """Return the place of a value, 0 to 100; values outside go to the nearer end."""
        share = (value - self.low) / (self.high - self.low)
        return round(100 * min(1.0, max(0.0, share)), 2)

    @property
    def ticks(self) -> tuple[float, ...]:
        """The round figures from one end to the other."""
        count = round((self.high - self.low) / self.step)
        return tuple(round(self.low + index * self.step, 10) for index in range(count + 1))

    @classmethod
    def around(cls, values: Sequence[float], *, steps: int = 4) -> Scale:
        """Return the tightest scale of about ``steps`` round steps that holds all values."""
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        width = max(high - low, 0.02)
        rough = width / steps
        unit = 10.0 ** math.floor(math.log10(rough))
        step = unit * next(factor for factor in (1, 2, 5, 10) if factor * unit >= rough * 0.999)
        bottom = math.floor(round(low / step, 6)) * step
        top = math.ceil(round(high / step, 6)) * step
        return cls(low=bottom, high=top if top > bottom else bottom + step, step=step)


SHARES = Scale(low=0.0, high=1.0, step=0.25)


def bar(
    interval: Interval,
    *,
    label: str,
    kind: str = "",
    scale: Scale = SHARES,
    told: Notation = notation.SHARES,
) -> Markup:
    """Draw a bar from zero with its interval as a whisker; of shares from 0 to 100 %."""
    svg = _svg(
        14,
        f"{label}: {told.score(interval.value)}{told.unit}, 95 % interval "
        f"{told.score(interval.low)} to {told.score(interval.high)}{told.unit}",
        kind=f"bar {kind}",
    )
    _add(svg, "rect", kind="track", x="0", y="2", width="100%", height="10")
    zero, end = sorted((scale(0.0), scale(interval.value)))
    start = f"{zero}%" if zero else "0"
    width = f"{round(end - zero, 2)}%"
    _add(svg, "rect", kind="fill", x=start, y="2", width=width, height="10")
    _whisker(svg, interval, scale, middle=7)
    return _markup(svg)


def share(value: float, *, label: str) -> Markup:
    """Draw a share of 1 as a bar, without an interval."""
    svg = _svg(12, f"{label}: {per_cent(value)} %", kind="bar strong")
    _add(svg, "rect", kind="track", x="0", y="2", width="100%", height="8")
    _add(svg, "rect", kind="fill", x="0", y="2", width=f"{SHARES(value)}%", height="8")
    return _markup(svg)


def forest(
    interval: Interval, *, scale: Scale, label: str, told: Notation = notation.SHARES
) -> Markup:
    """Draw a difference as a dot with its interval beside a line at zero."""
    svg = _svg(
        18,
        f"{label}: {told.change(interval.value)}{told.points}, 95 % interval "
        f"{told.change(interval.low)} to {told.change(interval.high)}",
        kind="forest",
    )
    _line(svg, x=scale(0.0), top=0, bottom=18, kind="zero")
    _whisker(svg, interval, scale, middle=9)
    kind = "dot bad" if interval.high < 0 else "dot"
    _add(svg, "circle", kind=kind, cx=f"{scale(interval.value)}%", cy="9", r="4")
    return _markup(svg)


def axis(scale: Scale, *, told: Notation = notation.SHARES) -> Markup:
    """Draw the ends and the zero of a scale of differences, as the head of `forest` charts."""
    words = f"Axis from {told.change(scale.low)} to {told.change(scale.high)}{told.points}"
    svg = _svg(16, words, kind="axis")
    for value in sorted({scale.low, 0.0, scale.high}):
        place = scale(value)
        _line(svg, x=place, top=12, bottom=16, kind="grid")
        crowded = value != 0 and abs(place - scale(0.0)) < 12
        if not crowded:
            _text(svg, told.change(value).removesuffix(".0"), x=f"{place}%", y="9", anchor="middle")
    return _markup(svg)


def curves(
    lines: Mapping[str, Points],
    *,
    scale: Scale,
    last: int,
    label: str,
    height: int = 130,
    told: Notation = notation.SHARES,
) -> Markup:
    """Draw scores by round.

    Parameters
    ----------
    lines
        CSS class of each line to its (round, score) points.
    scale
        Of the scores.
    last
        Number of the last round on the axis; the first is 1.
    """
    svg = _svg(height + 18, _spoken(label, lines, told), kind="curves")
    for tick in scale.ticks:
        level = round(height * (1 - scale(tick) / 100), 1)
        _add(svg, "line", kind="grid", x1="0", x2="100%", y1=str(level), y2=str(level))
        _text(svg, _tick(tick, scale, told), x="-6", y=str(level + 4), anchor="end")
    rounds = Scale(low=1, high=max(last, 2), step=1)
    _text(svg, "round 1", x="0", y=str(height + 15), anchor="start")
    if last > 1:
        _text(svg, str(last), x="100%", y=str(height + 15), anchor="end")
    inner = _add(svg, "svg", kind="", viewBox="0 0 100 100", preserveAspectRatio="none")
    inner.attrib.update(x="0", y="0", width="100%", height=str(height))
    inner.set("class", "lines")
    for kind, line in lines.items():
        path = " ".join(f"{rounds(x)},{round(100 - scale(y), 2)}" for x, y in line)
        _add(inner, "polyline", kind=kind, points=path)
    for kind, line in lines.items():
        if "faint" in kind:
            continue
        for x, y in line:
            level = round(height * (1 - scale(y) / 100), 1)
            _add(svg, "circle", kind=kind, cx=f"{rounds(x)}%", cy=str(level), r="2.5")
    return _markup(svg)


def _tick(value: float, scale: Scale, told: Notation) -> str:
    """Write a figure beside the axis as shortly as its steps allow."""
    if told.share:
        return f"{100 * value:.{0 if scale.step >= 0.01 else 1}f}"
    return f"{value:.{max(0, math.ceil(-math.log10(scale.step) - 1e-9))}f}"


def _spoken(label: str, lines: Mapping[str, Points], told: Notation) -> str:
    ends = [
        f"{kind.split()[-1]} from {told.score(line[0][1])} to {told.score(line[-1][1])}{told.unit}"
        for kind, line in lines.items()
        if line and "faint" not in kind
    ]
    return f"{label}: {', '.join(ends)}"


def _whisker(svg: ET.Element, interval: Interval, scale: Scale, *, middle: int) -> None:
    low, high = scale(interval.low), scale(interval.high)
    level = str(middle)
    _add(svg, "line", kind="whisker", x1=f"{low}%", x2=f"{high}%", y1=level, y2=level)
    for end in (low, high):
        _line(svg, x=end, top=middle - 3, bottom=middle + 3, kind="whisker")


def _line(svg: ET.Element, *, x: float, top: int, bottom: int, kind: str) -> None:
    _add(svg, "line", kind=kind, x1=f"{x}%", x2=f"{x}%", y1=str(top), y2=str(bottom))


def _text(svg: ET.Element, text: str, *, x: str, y: str, anchor: str) -> None:
    element = _add(svg, "text", kind="tick", x=x, y=y)
    element.set("text-anchor", anchor)
    element.text = text


def _svg(height: int, spoken: str, *, kind: str) -> ET.Element:
    places = {"class": kind.strip(), "width": "100%", "height": str(height), "role": "img"}
    return ET.Element("svg", {**places, "aria-label": spoken})


def _add(parent: ET.Element, tag: str, *, kind: str, **places: str) -> ET.Element:
    return ET.SubElement(parent, tag, {"class": kind, **places})


def _markup(svg: ET.Element) -> Markup:
    # ElementTree escapes every text and attribute.
    return Markup(ET.tostring(svg, encoding="unicode"))
