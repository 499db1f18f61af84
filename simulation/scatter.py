"""Predicted against true: the picture of numbers that are learned."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from simulation.notation import plain
from simulation.scene import Picture, Scene, svg_uri

Array = npt.NDArray[Any]

SIDE = 300
EDGE = 44  #: room for the axes' figures
MOST = 600  #: points that are drawn

STYLE = (
    "text{font:11px sans-serif;fill:#555}.p{fill:#2563a8;fill-opacity:.45}"
    ".d{stroke:#999;stroke-dasharray:4 3}.f{stroke:#bbb;fill:none}"
    "@media(prefers-color-scheme:dark){text{fill:#bbb}.p{fill:#7db3ec}.f{stroke:#555}}"
)


def predicted_against_true(scene: Scene) -> list[Picture]:
    """Draw the deployed model's test predictions, one picture for each of up to three numbers."""
    data = scene.plant.data(scene.config)
    found = scene.predictions["deployed"]
    return [
        Picture(
            title=f"{name}: predicted against true",
            note="Each dot is a test example; on the dashed line it is right.",
            picture=svg_uri(scatter(found.truth[:, place], found.predicted[:, place])),
        )
        for place, name in enumerate(data.numbers[:3])
    ]


def scatter(truth: Array, predicted: Array) -> str:
    """Return an SVG of points with a diagonal; both axes have one scale."""
    if len(truth) > MOST:
        chosen = np.linspace(0, len(truth) - 1, MOST).astype(int)
        truth, predicted = truth[chosen], predicted[chosen]
    low = float(min(truth.min(), predicted.min()))
    high = float(max(truth.max(), predicted.max()))
    span = (high - low) or 1.0

    def across(value: float) -> float:
        return round(EDGE + (SIDE - EDGE - 8) * (float(value) - low) / span, 1)

    def up(value: float) -> float:
        return round(SIDE - EDGE - (SIDE - EDGE - 8) * (float(value) - low) / span, 1)

    dots = "".join(
        f'<circle class="p" cx="{across(x)}" cy="{up(y)}" r="2.5"/>'
        for x, y in zip(truth, predicted, strict=True)
    )
    ends = "".join(
        f'<text x="{across(value)}" y="{SIDE - EDGE + 16}" text-anchor="{anchor}">{plain(value)}'
        f'</text><text x="{EDGE - 5}" y="{up(value) + 4}" text-anchor="end">{plain(value)}</text>'
        for value, anchor in ((low, "start"), (high, "end"))
    )
    middle = (SIDE + EDGE) / 2
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIDE} {SIDE}" width="{SIDE}" '
        f'height="{SIDE}"><style>{STYLE}</style>'
        f'<rect class="f" x="{EDGE}" y="8" width="{SIDE - EDGE - 8}" height="{SIDE - EDGE - 8}"/>'
        f'<line class="d" x1="{across(low)}" y1="{up(low)}" x2="{across(high)}" y2="{up(high)}"/>'
        f"{dots}{ends}"
        f'<text x="{middle}" y="{SIDE - 8}" text-anchor="middle">true</text>'
        f'<text x="12" y="{SIDE / 2}" text-anchor="middle" '
        f'transform="rotate(-90 12 {SIDE / 2})">predicted</text></svg>'
    )
