"""Made-up plants by kind of data, for ``transferline-sim demo --task`` and the tests.

A kind is one file here that writes plants' folders, and a line in `DEMOS` with the settings that
fit them. Nothing is downloaded: networks start from random weights, so they are small.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulation.made_up.anomaly import ANOMALY, write_anomaly
from simulation.made_up.engines import LIVES, write_engines
from simulation.made_up.images import IMAGES, write_images
from simulation.made_up.machines import FAULTS, write_machines
from simulation.made_up.tables import TABULAR, write_tables
from simulation.made_up.text import TEXT, write_text


@dataclass(frozen=True, kw_only=True)
class Demo:
    """One kind of made-up plants.

    Attributes
    ----------
    settings : of federation.toml.
    write : writes the plants' folders into a new folder.
    """

    settings: dict[str, Any]
    write: Callable[[Path], object]


#: By the word after ``--task``.
DEMOS: dict[str, Demo] = {
    "images": Demo(settings=IMAGES, write=write_images),
    "tabular": Demo(settings=TABULAR, write=write_tables),
    "text": Demo(settings=TEXT, write=write_text),
    "series": Demo(settings=FAULTS, write=write_machines),
    "rul": Demo(settings=LIVES, write=write_engines),
    "anomaly": Demo(settings=ANOMALY, write=write_anomaly),
}
