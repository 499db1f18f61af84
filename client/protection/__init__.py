"""What happens between "trained" and "sent": steps over an update, in a fixed order."""

from typing import Protocol

from client.protection.validate import Validate
from common.config import FederationConfig
from common.update import Update


class Step(Protocol):
    """One step; takes an update and returns the one that goes on."""

    def apply(self, update: Update) -> Update: ...


def steps(config: FederationConfig) -> tuple[Step, ...]:
    """Return the steps that a federation's settings ask for, in order."""
    return (Validate(max_norm=config.server.max_update_norm),)


def protect(update: Update, config: FederationConfig) -> Update:
    """Apply every step."""
    for step in steps(config):
        update = step.apply(update)
    return update
