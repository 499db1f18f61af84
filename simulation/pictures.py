"""Pictures that fit a task, for the report: predicted against true, life curves, heat maps.

Drawn at the plant right after its test examples were judged, where data and models are at hand. A
task with pictures of its own is a line in `PICTURES`; others get those of what they learn.
Confusion matrices and the most confident mistakes are in every report of classes already.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from common.tasks import TaskName, learns
from simulation.heat_maps import anomaly_pictures
from simulation.scatter import predicted_against_true
from simulation.scene import Draw, Picture, Scene, svg_uri
from simulation.series_pictures import series_pictures
from simulation.waveforms import waveforms

__all__ = ["PICTURES", "VIEWS", "Draw", "Picture", "Scene", "pictures_of", "svg_uri", "views_of"]

#: By task, or by what is learned: "classes" or "numbers".
PICTURES: dict[TaskName | str, Draw] = {
    "numbers": predicted_against_true,
    "series-regression": series_pictures,
    "image-anomaly": anomaly_pictures,
}


def pictures_of(scene: Scene) -> tuple[Picture, ...]:
    """Draw the pictures of a plant's deployed model."""
    config = scene.config
    draw = PICTURES.get(config.task) or PICTURES.get(learns(config))
    return tuple(draw(scene)) if draw else ()


#: By task: draws examples that are no files which one could show, by their names.
VIEWS: dict[TaskName, Callable[[Scene], Mapping[str, str]]] = {"series-classification": waveforms}


def views_of(scene: Scene) -> Mapping[str, str]:
    """Draw the mistakes of a plant's models, as data URIs by name."""
    draw = VIEWS.get(scene.config.task)
    return draw(scene) if draw else {}
