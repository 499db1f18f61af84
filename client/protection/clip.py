"""No update is longer than was agreed: what a plant can still promise when nobody sees its update.

It holds honest plants with odd data, and no liar: one that skips this step is found by the centre
where that sees the update, and not under secure aggregation (docs/robust.md).
"""

from dataclasses import dataclass, replace

import numpy as np

from common.update import Update


@dataclass(frozen=True, kw_only=True)
class Clip:
    """Shorten an update to a length; its direction stays."""

    max_norm: float

    def apply(self, update: Update) -> Update:
        """Return the update, or a shorter one."""
        # Rounding to float32 must not make it longer again.
        norm = float(np.linalg.norm(update.vector.astype(np.float64))) * (1 + 1e-6)
        if norm <= self.max_norm or not np.isfinite(norm):
            return update
        return replace(update, vector=update.vector * np.float32(self.max_norm / norm))
