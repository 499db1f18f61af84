"""What is asked for: the target to raise or lower, bounds of settings, limits on sums.

bounds.toml::

    [bounds]
    cement = [150.0, 400.0]   # a number between
    age = 28                  # held
    supplier = ["Ast", "Bor"] # one of these names

    [formulas.cost]           # a sum that --at-most cost=60 is about
    cement = 0.11
    superplasticizer = 2.0
    constant = 5.0
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, Strict

from client.tasks.tables.columns import LARGEST
from common.config.section import Section
from common.errors import ConfigError
from common.toml import literal, read_toml, validate

CONSTANT = "constant"  #: of a formula: what is added whatever the settings

Bound = float | str | Annotated[tuple[float | str, ...], Strict(False)]


class Bounds(Section):
    """bounds.toml."""

    bounds: dict[str, Bound] = Field(
        default_factory=dict, description="Range, names or one value, by column."
    )
    formulas: dict[str, dict[str, float]] = Field(
        default_factory=dict, description="Weights of columns, by the name of the sum."
    )


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A column or a formula that must stay at most, or at least, at a value."""

    name: str
    value: float
    least: bool = False

    def holds(self, found: float) -> bool:
        return self.excess(found) <= 0

    def excess(self, found: float) -> float:
        """Return by how much a value breaks the limit; not above 0 where it holds."""
        return self.value - found if self.least else found - self.value


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """All that is asked for.

    Attributes
    ----------
    target : what the plant's model says.
    lower : whether less of it is better.
    caution : how many deviations of the model's uncertainty a proposal must make up for.
    trials : settings that are tried.
    proposals : how many are shown.
    """

    target: str
    lower: bool = False
    bounds: Bounds = field(default_factory=lambda: Bounds())
    limits: tuple[Limit, ...] = ()
    caution: float = 1.0
    trials: int = 400
    proposals: int = 3
    seed: int = 0


def read_bounds(path: Path | None) -> Bounds:
    """Read bounds.toml; without a file every column is held at its usual value.

    Raises
    ------
    ConfigError
        If the file is missing or wrong.
    """
    if path is None:
        return Bounds()
    raw = read_toml(path, hint="see docs/optimise.md")
    bounds = raw.get("bounds")
    for name, bound in bounds.items() if isinstance(bounds, dict) else ():
        if not _is_bound(bound):  # pydantic would say what is wrong with each kind of bound
            raise ConfigError(
                f"{path}: bounds.{name} must be [low, high] with low below high, names, or one "
                f"value, got {literal(bound)}"
            )
    return validate(Bounds, raw, name=str(path))


def _is_bound(bound: Any) -> bool:
    """Whether a value of a file is one value, names, or two numbers, the lower first."""
    if isinstance(bound, str) or _is_number(bound):
        return True
    if not isinstance(bound, list) or not bound:
        return False
    if all(isinstance(one, str) for one in bound):
        return True
    return len(bound) == 2 and all(map(_is_number, bound)) and bound[0] < bound[1]


def _is_number(value: Any) -> bool:
    """Whether a value is a number that the model's float32 can hold."""
    return type(value) in (int, float) and abs(value) <= LARGEST


def read_limits(texts: Sequence[str], *, least: bool) -> list[Limit]:
    """Read ``NAME=VALUE``.

    Raises
    ------
    ConfigError
        If one is of another form.
    """
    option = "--at-least" if least else "--at-most"
    limits = []
    for text in texts:
        name, sign, value = text.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not name.strip() or not sign or not math.isfinite(number):
            raise ConfigError(f"{option} must be NAME=NUMBER, got {text!r}")
        limits.append(Limit(name=name.strip(), value=number, least=least))
    return limits
