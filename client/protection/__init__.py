"""What happens between "trained" and "sent": steps over an update in a fixed order, then its form.

A step takes an update and returns the one that goes on. The form (`common.forms`) comes last and
makes bytes of it. What the bytes do not say is kept at the plant and added to the next update,
before the first step, so that every step sees all that could be sent.
"""

from typing import Protocol

from client.protection.blur import Blur
from client.protection.clip import Clip
from client.protection.leftover import Sent, recall, shape
from client.protection.validate import Validate
from common.config import FederationConfig
from common.config.privacy import honest
from common.forms import Turn
from common.update import Update, Vector


class Step(Protocol):
    """One step; takes an update and returns the one that goes on."""

    def apply(self, update: Update) -> Update: ...


def steps(config: FederationConfig) -> tuple[Step, ...]:
    """Return the steps that a federation's settings ask for, in order."""
    server = config.server
    found: list[Step] = []
    if config.privacy.unit == "plant":
        found += [Clip(max_norm=config.privacy.clip), _blur(config)]
    found.append(Validate(max_norm=server.max_update_norm))
    if server.rule == "norm_bound" and server.radius is not None:
        found.append(Clip(max_norm=server.radius))
    return tuple(found)


def _blur(config: FederationConfig) -> Blur:
    """Size the noise: the whole at each plant, or a part of what the sum carries.

    The part goes by the fewest plants that a sum may have: of an order's cohort some may be gone
    when the sum is held. The desk takes part in none of fewer (`client.desk.sums`).
    """
    privacy, sums = config.privacy, config.secure_aggregation
    multiplier, length = privacy.noise_multiplier, privacy.clip
    if not sums.enabled:
        return Blur(multiplier=multiplier, length=length)
    share = honest(config.min_plants)
    return Blur(multiplier=multiplier, length=length, honest=share, step=sums.step)


def protect(
    update: Update,
    config: FederationConfig,
    *,
    turn: Turn,
    left: Vector | None = None,
) -> Sent:
    """Add what was left over, apply every step, and bring what comes out of them into its form.

    Parameters
    ----------
    turn : of the order.
    left : what the update before did not say, float32 of the update's shape; None for nothing.

    Raises
    ------
    TrainingError
        If the centre would have to refuse it; nothing is sent.
    """
    whole = recall(update, config, left=left)
    update = whole
    for step in steps(config):
        update = step.apply(update)
    return shape(update, config, turn=turn, whole=whole)


__all__ = ["Sent", "Step", "protect", "steps"]
