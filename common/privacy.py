"""What was spent: from rounds with noise to the epsilon that they cost together.

A round costs a plant a number of Gaussian mechanisms. With the unit *record* these are the steps of
DP-SGD (Abadi et al. 2016, https://arxiv.org/abs/1607.00133), each on images drawn with a chance of
their own (Poisson sampling, as `client.dpsgd` draws them); with the unit *plant* it is one on the
whole update. Two accountants of Google's dp-accounting add them up: Rényi differential privacy
(https://arxiv.org/abs/1908.10530) and, tighter, privacy loss distributions
(https://arxiv.org/abs/2207.04380). Both give upper bounds.

Neighbours, for whom the bound holds: *record*, the plant's training images with one more or one
less, the split as it was drawn, and the settings of the order known to all; *plant*, the plant's
contribution against none. Not covered: what is no result of training and cannot be hidden by noise,
as the time that a reply takes.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from common.config import FederationConfig
from common.config.privacy import honest
from common.errors import StateError

#: In words, for reports.
UNITS = {
    "record": "one training image",
    "plant": "all that a plant has",
}

#: Rényi orders; whole ones, for which the bound has a closed form.
ORDERS = (*range(2, 65), 80, 96, 128, 192, 256, 512, 1024)

#: Above this epsilon nothing is hidden, and distributions would take gigabytes.
MEANINGLESS = 60.0


@dataclass(frozen=True, kw_only=True, order=True)
class Cost:
    """What one round costs: so many Gaussian mechanisms on samples of the data.

    Attributes
    ----------
    noise_multiplier : standard deviation over the most that the unit can change.
    sample_rate : chance of a record to be in a sample; 1 where nothing is sampled.
    steps : how many.
    """

    noise_multiplier: float
    sample_rate: float = 1.0
    steps: int = 1

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Cost:
        """Read a cost.

        Raises
        ------
        StateError
            If the text is none.
        """
        try:
            fields = json.loads(text)
            cost = cls(
                noise_multiplier=float(fields["noise_multiplier"]),
                sample_rate=float(fields["sample_rate"]),
                steps=int(fields["steps"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise StateError(f"cost of a round must be readable, got {text[:80]!r}") from error
        if not (cost.noise_multiplier > 0 and 0 < cost.sample_rate <= 1 and cost.steps >= 0):
            raise StateError(f"cost of a round must be one, got {text[:80]!r}")
        return cost


@dataclass(frozen=True, kw_only=True)
class Epsilon:
    """The bound, by two accountants; either holds.

    Attributes
    ----------
    rdp, pld : by Rényi differential privacy, and by privacy loss distributions.
    """

    rdp: float
    pld: float

    @property
    def value(self) -> float:
        """The lower of two upper bounds."""
        return min(self.rdp, self.pld)


def cost_of(config: FederationConfig, *, contributions: int = 1) -> Cost | None:
    """Return what a round by these settings costs a plant; None where it adds no noise.

    Parameters
    ----------
    contributions : how often an update may be sent into a secure sum. Sums over other plants can be
        subtracted, so from the second on the plant counts on its own part of the noise alone.
    """
    privacy = config.privacy
    noise = privacy.noise_multiplier
    if privacy.unit == "none":
        return None
    if privacy.unit == "record":
        return Cost(noise_multiplier=noise, sample_rate=privacy.sample_rate, steps=privacy.steps)
    if config.secure_aggregation.enabled and contributions > 1:
        noise /= math.sqrt(honest(config.min_plants))
    return Cost(noise_multiplier=noise)


def epsilon(costs: Iterable[Cost], *, delta: float) -> Epsilon:
    """Return what rounds cost together; zero for none."""
    return _epsilon(_grouped(costs), delta)


_Group = tuple[tuple[float, float, int], ...]


def _grouped(costs: Iterable[Cost]) -> _Group:
    """Add up steps that are alike: (noise multiplier, sample rate, steps), sorted."""
    steps: Counter[tuple[float, float]] = Counter()
    for cost in costs:
        steps[cost.noise_multiplier, cost.sample_rate] += cost.steps
    return tuple((noise, rate, count) for (noise, rate), count in sorted(steps.items()) if count)


@lru_cache(maxsize=256)
def _epsilon(group: _Group, delta: float) -> Epsilon:
    if not group:
        return Epsilon(rdp=0.0, pld=0.0)
    rdp = float(_composed(_rdp(), group).get_epsilon(delta))
    if not math.isfinite(rdp):
        rdp = math.inf
    if rdp > MEANINGLESS:
        return Epsilon(rdp=rdp, pld=rdp)
    return Epsilon(rdp=rdp, pld=float(_composed(_pld(), group).get_epsilon(delta)))


# dp-accounting takes seconds to load, and only who adds noise needs it.
def _rdp() -> Any:
    from dp_accounting.rdp import RdpAccountant  # noqa: PLC0415

    return RdpAccountant(ORDERS)


def _pld() -> Any:
    from dp_accounting.pld import PLDAccountant  # noqa: PLC0415

    return PLDAccountant()


def _composed(accountant: Any, group: _Group) -> Any:
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent  # noqa: PLC0415

    for noise, rate, steps in group:
        event = GaussianDpEvent(noise)
        accountant.compose(event if rate == 1 else PoissonSampledDpEvent(rate, event), steps)
    return accountant
