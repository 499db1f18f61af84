"""Pictures of numbers that series end in: predicted against true, life curves, forecasts."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from client.tasks.metrics import Prediction
from simulation.plots import Points, lines
from simulation.scatter import scatter
from simulation.scene import Picture, Scene, svg_uri

#: A picture shows at most so many lines.
MOST_LINES = 4

_END = re.compile(r"^(?P<unit>.*) @ (?P<end>-?\d+)$")

Line = tuple[str, Points, Points]


def series_pictures(scene: Scene) -> list[Picture]:
    """Draw the deployed model's predictions."""
    said = scene.predictions["deployed"]
    series = scene.config.series
    drawn = [against_true(said, what=series.target)]
    if series.horizon > 1:
        return [*drawn, forecast(said, what=series.target)]
    lives, whose = curves(said), "test"
    if not lives:
        data = scene.plant.data(scene.config)
        validated = scene.plant.test(scene.version, config=scene.config, indices=data.validation)
        lives, whose = curves(validated), "validation"
    if lives:
        drawn.append(life_curves(lives, what=series.target, whose=whose))
    return drawn


def against_true(said: Prediction, *, what: str) -> Picture:
    """Draw a dot for each prediction; of a forecast, of its last value."""
    ahead = said.truth.shape[1]
    return Picture(
        title=f"{what}: predicted against true",
        note="Each dot is a test window"
        + (f", {ahead} values ahead" if ahead > 1 else "")
        + "; on the dashed line it is right.",
        picture=svg_uri(scatter(said.truth[:, -1], said.predicted[:, -1])),
    )


def curves(said: Prediction) -> list[Line]:
    """Return each unit with its true and predicted values over time, where it was asked often."""
    ends: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for place, name in enumerate(said.names):
        if found := _END.match(name):
            ends[found["unit"]].append((int(found["end"]), place))
    found_lines: list[Line] = []
    for unit, places in ends.items():
        if len(places) >= 4:
            places.sort()
            found_lines.append(
                (
                    unit,
                    [(float(end), float(said.truth[place, 0])) for end, place in places],
                    [(float(end), float(said.predicted[place, 0])) for end, place in places],
                )
            )
    return found_lines


def life_curves(found: Sequence[Line], *, what: str, whose: str) -> Picture:
    """Draw a few units, evenly chosen by the length of their records."""
    order = sorted(found, key=lambda line: (len(line[1]), line[0]))
    chosen = [order[i] for i in _spread(len(order), MOST_LINES)]
    return Picture(
        title="Over the life of a unit" if len(chosen) > 1 else "Over time",
        note=f"Dashed in the same colour: true. {len(chosen)} of {len(found)} {whose} units.",
        picture=svg_uri(
            lines(
                [line[1] for line in chosen],
                [line[2] for line in chosen],
                x="samples since the record began",
                y=what,
            )
        ),
    )


def forecast(said: Prediction, *, what: str) -> Picture:
    """Draw forecasts that follow upon each other without overlap, the latest ones."""
    horizon = said.truth.shape[1]
    at = {}
    for place, name in enumerate(said.names):
        if found := _END.match(name):
            at[int(found["end"])] = place
    chosen: list[int] = []
    for end in sorted(at, reverse=True):
        if not chosen or chosen[-1] - end >= horizon:
            chosen.append(end)
        if len(chosen) * horizon >= 2 * 96 or len(chosen) >= 40:
            break
    chosen.reverse()

    def line(values: np.ndarray, end: int) -> Points:
        return [(float(end + ahead), float(value)) for ahead, value in enumerate(values)]

    return Picture(
        title="The last forecasts",
        note=f"Each forecast is {horizon} values long; dashed in the same colour is what came.",
        picture=svg_uri(
            lines(
                [line(said.truth[at[end]], end) for end in chosen],
                [line(said.predicted[at[end]], end) for end in chosen],
                x="samples since the record began",
                y=what,
            )
        ),
    )


def _spread(count: int, most: int) -> list[int]:
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, most))})
