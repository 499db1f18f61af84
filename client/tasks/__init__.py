"""Kinds of data that a plant can learn from, one file each; `TASKS` has them by name.

A task reads and splits a plant's folder, says how a batch is prepared, and scores predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from client.tasks.images import ImageData, ImageTask
from client.tasks.metrics import Prediction

__all__ = ["TASKS", "Task"]


class Task(Protocol):
    """What a plant needs from a kind of data; images are the only kind so far."""

    def load(
        self,
        folder: Path,
        *,
        cache: Path | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> ImageData:
        """Read and split a plant's folder; DataError if it is not fit for use."""
        ...

    def training_transform(self) -> Callable[[Tensor, torch.Generator], Tensor]:
        """Return what turns a raw batch into the network's input, with augmentation."""
        ...

    def evaluation_transform(self) -> Callable[[Tensor], Tensor]:
        """Return what turns a raw batch into the network's input."""
        ...

    def scores(self, prediction: Prediction, *, data: ImageData) -> dict[str, Any]:
        """Return all scores of a prediction, ready for JSON."""
        ...

    def schema(self, data: ImageData) -> Mapping[str, Any]:
        """Say what the data is without saying what is in it; this may leave the plant."""
        ...


TASKS: dict[str, type[ImageTask]] = {"image-classification": ImageTask}
