"""What of a plant's recordings is used, and how: federation.toml and plant.toml, put together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Normalisation = Literal["plant", "window", "none"]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """How a folder of recordings becomes windows.

    Attributes
    ----------
    channels : names that the federation uses, in the order of the network's input.
    names : name of a channel or a condition in this plant's files, where it is another.
    rate : samples a second that the network sees; 0: as recorded.
    recorded : samples a second of this plant's files, where they do not say it; 0: unknown.
    per_revolution : samples a revolution; 0: no order domain.
    rpm : speed of this plant's shaft, where the files do not say it; 0: unknown.
    speed : channel with the speed of the shaft in revolutions a minute, or "".
    window, stride : samples in a window, and between two of them.
    typical : what the federation says of a channel's size.
    gap : longest run of missing samples that is filled.
    normalise : by the plant's training data, each window by itself, or not at all.
    settings : channels that tell operating conditions apart, and are no input.
    conditions : how many there are.
    unit : column that tells units (engines, tools) apart, or "".
    classes : class names, in the order of the head; empty: all, sorted. Of a task of classes.
    good : the class of good parts, or "".
    label : column with the class, where files are not in a folder a class.
    target : column that is learned. Of a task of numbers.
    horizon : 0: the target at the window's end; n: its next n values.
    cap : targets above it count as it; None: none.
    judge_end : of files ``test*``, judge the last window of each unit only.
    short : what is done with a unit that is shorter than a window.
    labels_per_class, test_per_class, seed : as for images.
    """

    channels: tuple[str, ...]
    names: Mapping[str, str] = field(default_factory=dict)
    rate: float = 0.0
    recorded: float = 0.0
    per_revolution: int = 0
    rpm: float = 0.0
    speed: str = ""
    window: int = 1024
    stride: int = 1024
    typical: tuple[tuple[str, float], ...] = ()
    gap: int = 8
    normalise: Normalisation = "plant"
    settings: tuple[str, ...] = ()
    conditions: int = 1
    unit: str = ""
    classes: tuple[str, ...] = ()
    good: str = ""
    label: str = "label"
    target: str = ""
    horizon: int = 0
    cap: float | None = None
    judge_end: bool = False
    short: Literal["leave", "repeat"] = "leave"
    labels_per_class: int | None = None
    test_per_class: int | None = None
    seed: int = 0

    def own(self, name: str) -> str:
        """Return the name of a channel in this plant's files."""
        return self.names.get(name, name)
