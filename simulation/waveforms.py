"""Windows of sensor series as small pictures: what a mistaken window looked like."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from simulation.scene import Scene, surest_mistakes, svg_uri

#: Side of a picture, and the room at its edges, pixels.
SIDE, EDGE = 120, 8
#: Stretches of a window of which the lowest and the highest sample are drawn.
STRETCHES = 56

_STYLE = (
    "polyline{fill:none;stroke-width:1;stroke-linejoin:round}"
    ".c0{stroke:#0b63ce}.c1{stroke:#c2570c}.c2{stroke:#15803d}.c3{stroke:#9333ea}"
    "@media(prefers-color-scheme:dark){.c0{stroke:#6db0ff}.c1{stroke:#fb923c}.c2{stroke:#4ade80}"
    ".c3{stroke:#c084fc}}"
)


def waveforms(scene: Scene) -> Mapping[str, str]:
    """Return the windows of every model's surest mistakes, data URIs by name."""
    data = scene.plant.data(scene.config)
    test = data.test.tolist()
    places = {
        place: said.names[place]
        for said in scene.predictions.values()
        for place in surest_mistakes(said)
    }
    return {
        name: svg_uri(waveform(data.inputs[test[place]].cpu().numpy()))
        for place, name in places.items()
    }


def waveform(window: npt.NDArray[np.float32]) -> str:
    """Draw a window, its channels one below the other, each as high as it goes.

    Parameters
    ----------
    window : shape (channels, samples).
    """
    height = (SIDE - 2 * EDGE) / len(window)
    drawn = []
    for place, channel in enumerate(window):
        points = outline(channel)
        low, high = float(channel.min()), float(channel.max())
        up = (points[:, 1] - low) / (high - low) if high > low else np.full(len(points), 0.5)
        left = EDGE + points[:, 0] / max(1, len(channel) - 1) * (SIDE - 2 * EDGE)
        top = EDGE + height * (place + 0.95 - 0.9 * up)
        places = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(left, top, strict=True))
        drawn.append(f'<polyline class="c{place % 4}" points="{places}"/>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIDE} {SIDE}" width="{SIDE}" '
        f'height="{SIDE}"><style>{_STYLE}</style>{"".join(drawn)}</svg>'
    )


def outline(channel: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return (sample, value) of the lowest and highest of each stretch: no peak is lost.

    Returns
    -------
    shape (points, 2), in the order of time.
    """
    if len(channel) <= 2 * STRETCHES:
        return np.column_stack([np.arange(len(channel)), channel]).astype(np.float64)
    ends = np.linspace(0, len(channel), STRETCHES + 1).astype(int)
    places = [
        begin + extreme
        for begin, end in itertools.pairwise(ends)
        for extreme in sorted({int(channel[begin:end].argmin()), int(channel[begin:end].argmax())})
    ]
    return np.column_stack([places, channel[places]]).astype(np.float64)
