"""Writes docs/metrics.md from the metrics that are declared: ``python -m deploy.metrics_page``.

A test compares the page with the code, so that it stays true.
"""

from __future__ import annotations

import sys
from pathlib import Path

import client.metric_families as plant
import server.metrics.families as centre
from common.metrics import OTHER, page

TARGET = Path("docs/metrics.md")

_TOP = f"""\
# Metrics

This page is generated from `server/metrics/families.py` and `client/metric_families.py` by
`python -m deploy.metrics_page`.

The centre serves `GET /metrics` where `metrics` in centre.toml says (`127.0.0.1:9464`), a plant's
daemon where `metrics` in plant.toml says (nowhere, unless it is set). Both take `host:port` or
`unix:PATH`. There is no login and no encryption: bind to loopback, or to the network of the
monitoring. While the state cannot be read, a scrape gets 503, and Prometheus shows the target as
down.

Everything is computed from what is on disk at the moment of the scrape: rows of `state.db` at the
centre, `ledger.db` and the personal store at a plant. So counters survive restarts. Two exceptions
count from the start of the process: `transferline_process_restarts_total` and the
`transferline_daemon_worker_` counters. A round counts when it is closed.

**Bounded.** Every label has its values in a list in the code; a word that is not in it becomes
`{OTHER}`. The centre gives series of their own to at most {centre.MOST_PLANTS} plants, in the
order in which they joined; what the others do is summed under `plant="{OTHER}"`. A plant costs
about 25 series, and cannot make them more.

**What they do not tell.** No class or file names, no numbers of images at the centre, no hashes,
no free text: reasons are codes. Scores and seconds are what plants report to the centre anyway.
A plant's own endpoint tells the number of its images; it is for the plant alone.

Ready to use, in `deploy/`: `prometheus/prometheus.yml` (scrape configuration),
`prometheus/rules.yml` (alerts, with their tests in `rules_test.yml`), `grafana/centre.json` and
`grafana/plant.json`.
"""

_CENTRE = """\
## Centre
"""

_PLANT = """\
## Plant
"""

_VALUES = """\
Label values:
"""


def metrics_page() -> str:
    """Return the page as Markdown."""
    parts = (
        _TOP,
        _CENTRE,
        page(centre.FAMILIES),
        _VALUES,
        _values(centre.VALUES),
        _PLANT,
        page(plant.FAMILIES),
        _VALUES,
        _values(plant.VALUES),
    )
    return "\n".join(parts)


def main(target: Path = TARGET) -> None:
    """Write the page."""
    target.write_text(metrics_page(), encoding="utf-8")
    sys.stdout.write(f"wrote {target}\n")


def _values(values: dict[str, tuple[str, ...]]) -> str:
    rows = [
        f"| `{label}` | {', '.join(f'`{value}`' for value in dict.fromkeys(known))} |"
        for label, known in sorted(values.items())
    ]
    return "\n".join(["| label | values |", "|---|---|", *rows, ""])


if __name__ == "__main__":
    main()
