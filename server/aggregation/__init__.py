"""From many updates to one step: pure functions on arrays, apart from messages and files.

`Mean` combines the replies of a round; an optimiser turns the mean into the step that leads to
the next release.
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

#: ``server.optimiser`` of federation.toml.
OPTIMISERS: dict[str, Optimiser] = {
    "mean": plain,
    "fedavgm": fedavgm,
    "fedadagrad": fedadagrad,
    "fedadam": fedadam,
    "fedyogi": fedyogi,
}

__all__ = ["OPTIMISERS", "Mean", "Optimiser", "State"]
