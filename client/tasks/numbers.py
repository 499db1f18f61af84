"""What all tasks that say numbers have in common: loss, decoding, scores, comparison.

The network learns targets normalised by the plant's own training examples; predictions and scores
are in the plant's units. A task of numbers inherits from `Numbers` and adds how its data is read
and prepared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from client.tasks import pooling
from client.tasks.data import PlantData
from client.tasks.errors import number_scores
from client.tasks.metrics import Prediction
from common.tasks import R2, Measure

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """The half of a `client.tasks.Task` that numbers bring.

    Attributes
    ----------
    measure : the primary score.
    """

    measure: Measure = field(default=R2)

    def head_transform(self) -> Callable[[Tensor, torch.Generator], Tensor] | None:
        return None

    def views(self) -> Callable[[Tensor, torch.Generator], Tensor] | None:
        return None

    def weights(self, data: PlantData, indices: Tensor) -> Tensor | None:
        return None

    def loss(
        self, outputs: Tensor, targets: Tensor, *, weights: Tensor | None, data: PlantData
    ) -> Tensor:
        """Return the mean squared error in units of the targets' variance."""
        centre, spread = scale(data)
        return F.mse_loss(outputs, (targets - centre) / spread)

    def decode(self, outputs: Tensor, *, data: PlantData) -> Tensor:
        centre, spread = scale(data)
        return outputs * spread + centre

    def quick_scores(
        self, predicted: Tensor, targets: Tensor, *, data: PlantData
    ) -> dict[str, float]:
        """R², root mean squared error, mean absolute error, and the loss."""
        error = (predicted - targets).double()
        _, spread = scale(data)
        around = (targets - targets.mean(0)).double().square().sum(0)
        left = error.square().sum(0)
        return {
            "r2": float((1 - left / around.clamp_min(1e-12)).mean()),
            "rmse": float(error.square().mean().sqrt()),
            "mae": float(error.abs().mean()),
            "loss": float((error / spread.cpu()).square().mean()),
        }

    def slack(self, examples: int) -> float:
        return 1e-9

    def worth(self, predicted: Array, targets: Array, *, data: PlantData) -> Array:
        """Return minus the squared error in units of the training targets' variance.

        The mean difference of two models is the difference of the variance that they explain.
        """
        _, spread = scale(data)
        error = (predicted.astype(np.float64) - targets) / spread.cpu().numpy()
        return -np.asarray(np.square(error).mean(axis=1))

    def strata(self, targets: Array) -> Array:
        return np.zeros(len(targets), dtype=np.int64)

    def gained(self, gain: str) -> str:
        return f"explains {gain} more of the variance"

    def doubt(self) -> str:
        return ""

    def scores(self, prediction: Prediction, *, data: PlantData) -> dict[str, Any]:
        return number_scores(prediction.predicted, prediction.truth)

    def pool(self, plants: Sequence[PlantData]) -> PlantData:
        return pooling.pool(plants)

    def restrict(self, predicted: Tensor, *, pooled: PlantData, plant: PlantData) -> Tensor:
        return predicted


def scale(data: PlantData) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of the training targets, shape (outputs,)."""
    assert data.centre is not None, "a task of numbers must give the targets' centre and spread"
    assert data.spread is not None, "a task of numbers must give the targets' centre and spread"
    return data.centre, data.spread


def fit_scale(targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return centre and spread of training targets; a constant target has spread 1."""
    spread = targets.double().std(0, unbiased=False)
    spread = torch.where(spread > 0, spread, torch.ones_like(spread))
    return targets.double().mean(0).float(), spread.float()
