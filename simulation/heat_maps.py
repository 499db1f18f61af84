"""Pictures of a plant that has good parts alone: where it saw what, and how its scores lie.

Every test part is shown to the deployed model once more, because predictions alone no longer say
which patch was strange. Heat maps are those of PatchCore (`common.backbones.memory.heat`).
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from common.backbones.memory import MemoryHead, heat
from simulation.histogram import histogram
from simulation.scene import Picture, Scene, svg_uri

#: Parts of a picture.
MOST = 4
#: Side of a part in a picture, pixels, and the room around.
SIDE, GAP, WORDS = 112, 8, 34
#: Parts that are shown to the network at once.
BATCH = 64
#: Red, where the heat is; and the most of it that covers the image.
RED, COVER = np.array([225.0, 20.0, 10.0]), 0.75

_STYLE = (
    "text{font:11px system-ui,sans-serif;fill:#444}"
    "@media(prefers-color-scheme:dark){text{fill:#ccc}}"
)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Test parts as the deployed model saw them.

    Attributes
    ----------
    images : uint8, shape (n, 3, S, S).
    heats : distances of what is seen there from the memory, in thresholds, shape (n, S, S).
    scores : in thresholds, float64, shape (n,): above 1 a part is rejected.
    bad : whether it is defective, shape (n,).
    """

    images: Tensor
    heats: Tensor
    scores: npt.NDArray[np.float64]
    bad: npt.NDArray[np.bool_]


def anomaly_pictures(scene: Scene) -> list[Picture]:
    """Draw the scores, the most suspect parts and the defective ones that pass."""
    parts = seen(scene)
    drawn = [
        Picture(
            title="Scores of the test parts",
            note="Good parts upwards, defective ones downwards, as shares of each; what is right "
            "of the dashed line is rejected.",
            picture=svg_uri(histogram(parts.scores[~parts.bad], parts.scores[parts.bad])),
        ),
        Picture(
            title="The most suspect test parts",
            note="Under each part where it is unlike all good ones that the plant remembers: red "
            "is its strangest place, pale if that is below the threshold. The figure is the score, "
            "in thresholds.",
            picture=svg_uri(sheet(parts, np.argsort(-parts.scores)[:MOST])),
        ),
    ]
    order = np.argsort(parts.scores)
    passed = order[parts.bad[order] & (parts.scores[order] <= 1)]
    if len(passed):
        drawn.append(
            Picture(
                title="Defective test parts that pass",
                note=f"Those with the lowest scores, of {len(passed)} that pass.",
                picture=svg_uri(sheet(parts, passed[:MOST])),
            )
        )
    return drawn


@torch.no_grad()
def seen(scene: Scene) -> Parts:
    """Show the test parts to the deployed model."""
    plant, config = scene.plant, scene.config
    data, network = plant.data(config), plant.model(scene.version, config=config).eval()
    head, prepared = network.head, plant.task(config).evaluation_transform()
    assert isinstance(head, MemoryHead), "good parts have a memory"
    looks = [
        head.memory.look(network.embed(prepared(data.inputs[batch])))
        for batch in torch.split(data.test, BATCH)
    ]
    threshold = float(head.memory.threshold)
    distances = torch.cat([one.distances for one in looks])
    images = data.inputs[data.test].cpu()
    return Parts(
        images=images,
        heats=heat(distances, size=images.shape[-1]).cpu() / threshold,
        scores=torch.cat([one.scores for one in looks]).double().cpu().numpy() / threshold,
        bad=data.targets[data.test].cpu().numpy() == 1,
    )


def sheet(parts: Parts, chosen: Sequence[int] | npt.NDArray[np.intp]) -> str:
    """Return an SVG of parts side by side, each above itself with its heat."""
    drawn = []
    for column, part in enumerate(chosen):
        image = parts.images[part].permute(1, 2, 0).numpy().astype(float)
        heats = parts.heats[part].numpy()[..., None]
        warm = (heats / max(1.0, float(heats.max()))) ** 2 * COVER
        left = column * (SIDE + GAP)
        for row, pixels in enumerate((image, image * (1 - warm) + RED * warm)):
            drawn.append(
                f'<image x="{left}" y="{row * (SIDE + GAP)}" width="{SIDE}" height="{SIDE}" '
                f'href="{_jpeg(pixels)}"/>'
            )
        what = "defective" if parts.bad[part] else "good"
        said = "rejected" if parts.scores[part] > 1 else "passes"
        foot = 2 * (SIDE + GAP)
        drawn.append(f'<text x="{left}" y="{foot + 6}">{what}, {said}</text>')
        drawn.append(f'<text x="{left}" y="{foot + 21}">{parts.scores[part]:.2f}</text>')
    width, height = len(chosen) * (SIDE + GAP) - GAP, 2 * (SIDE + GAP) + WORDS
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}"><style>{_STYLE}</style>{"".join(drawn)}</svg>'
    )


def _jpeg(pixels: npt.NDArray[np.float64]) -> str:
    """Return an image at twice the size that it is shown in, as a data URI."""
    image = Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))
    file = io.BytesIO()
    image.resize((2 * SIDE, 2 * SIDE), Image.Resampling.BICUBIC).save(file, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
