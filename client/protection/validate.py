"""Nothing leaves the plant that the centre would have to refuse."""

from dataclasses import dataclass

import numpy as np

from common.errors import TrainingError
from common.update import Update


@dataclass(frozen=True, kw_only=True)
class Validate:
    """Refuse values that are not finite, and an update that is longer than the centre takes."""

    max_norm: float

    def apply(self, update: Update) -> Update:
        """Return the update as it is.

        Raises
        ------
        TrainingError
            If a value is not finite or the Euclidean norm is above ``max_norm``.
        """
        if not np.isfinite(update.vector).all():
            raise TrainingError("update must be finite, got NaN or infinity; nothing was sent")
        norm = float(np.linalg.norm(update.vector.astype(np.float64)))
        if norm > self.max_norm:
            raise TrainingError(
                f"update norm must be at most {self.max_norm:g}, got {norm:.3g}; lower "
                "training.learning_rate or raise server.max_update_norm"
            )
        return update
