"""The search for settings, by Optuna's tree-structured Parzen estimator, and what it found.

What is raised is the cautious prediction: the mean less ``caution`` deviations. A trial that breaks
a limit or lies where the plant's rows support nothing is counted as not allowed, by how much, so
that the search learns to stay inside (https://optuna.readthedocs.io, constraints). Rows
that were measured and are allowed are tried first: no proposal is worse than the best of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from client.optimise.ensemble import Ensemble
from client.optimise.support import Setting, Support, Value
from client.optimise.wishes import CONSTANT, Wishes
from common.errors import ConfigError, DataError

#: Measured rows that are tried first.
STARTS = 20
#: Proposals differ by at least this share of the supported distance.
APART = 0.25


class Range(tuple[float, float]):
    """A range to search, apart from a choice between two values."""

    __slots__ = ()


Choice = Range | tuple[Value, ...]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Targets and names of the labelled rows, in the order of `Support.rows`."""

    targets: npt.NDArray[np.float64]
    names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """Settings that the plant's model proposes.

    Attributes
    ----------
    values : by column; those that were held too.
    mean, low, high : of the target, with the 90 % interval; None where the model has none.
    chance : that it is better than the best measured row that is allowed (or, if none is, than the
        usual row); None as well.
    distance : from the fifth nearest measured row, as a share of what is supported.
    nearest : name of the nearest measured row.
    limits : what each limited column or formula comes to.
    """

    values: Mapping[str, Value]
    mean: float
    low: float | None
    high: float | None
    chance: float | None
    distance: float
    nearest: str
    limits: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search found.

    Attributes
    ----------
    proposals : best first.
    compared : what ``chance`` is about: a measured row's value, and its name.
    elsewhere : what that row has in the columns without bounds that are held at other values.
    held : columns that were held, with their values.
    notes : what a reader should know: bounds that were narrowed.
    tried, allowed : settings that were tried, and of them within bounds, limits and support.
    """

    proposals: tuple[Proposal, ...]
    compared: tuple[float, str]
    elsewhere: Mapping[str, Value]
    held: Mapping[str, Value]
    notes: tuple[str, ...]
    tried: int
    allowed: int


@dataclass(frozen=True, kw_only=True)
class Space:
    """Where to search: free columns with their choices, held ones with their values."""

    free: Mapping[str, Choice]
    held: Mapping[str, Value]
    notes: tuple[str, ...]


def space(wishes: Wishes, support: Support) -> Space:
    """Cut the bounds to what the plant's rows hold.

    Raises
    ------
    ConfigError
        If a column, a name, a formula or a limit is not known.
    DataError
        If bounds lie outside what the rows hold.
    """
    known = {one.name: one for one in support.settings}
    _check_names(wishes, known)
    free: dict[str, Choice] = {}
    held: dict[str, Value] = {}
    notes: list[str] = []
    for name, one in known.items():
        bound = wishes.bounds.bounds.get(name)
        if bound is None:
            held[name] = one.usual
            continue
        choice = _names(one, bound) if one.levels else _numbers(one, bound, notes)
        if len(choice) == 1:
            held[name] = choice[0]
        else:
            free[name] = choice
    if not free:
        raise ConfigError(
            f"bounds must leave at least one column free, got none; give ranges for some of "
            f"{', '.join(known)}"
        )
    return Space(free=free, held=held, notes=tuple(notes))


def search(ensemble: Ensemble, support: Support, wishes: Wishes, *, measured: Measured) -> Found:
    """Look for settings within bounds, limits and support.

    Raises
    ------
    ConfigError
        If Optuna is not installed, or something asked for is not known.
    DataError
        If no setting is allowed.
    """
    optuna = _optuna()
    where = space(wishes, support)
    better = -1.0 if wishes.lower else 1.0

    def judge(trial: Any) -> float:
        values = {**where.held, **{n: _suggest(trial, n, c) for n, c in where.free.items()}}
        row = support.encode(values)
        mean, deviation = (float(one[0]) for one in ensemble.predict(row[None]))
        # Beyond the distance at which the model was checked, its error is taken to grow with it.
        deviation *= max(1.0, support.distance(row) / support.middle)
        excess = [limit.excess(_sum(limit.name, values, wishes)) for limit in wishes.limits]
        excess.append(support.distance(row) - support.reach)
        for number, over in enumerate(excess):
            trial.set_constraint(f"limit {number}", over)
        trial.set_user_attr("excess", excess)
        trial.set_user_attr("values", values)
        trial.set_user_attr("told", (mean, deviation))
        cautious: float = better * mean - wishes.caution * deviation
        return cautious

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.TPESampler(seed=wishes.seed, multivariate=True)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for row in np.argsort(-better * measured.targets)[:STARTS]:
        start = _start(support.decode(support.rows[row]), where)
        if start is not None:
            study.enqueue_trial(start, skip_if_exists=True)
    study.optimize(judge, n_trials=wishes.trials)
    allowed = _allowed(study.trials, wishes)
    value, name, elsewhere = _compared(support, wishes, where, measured)
    chosen = _apart([trial.user_attrs for trial in allowed], support, count=wishes.proposals)
    return Found(
        proposals=tuple(
            _proposal(one, ensemble, support, wishes, compared=value, measured=measured)
            for one in chosen
        ),
        compared=(value, name),
        elsewhere=elsewhere,
        held=where.held,
        notes=where.notes,
        tried=len(study.trials),
        allowed=len(allowed),
    )


def _allowed(trials: Sequence[Any], wishes: Wishes) -> list[Any]:
    """Return the trials that break nothing, best first; DataError if all of them do."""
    allowed = [trial for trial in trials if max(trial.user_attrs["excess"]) <= 1e-9]
    if not allowed:
        nearest = min(trials, key=lambda trial: max(trial.user_attrs["excess"]))
        over = nearest.user_attrs["excess"]
        names = [limit.name for limit in wishes.limits] + ["distance from measured rows"]
        raise DataError(
            f"a setting must be within bounds, limits and what the plant's rows support, none of "
            f"{len(trials)} was; the nearest broke {names[int(np.argmax(over))]} by "
            f"{max(over):.3g}: widen the bounds or the limits"
        )
    return sorted(allowed, key=lambda trial: -trial.value)


def _proposal(
    told: Mapping[str, Any],
    ensemble: Ensemble,
    support: Support,
    wishes: Wishes,
    *,
    compared: float,
    measured: Measured,
) -> Proposal:
    mean, deviation = told["told"]
    low, high = ensemble.interval(mean, deviation) or (None, None)
    row = support.encode(told["values"])
    above = ensemble.chance(mean, deviation, above=compared)
    return Proposal(
        values=told["values"],
        mean=mean,
        low=low,
        high=high,
        chance=1 - above if wishes.lower and above is not None else above,
        distance=support.distance(row) / max(support.reach, 1e-12),
        nearest=measured.names[support.nearest(row)],
        limits={one.name: _sum(one.name, told["values"], wishes) for one in wishes.limits},
    )


def _compared(
    support: Support, wishes: Wishes, where: Space, measured: Measured
) -> tuple[float, str, Mapping[str, Value]]:
    """Return the best measured row within bounds and limits; without one the middle of all.

    With it, what it has in the columns that are held at other values.
    """
    order = np.argsort(measured.targets if wishes.lower else -measured.targets)
    for row in order:
        values = support.decode(support.rows[row])
        inside = all(_inside(values[name], choice) for name, choice in where.free.items())
        held = all(
            values[name] == wanted
            for name, wanted in where.held.items()
            if name in wishes.bounds.bounds
        )
        limits = all(one.holds(_sum(one.name, values, wishes)) for one in wishes.limits)
        if inside and held and limits:
            other = {n: values[n] for n, wanted in where.held.items() if values[n] != wanted}
            return float(measured.targets[row]), measured.names[row], other
    return float(np.median(measured.targets)), "the middle of all measured rows", {}


def _apart(ranked: list[dict[str, Any]], support: Support, *, count: int) -> list[dict[str, Any]]:
    """Take the best, then the next ones that differ from all taken."""
    chosen: list[dict[str, Any]] = []
    rows: list[npt.NDArray[np.float32]] = []
    for told in ranked:
        row = support.encode(told["values"])
        scale = np.where(support.spread == 0, 1.0, support.spread)
        gaps = [float(np.sqrt(np.square((row - one) / scale).mean())) for one in rows]
        if all(gap >= APART * support.reach for gap in gaps):
            chosen.append(told)
            rows.append(row)
        if len(chosen) == count:
            break
    return chosen


def _check_names(wishes: Wishes, known: Mapping[str, Setting]) -> None:
    bounds = wishes.bounds
    names = ", ".join(known)
    for name in bounds.bounds:
        if name not in known:
            raise ConfigError(
                f"bounds must be of columns of the model, got {name!r}; it has {names}"
            )
    for formula, weights in bounds.formulas.items():
        for name in weights:
            if name != CONSTANT and (name not in known or known[name].levels):
                raise ConfigError(
                    f"formulas.{formula} must be of columns of numbers, got {name!r}; the model "
                    f"has {names}"
                )
    for limit in wishes.limits:
        if limit.name in bounds.formulas:
            continue
        if limit.name not in known or known[limit.name].levels:
            formulas = ", ".join(bounds.formulas) or "none"
            raise ConfigError(
                f"a limit must be of a formula ({formulas}) or a column of numbers, got "
                f"{limit.name!r}; the model has {names}"
            )


def _names(one: Setting, bound: Any) -> tuple[Value, ...]:
    asked = bound if isinstance(bound, tuple) else (bound,)
    if unknown := [name for name in asked if name not in one.levels]:
        raise ConfigError(
            f"bounds.{one.name} must be among {', '.join(one.levels)}, got {unknown[0]!r}"
        )
    return tuple(dict.fromkeys(asked))


def _numbers(one: Setting, bound: Any, notes: list[str]) -> Choice:
    if isinstance(bound, str) or (isinstance(bound, tuple) and isinstance(bound[0], str)):
        raise ConfigError(f"bounds.{one.name} must be numbers, got {bound!r}")
    low, high = bound if isinstance(bound, tuple) else (bound, bound)
    if low > one.high or high < one.low:
        raise DataError(
            f"bounds.{one.name} must overlap with what the plant's rows hold, {one.low:g} to "
            f"{one.high:g}, got {low:g} to {high:g}; nothing is known there"
        )
    inside = max(low, one.low), min(high, one.high)
    if inside != (low, high):
        notes.append(
            f"{one.name}: narrowed from {low:g} to {high:g} to what the rows hold, {inside[0]:g} "
            f"to {inside[1]:g}"
        )
    few = tuple(value for value in one.values if inside[0] <= value <= inside[1])
    if one.values and not few:
        near = min(one.values, key=lambda value: abs(value - inside[0]))
        raise DataError(
            f"bounds.{one.name} must hold one of the values that were measured, got {low:g} to "
            f"{high:g}; the nearest is {near:g}"
        )
    if few:
        return few
    return Range(inside) if inside[0] < inside[1] else (inside[0],)


def _suggest(trial: Any, name: str, choice: Choice) -> Value:
    if _continuous(choice):
        return float(trial.suggest_float(name, choice[0], choice[1]))
    found: Value = trial.suggest_categorical(name, list(choice))
    return found


def _continuous(choice: Choice) -> bool:
    """Whether a choice is a range; few measured values are choices even where they are two."""
    return isinstance(choice, Range)


def _inside(value: Value, choice: Choice) -> bool:
    if _continuous(choice):
        return bool(choice[0] <= value <= choice[1])  # type: ignore[operator]
    return value in choice


def _start(values: Mapping[str, Value], where: Space) -> dict[str, Value] | None:
    """Return a measured row's free values, if they are within the choices."""
    found = {name: values[name] for name in where.free}
    return found if all(_inside(found[n], c) for n, c in where.free.items()) else None


def _sum(name: str, values: Mapping[str, Value], wishes: Wishes) -> float:
    """Return a formula's or a column's value."""
    weights = wishes.bounds.formulas.get(name)
    if weights is None:
        return float(values[name])
    constant = weights.get(CONSTANT, 0.0)
    return constant + sum(w * float(values[n]) for n, w in weights.items() if n != CONSTANT)


def _optuna() -> Any:
    try:
        import optuna  # noqa: PLC0415  the extra `optimise`
    except ImportError as error:
        raise ConfigError(
            "optimise needs Optuna, which is not installed: in the checkout, pip install "
            "'.[optimise]'"
        ) from error
    return optuna
