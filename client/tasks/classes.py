"""What all tasks that tell classes apart have in common: loss, decoding, scores, comparison.

A task of classes inherits from `Classes` and adds how its data is read and prepared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from client.tasks import pooling
from client.tasks.data import PlantData
from client.tasks.metrics import Prediction, scores
from common.tasks import BALANCED_ACCURACY, Measure

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Classes:
    """The half of a `client.tasks.Task` that classes bring.

    Attributes
    ----------
    label_smoothing : share of the target spread over all classes.
    false_reject_budget : share of good parts that may be rejected; for the escape rate.
    """

    label_smoothing: float = 0.1
    false_reject_budget: float = 0.05

    @property
    def measure(self) -> Measure:
        return BALANCED_ACCURACY

    def head_transform(self) -> Callable[[Tensor, torch.Generator], Tensor] | None:
        return None

    def views(self) -> Callable[[Tensor, torch.Generator], Tensor] | None:
        return None

    def weights(self, data: PlantData, indices: Tensor) -> Tensor | None:
        return data.class_weights(indices)

    def loss(
        self, outputs: Tensor, targets: Tensor, *, weights: Tensor | None, data: PlantData
    ) -> Tensor:
        return F.cross_entropy(outputs, targets, weights, label_smoothing=self.label_smoothing)

    def decode(self, outputs: Tensor, *, data: PlantData) -> Tensor:
        return outputs.softmax(1)

    def quick_scores(
        self, predicted: Tensor, targets: Tensor, *, data: PlantData
    ) -> dict[str, float]:
        return quick_scores(predicted, targets)

    def slack(self, examples: int) -> float:
        """Return one example, in points of balanced accuracy of classes that are alike."""
        return 1.0 / examples + 1e-9

    def worth(self, predicted: Array, targets: Array, *, data: PlantData) -> Array:
        """Return the probability that each example's truth is given.

        Its mean over classes is balanced accuracy with the steps smoothed out, which tells more
        from twenty examples than counting hits.
        """
        return predicted[np.arange(len(targets)), targets].astype(np.float64)

    def strata(self, targets: Array) -> Array:
        return targets

    def gained(self, gain: str) -> str:
        return f"gives the truth {gain} more probability"

    def doubt(self) -> str:
        return ""

    def scores(self, prediction: Prediction, *, data: PlantData) -> dict[str, Any]:
        return scores(
            prediction.predicted,
            prediction.truth,
            classes=data.classes,
            good=data.good,
            false_reject_budget=self.false_reject_budget,
        )

    def pool(self, plants: Sequence[PlantData]) -> PlantData:
        return pooling.pool(plants)

    def restrict(self, predicted: Tensor, *, pooled: PlantData, plant: PlantData) -> Tensor:
        """Leave out the classes that a plant does not have."""
        columns = torch.tensor([pooled.classes.index(name) for name in plant.classes])
        chosen = predicted[:, columns]
        return chosen / chosen.sum(1, keepdim=True).clamp_min(1e-12)


def quick_scores(probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """Balanced accuracy and mean negative log likelihood; cheap enough for every epoch."""
    right = (probabilities.argmax(1) == labels).double()
    recalls = [right[labels == label].mean() for label in torch.unique(labels)]
    true = probabilities.gather(1, labels[:, None]).clamp_min(1e-12).log()
    return {
        "balanced_accuracy": float(torch.stack(recalls).mean()),
        "loss": float(-true.double().mean()),
    }
