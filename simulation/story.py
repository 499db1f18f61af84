"""What a run or a comparison says, in sentences: the top of the report.

A gain counts as clear when its whole 95 % interval is above zero, and a plant as harmed when the
whole interval is below; all else is noise and is called so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from simulation.notation import Notation
from simulation.results import Comparison, Deployed, Interval, Results, Scores

RISK = 0.01
"""A loss that cannot be ruled out is named from here on: as a share, or of the mean score."""


def story(results: Results) -> list[str]:
    """Return what joining gave, in a few sentences; the first is the headline."""
    gain, mean, metric = results.gain, results.mean, results.word
    told = Notation(share=results.share, lower=results.lower)
    average = " on average" if len(results.plants) > 1 else ""
    if all(plant.deployed.source == "local" for plant in results.plants.values()):
        first = f"Joining changed nothing: every plant runs its local model ({metric} "
        first += f"{told.score(mean.deployed.value)}{told.unit}{average})."
    else:
        span = f"95 % interval {told.change(gain.low)} to {told.change(gain.high)}"
        ends = (
            f"from {told.score(mean.local.value)} to {told.score(mean.deployed.value)}{told.unit}"
        )
        size = f"{told.score(abs(gain.value))}{told.points}"
        better, worse = ("bettered", "worsened") if results.lower else ("raised", "lowered")
        if gain.low > 0:
            first = f"Joining {better} {metric} by {size}{average}, {ends} ({span})."
        elif gain.high < 0:
            first = f"Joining {worse} {metric} by {size}{average}, {ends} ({span})."
        else:
            first = (
                f"Joining made no clear difference: {metric} moved by {told.change(gain.value)}"
                f"{told.points}{average}, {ends} ({span})."
            )
    return [first, *_plants_story(results)]


def _plants_story(results: Results) -> Iterator[str]:
    plants = results.plants
    told = Notation(share=results.share, lower=results.lower)
    risk = RISK if results.share else RISK * abs(results.mean.local.value)
    worst = min(plants, key=lambda name: (plants[name].gain.value, plants[name].gain.low))
    gain = plants[worst].gain
    if len(plants) > 1:
        clear = sum(plant.gain.low > 0 for plant in plants.values())
        yield (
            f"The gain is clear at {clear} of {len(plants)} plants. The smallest is at {worst}: "
            f"{told.change(gain.value)}{told.points} ({told.change(gain.low)} to "
            f"{told.change(gain.high)})."
        )
    hurt = harmed(results)
    if hurt:
        yield f"Harmed, beyond noise: {names(hurt)}."
    else:
        yield "No plant is worse off by more than noise."
    risky = [name for name, plant in plants.items() if plant.gain.low < -risk]
    if risky := [name for name in risky if name not in hurt]:
        loss = f"{100 * RISK:.0f} point" if results.share else told.score(risk)
        yield (
            f"A loss of more than {loss} cannot be ruled out at {names(risky)}: "
            "the lower end of the gain's interval is below that."
        )


def compare_story(compare: Comparison, runs: Mapping[str, Results]) -> list[str]:
    """Return which methods are best on average, and what that is against local."""
    leading = best(compare)
    several = len(leading) > 1
    told = Notation(share=compare.share, lower=compare.lower)
    top = final(compare, leading[0]).mean
    deployed = ", as deployed" if any(one.deployed for one in compare.methods.values()) else ""
    lines = [
        f"{names(leading)} {'are level with' if several else 'has'} "
        f"the {'lowest' if compare.lower else 'highest'} mean {compare.word}{deployed}: "
        f"{told.score(top.value)}{told.unit} "
        f"(95 % interval {told.score(top.low)} to {told.score(top.high)})."
    ]
    joined = [name for name in leading if name in runs]
    for name in joined:
        gain = runs[name].gain
        lines.append(
            f"{name} against each plant alone: {told.change(gain.value)}{told.points} "
            f"({told.change(gain.low)} to {told.change(gain.high)}, paired)."
        )
    others = [
        name
        for name in compare.methods
        if name not in leading
        and not (name == "local" and joined)
        and _meet(final(compare, name).mean, top)
    ]
    if others:
        lines.append(
            f"{'Their' if several else 'Its'} interval meets that of {names(others)}: "
            "between these the order may be chance."
        )
    return lines


def _meet(one: Interval, other: Interval) -> bool:
    return one.high >= other.low and other.high >= one.low


def adopted(deployed: Deployed) -> str:
    """Return what is deployed: ``federated (4 of 5 seeds)``."""
    word = deployed.source.replace("_", " ")
    total = sum(deployed.sources.values())
    count = deployed.sources.get(deployed.source, 0)
    return word if total <= 1 or not count else f"{word} ({count} of {total} seeds)"


def verdict(gain: Interval) -> str:
    """Return in two words what a gain's interval says."""
    if gain.low > 0:
        return "clear gain"
    if gain.high < 0:
        return "harmed"
    return "unchanged" if gain.low == gain.high == 0 else "within noise"


def harmed(results: Results) -> list[str]:
    """Return the plants whose whole interval of the gain is below zero."""
    return [name for name, plant in results.plants.items() if plant.gain.high < 0]


def names(some: list[str]) -> str:
    """Return names as a phrase; beyond seven the last ones are counted."""
    shown = some if len(some) <= 7 else [*some[:6], f"{len(some) - 6} more"]
    return ", ".join(shown[:-1]) + " and " + shown[-1] if len(shown) > 1 else "".join(shown)


def final(compare: Comparison, name: str) -> Scores:
    """Return a method's scores, as deployed where there are such."""
    return compare.methods[name].deployed or compare.methods[name]


def best(compare: Comparison) -> list[str]:
    """Return the methods with the best mean; several are level, as far as the report writes it."""
    told = Notation(share=compare.share, lower=compare.lower)
    means = {name: final(compare, name).mean.value for name in compare.methods}
    top = told.score(min(means.values()) if compare.lower else max(means.values()))
    return [name for name, mean in means.items() if told.score(mean) == top]
