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

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Field, Strict

from common.config.section import Section
from common.errors import ConfigError
from common.toml import read_toml, validate

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
    found = validate(Bounds, read_toml(path, hint="see docs/optimise.md"), name=str(path))
    for name, bound in found.bounds.items():
        if isinstance(bound, tuple) and not all(isinstance(one, str) for one in bound):
            ends = [one for one in bound if not isinstance(one, str)]
            if len(ends) != len(bound) or len(ends) != 2 or ends[0] >= ends[1]:
                raise ConfigError(
                    f"{path}: bounds.{name} must be [low, high] with low below high, names, or one "
                    f"value, got {list(bound)}"
                )
    return found


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
            limits.append(Limit(name=name.strip(), value=float(value), least=least))
        except ValueError as error:
            raise ConfigError(f"{option} must be NAME=NUMBER, got {text!r}") from error
        if not name.strip() or not sign:
            raise ConfigError(f"{option} must be NAME=NUMBER, got {text!r}")
    return limits
