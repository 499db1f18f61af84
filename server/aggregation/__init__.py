"""From many updates to one step: pure functions on arrays, apart from messages and files.

A rule combines the replies of a round; an optimiser turns what comes out into the step that leads
to the next release.
"""

from server.aggregation.mean import Mean
from server.aggregation.optimisers import (
    Optimiser,
    State,
    fedadagrad,
    fedadam,
    fedavgm,
    fedyogi,
    plain,
)
from server.aggregation.rules import Rule, rule_for

#: ``server.optimiser`` of federation.toml.
OPTIMISERS: dict[str, Optimiser] = {
    "mean": plain,
    "fedavgm": fedavgm,
    "fedadagrad": fedadagrad,
    "fedadam": fedadam,
    "fedyogi": fedyogi,
}

__all__ = ["OPTIMISERS", "Mean", "Optimiser", "Rule", "State", "rule_for"]
