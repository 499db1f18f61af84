"""What happens between "trained" and "sent": steps over an update in a fixed order, then its form.

A step takes an update and returns the one that goes on. The form (`common.forms`) comes last and
makes bytes of it; what it leaves out is kept and added to the next update.
"""

from typing import Protocol

from client.protection.shape import Sent, shape
from client.protection.validate import Validate
from common.config import FederationConfig
from common.forms import Turn
from common.update import Update, Vector


class Step(Protocol):
    """One step; takes an update and returns the one that goes on."""

    def apply(self, update: Update) -> Update: ...


def steps(config: FederationConfig) -> tuple[Step, ...]:
    """Return the steps that a federation's settings ask for, in order."""
    return (Validate(max_norm=config.server.max_update_norm),)


def protect(
    update: Update, config: FederationConfig, *, turn: Turn, left: Vector | None = None
) -> Sent:
    """Apply every step, and bring what comes out of them into its form.

    Parameters
    ----------
    turn : of the order.
    left : what the update before did not say, float32 of the update's shape; None for nothing.

    Raises
    ------
    TrainingError
        If the centre would have to refuse it; nothing is sent.
    """
    for step in steps(config):
        update = step.apply(update)
    return shape(update, config, turn=turn, left=left)


__all__ = ["Sent", "Step", "protect", "steps"]
