"""report.html: one self-contained page for the plant engineer, from results.json alone.

No network, no scripts, no fonts of its own: text, tables and inline SVG that follow the reader's
light or dark theme. What joining gave comes first, the configuration last. `write_comparison`
sets methods side by side; `simulation.table` is the same in a terminal.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from common.files import write_atomic
from common.tasks import KINDS
from simulation import charts
from simulation.charts import SHARES, Scale
from simulation.notation import Notation, per_cent, plain, points
from simulation.results import (
    VARIANTS,
    Comparison,
    Interval,
    PlantResults,
    Results,
)
from simulation.story import adopted, best, compare_story, final, harmed, names, story, verdict

WORDS = {name: name.replace("_", " ").capitalize() for name in VARIANTS}
#: Words for test figures that are shares; and for others.
FIGURES = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "macro_f1": "Macro F1",
    "auroc": "AUROC",
    "escape_rate": "Escape rate",
    "false_rejects": "Rejected good parts",
    "escaped": "Escaped defects",
}
NUMBERS = {"r2": "R²", "rmse": "RMSE", "mae": "MAE", "bias": "Bias", "nasa_score": "NASA score"}
TERMS = {
    "Head only": "a new last layer on frozen features of the source weights; nothing is shared.",
    "Local": "fine-tuned at the plant on its own data alone: what it has without joining.",
    "Federated": "from the last shared release, as the method says.",
    "Pooled": "trained on all plants' data in one place: a bound that only a simulation has.",
    "Deployed": "what the plant runs: it takes the shared model only if its own validation "
    "examples show that it is no worse, else it keeps the local one.",
    "Gain": "by how much deployed is better than local on the same test examples. The interval is "
    "paired; where it holds zero, the difference may be chance.",
    "95 % interval": "from resampling the test examples; a single new run may fall outside.",
    "Bytes": "what the learning itself sends; the engine adds its own headers.",
}
Lines = dict[str, list[tuple[float, float]]]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What the rounds cost one plant, mean over seeds."""

    up: float
    down: float
    done: int
    asked: int
    seconds: float


def write_report(results: Results, path: Path) -> None:
    """Write the report of one run as one HTML file.

    Raises
    ------
    StateError
        If the folder cannot be written.
    """
    learning = {name: lines for name in results.plants if (lines := _learning(results, name))}
    gains = [results.gain, *(plant.gain for plant in results.plants.values())]
    known = [getattr(plant, name) for plant in results.plants.values() for name in VARIANTS]
    kind = KINDS[results.task]
    page = _environment(results, known).get_template("run.html.j2")
    text = page.render(
        results=results,
        story=story(results),
        metric=results.word,
        things="images" if kind.images else "examples",
        remembers=kind.remembers,
        variants={
            name: word
            for name, word in WORDS.items()
            if name != "pooled" or any(plant.pooled for plant in results.plants.values())
        },
        figures=_figures(results),
        terms=TERMS,
        gains=_around(gains),
        learning=learning,
        scores=_scores_scale(learning.values()),
        last=_last_round(results),
        costs={name: cost(results, name) for name in results.plants},
        total_seconds=sum(results.seconds.values()) or 1.0,
        private=_private(results),
        trouble=list(_trouble(results)),
        budget=results.config.get("false_reject_budget", 0.05),
    )
    write_atomic(path, text.encode())


def write_comparison(
    compare: Comparison, results_by_method: Mapping[str, Results], path: Path
) -> None:
    """Write the comparison of methods as one HTML file.

    Parameters
    ----------
    compare
        Scores of every method.
    results_by_method
        The run of each method that had rounds; others may be left out.
    path
        The file; links to the methods' reports are relative to its folder.
    """
    learning = {
        method: lines
        for method, results in results_by_method.items()
        if (lines := _mean_learning(results))
    }
    gains = [results.gain for results in results_by_method.values()]
    known = [
        one
        for scores in compare.methods.values()
        for kept in (scores, scores.deployed)
        if kept is not None
        for one in kept.plants.values()
    ]
    page = _environment(compare, known).get_template("compare.html.j2")
    text = page.render(
        compare=compare,
        runs=results_by_method,
        metric=compare.word,
        story=compare_story(compare, results_by_method),
        final={name: final(compare, name) for name in compare.methods},
        best=best(compare),
        kept={name: _kept(results) for name, results in results_by_method.items()},
        plants=list(dict.fromkeys(p for m in compare.methods.values() for p in m.plants)),
        links={name: _report_link(place) for name, place in compare.runs.items()},
        gains=_around(gains),
        learning={name: _among(learning, name) for name in learning},
        scores=_scores_scale(learning.values()),
        alone=any("faint alone" in lines for lines in learning.values()),
        last=max((_last_round(results) for results in results_by_method.values()), default=1),
        costs={
            method: [cost(results, plant) for plant in results.plants]
            for method, results in results_by_method.items()
        },
        harmed={name: names(harmed(results)) for name, results in results_by_method.items()},
        phases=list(dict.fromkeys(p for m in compare.methods.values() for p in m.seconds)),
        terms={
            "As trained": "what the method itself reaches: for methods in rounds from the last "
            "release, before the plant chose what to run.",
            **{word: TERMS[word] for word in ("Local", "Deployed", "Gain", "95 % interval")},
        },
    )
    write_atomic(path, text.encode())


def cost(results: Results, plant: str) -> Cost:
    """Add up a plant's replies, and divide by the number of seeds."""
    replies = [entry.replies[plant] for entry in results.rounds if plant in entry.replies]
    seeds = len(results.seeds)
    return Cost(
        up=sum(reply.bytes_up for reply in replies) / seeds,
        down=sum(reply.bytes_down for reply in replies) / seeds,
        done=sum(reply.outcome == "done" for reply in replies),
        asked=len(replies),
        seconds=sum(sum(reply.seconds.values()) for reply in replies) / seeds,
    )


def duration(seconds: float) -> str:
    """Return seconds for a reader: ``0.4 s``, ``41 s``, ``3 min 20 s``, ``1 h 05 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return (
        f"{minutes} min {rest:02d} s"
        if minutes < 60
        else f"{minutes // 60} h {minutes % 60:02d} min"
    )


def size(count: float) -> str:
    """Return bytes for a reader, in powers of 1000: ``8.9 MB``."""
    for unit in ("B", "kB", "MB"):
        if count < 999.5:
            return f"{count:.0f} B" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB" if count < 1000 else f"{count:,.0f} GB"


def counted(count: int, word: str, several: str = "") -> str:
    """Return a count with its word: ``1 plant``, ``6 plants``."""
    return f"{count} {word if count == 1 else several or word + 's'}"


def _environment(found: Results | Comparison, known: Sequence[Interval | None]) -> Environment:
    """Return the templates, with scores written and drawn as this run's measure asks."""
    told = Notation(share=found.share, lower=found.lower)
    ends = [end for one in known if one is not None for end in (one.low, one.high)]
    scale = SHARES if found.share else Scale.around([0.0, *ends])
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        per_cent=per_cent,
        points=points,
        plain=plain,
        score=told.score,
        change=told.change,
        verdict=verdict,
        adopted=adopted,
        counted=counted,
        duration=duration,
        bound=lambda value: "none" if value is None else f"{value:.2f}",
        size=size,
        soft=_soft,
        reports=_reports,
        pretty=lambda value: json.dumps(value, indent=2, ensure_ascii=False, default=str),
    )
    environment.globals.update(
        told=told,
        axis=partial(charts.axis, told=told),
        bar=partial(charts.bar, told=told, scale=scale),
        bars=f"0 to 100{told.unit}" if found.share else f"from 0 to {plain(scale.high)}",
        share=charts.share,
        forest=partial(charts.forest, told=told),
        curves=partial(charts.curves, told=told),
    )
    return environment


def _figures(results: Results) -> dict[str, str]:
    """Return words for the test figures of a run; scores that have no word keep their name."""
    names = {n for p in results.plants.values() for m in p.metrics.values() for n in m}
    words = FIGURES | NUMBERS
    known = [name for name in words if name in names]
    others = sorted(names - words.keys() - {"loss"})
    return {name: words.get(name, name.replace("_", " ")) for name in [*known, *others]}


def _soft(name: str) -> Markup:
    """Let a long name break after its underscores and slashes."""
    text = str(escape(name))
    return Markup(text.replace("_", "_<wbr>").replace("/", "/<wbr>"))


def _reports(plant: PlantResults, figure: str) -> bool:
    return any(metrics.get(figure) is not None for metrics in plant.metrics.values())


def _learning(results: Results, plant: str) -> Lines:
    """Return the plant's validation scores by round, mean over seeds."""
    found: dict[str, dict[int, list[float]]] = {"incoming": {}, "trained": {}}
    for entry in results.rounds:
        reply = entry.replies.get(plant)
        for model, scores in reply.scores.items() if reply else ():
            if model in found and results.metric in scores:
                found[model].setdefault(entry.round, []).append(scores[results.metric])
    return {
        model: [(float(number), sum(row) / len(row)) for number, row in sorted(rounds.items())]
        for model, rounds in found.items()
        if rounds
    }


def _kept(results: Results) -> dict[str, str]:
    """Say shortly, by plant, what is deployed; ``mixed`` where the seeds differ."""
    return {
        name: f"deployed: {'mixed' if len(plant.deployed.sources) > 1 else plant.deployed.source}"
        for name, plant in results.plants.items()
    }


def _mean_learning(results: Results) -> Lines:
    """Return the mean over plants of their learning curves, and of what they reached alone."""
    found: dict[str, dict[float, list[float]]] = {}
    for plant in results.plants:
        for model, line in _learning(results, plant).items():
            for number, score in line:
                found.setdefault(model, {}).setdefault(number, []).append(score)
    lines = {
        model: [(number, sum(row) / len(row)) for number, row in sorted(rounds.items())]
        for model, rounds in found.items()
    }
    alone = [
        reply.scores["local"][results.metric]
        for entry in results.rounds
        for reply in entry.replies.values()
        if results.metric in reply.scores.get("local", {})
    ]
    if lines and alone:
        level = sum(alone) / len(alone)
        lines["faint alone"] = [(1.0, level), (float(max(_last_round(results), 2)), level)]
    return lines


def _among(learning: Mapping[str, Lines], method: str) -> Lines:
    """Return a method's curves on top of the other methods' trained curves, drawn faint."""
    others = {
        f"faint {name}": lines["trained"]
        for name, lines in learning.items()
        if name != method and "trained" in lines
    }
    return {**others, **learning[method]}


def _scores_scale(learning: Any) -> Scale:
    return Scale.around([y for lines in learning for line in lines.values() for _, y in line])


def _around(gains: list[Interval]) -> Scale:
    return Scale.around([0.0, *(end for gain in gains for end in (gain.low, gain.high))])


def _last_round(results: Results) -> int:
    return max((entry.round for entry in results.rounds), default=0)


def _report_link(results_file: str) -> str:
    return quote(PurePosixPath(results_file).with_name("report.html").as_posix())


def _private(results: Results) -> str:
    """Say what hides what; empty where rounds had no noise."""
    privacy = results.config.get("privacy") or {}
    unit = privacy.get("unit", "none")
    if unit == "none":
        return ""
    sized = f"noise multiplier {privacy['noise_multiplier']:g}, clip {privacy['clip']:g}"
    if unit == "record":
        return (
            f"Rounds hid single training images: DP-SGD, {sized}, {privacy['steps']} steps a round "
            f"on images drawn with chance {privacy['sample_rate']:g}. Batch-norm statistics stayed "
            "those of the source, augmentation and dropout were off. Local training, fine-tuning "
            "and the deployed models never leave the plant, and have no noise."
        )
    carried = (results.config.get("secure_aggregation") or {}).get("enabled")
    where = "the secure sum carries it" if carried else "at each plant"
    return f"Rounds hid whole plants: updates were clipped and got noise ({sized}; {where})."


def _trouble(results: Results) -> Iterator[str]:
    """Yield one line for each round that was not committed and each reply that failed."""
    several = len(results.seeds) > 1
    for entry in results.rounds:
        where = f"Round {entry.round}" + (f", seed {entry.seed}" if several else "")
        if entry.outcome != "committed":
            yield f"{where}: {entry.outcome}" + (f", {entry.reason}" if entry.reason else "")
        for plant, reply in entry.replies.items():
            if reply.outcome != "done":
                reason = f", {reply.reason}" if reply.reason else ""
                yield f"{where}, {plant}: {reply.outcome}{reason}"
