"""How a metric is declared and filled, at the centre and at a plant.

A family is declared once, as a value: name, type, labels, help. From that come the exposition, the
page ``docs/metrics.md`` and the check of dashboard and alerts. A label has few values that are
known beforehand; what comes from another machine goes through `code`, which knows no free text.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from common.errors import StateError
from common.pki.certificate import load_certificates

#: What a label says of a word that is not in its list, and of plants beyond the limit.
OTHER = "other"

#: What a plant measures of its work.
PHASES = ("alone", "evaluate", "train", "protect", "tune", "adopt")

#: On its validation images: its own model, the release as it came, the release after training,
#: after fine-tuning, and the model that inspects parts.
STAGES = ("local", "incoming", "trained", "tuned", "deployed")
SCORES = (
    "balanced_accuracy",
    "accuracy",
    "macro_f1",
    "auroc",
    "escape_rate",
    "r2",
    "rmse",
    "mae",
    "loss",
)

Scores = dict[tuple[str, str], float]


@dataclass(frozen=True, kw_only=True)
class Family:
    """One metric, with all its label values.

    Attributes
    ----------
    name : as it is exposed, with its unit, and with ``_total`` on a counter.
    help : one line; what a value means.
    labels : their names.
    """

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    labels: tuple[str, ...] = ()


def counter(name: str, help: str, *labels: str) -> Family:  # noqa: A002  Prometheus' word
    """Declare a counter."""
    return Family(name=name, kind="counter", help=help, labels=labels)


def gauge(name: str, help: str, *labels: str) -> Family:  # noqa: A002  Prometheus' word
    """Declare a gauge."""
    return Family(name=name, kind="gauge", help=help, labels=labels)


def page(families: Collection[Family]) -> str:
    """Return a Markdown table of families, for ``docs/metrics.md``."""
    rows = [
        f"| `{one.name}` | {one.kind} | {', '.join(f'`{label}`' for label in one.labels)} "
        f"| {one.help} |"
        for one in families
    ]
    return "\n".join(["| metric | type | labels | meaning |", "|---|---|---|---|", *rows, ""])


class Sheet:
    """The samples of one scrape: every family is there, also those without a sample."""

    def __init__(self, families: Collection[Family]) -> None:
        self._families = {family.name: _empty(family) for family in families}

    def put(self, family: Family, value: float, *labels: str) -> None:
        """Add a sample; one for each combination of label values."""
        self._families[family.name].add_metric(labels, value)

    def __iter__(self) -> Iterator[Metric]:
        return iter(self._families.values())


def code(word: object, known: Collection[str]) -> str:
    """Return the word if it is one of those known, else `OTHER`."""
    return word if isinstance(word, str) and word in known else OTHER


def _empty(family: Family) -> CounterMetricFamily | GaugeMetricFamily:
    if family.kind == "counter":
        return CounterMetricFamily(
            family.name.removesuffix("_total"), family.help, labels=family.labels
        )
    return GaugeMetricFamily(family.name, family.help, labels=family.labels)


def known_scores(scores: Mapping[str, Any]) -> Scores:
    """Return the scores of a reply by stage and metric, as far as both are known."""
    return {
        (stage, metric): float(value)
        for stage in STAGES
        if isinstance(values := scores.get(stage), Mapping)
        for metric in SCORES
        if isinstance(value := values.get(metric), (int, float))
    }


def known_phases(seconds: Mapping[str, Any]) -> dict[str, float]:
    """Return the seconds of a reply by phase; what is not known is summed under `OTHER`."""
    found: dict[str, float] = {}
    for phase, value in seconds.items():
        if isinstance(value, (int, float)):
            name = code(phase, PHASES)
            found[name] = found.get(name, 0.0) + value
    return found


def expiry(path: Path) -> float:
    """Return when the certificate in force in a file ends, in seconds since 1970.

    It is the first; those after it vouch for it.

    Raises
    ------
    StateError
        If the file cannot be read.
    IdentityError
        If it holds no certificate.
    """
    try:
        text = path.read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        raise StateError(f"cannot read {path}: {error}; restore it from a backup") from error
    return load_certificates(text)[0].not_valid_after_utc.timestamp()
