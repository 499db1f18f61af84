"""Which gathering a configuration asks for: the one place that looks."""

from __future__ import annotations

import time
from collections.abc import Callable

from common.config import FederationConfig
from common.errors import ConfigError
from server.gathering import Fleet, Gathering, Plain
from server.seals import Papers
from server.summing.gathering import Summing


def gathering_for(
    config: FederationConfig,
    *,
    fleet: Fleet,
    attempts: Callable[[int], int],
    papers: Callable[[], Papers] | None,
    clock: Callable[[], float] = time.monotonic,
) -> Gathering:
    """Return what sums the answers of a run.

    Parameters
    ----------
    attempts, papers : as for `server.summing.gathering.Summing`.

    Raises
    ------
    ConfigError
        If it needs keys and there are none.
    """
    plain = Plain(fleet=fleet, config=config, clock=clock)
    if not config.secure_aggregation.enabled:
        return plain
    if papers is None:
        raise ConfigError(
            "secure_aggregation.enabled needs the keys of a centre, this run has none; use a "
            "centre, or transferline-sim run, which makes them"
        )
    return Summing(fleet=fleet, config=config, papers=papers, attempts=attempts, plain=plain)
