"""What the commands of ``transferline-sim`` do that need torch, and what they print."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from client.tasks.folder import SUFFIXES
from common.terminal import console, errors
from simulation.collect import collect
from simulation.compare import compare as compare_methods
from simulation.onboard import Onboarding, onboard
from simulation.prepare import folders
from simulation.report import write_report
from simulation.results import save_results, write_plants_csv
from simulation.run import Plan
from simulation.run import run as run_plan
from simulation.split import split_product
from simulation.story import names, story
from simulation.table import print_table
from simulation.watch import Display

__all__ = [
    "Display",
    "Plan",
    "ask_of_plants",
    "compare",
    "onboard",
    "print_onboarding",
    "run",
    "split",
]


def run(plan: Plan, *, report: Path | None = None) -> None:
    """Run a federation, write its results and print its table and what it says.

    Parameters
    ----------
    report : file of the report; by default ``report.html`` in the run's folder.
    """
    with Display() as display:
        results = collect(plan, run_plan(plan, watch=display))
    save_results(plan.out / "results.json", results)
    write_plants_csv(plan.out / "plants.csv", results)
    report = report or plan.out / "report.html"
    write_report(results, report)
    print_table(results, console())
    console().print(story(results)[0])
    console().print(f"report: {report}")


def compare(plan: Plan, methods: Sequence[str]) -> None:
    """Run several methods side by side, and print a line of each."""
    with Display() as display:
        comparison = compare_methods(plan, methods, watch=display)
    for name, found in comparison.methods.items():
        console().print(
            f"{name:<10} {found.mean.value:.3f}  ({found.mean.low:.3f} to {found.mean.high:.3f})"
            + (f"   deployed {found.deployed.mean.value:.3f}" if found.deployed else "")
        )
    console().print(f"report: {plan.out / 'report.html'}")


def print_onboarding(rows: Sequence[Onboarding], *, out: Path) -> None:
    """Print what a plant that joins late gets, a line for each number of labels.

    Parameters
    ----------
    out : where ``onboard.json`` is.
    """
    console().print("labels  from source              from release             gain")
    for row in rows:
        console().print(_onboarding(row))
    console().print(f"written: {out / 'onboard.json'}")


def split(data: Path, out: Path, *, plants: int, labels: str, cameras: bool, seed: int) -> None:
    """Cut one product into plants, and print what each has.

    Parameters
    ----------
    labels : ``iid`` or ``dirichlet:0.3``.
    cameras : whether each plant has a camera of its own.
    """
    ask_of_plants(data)
    cut = split_product(data, out, plants=plants, labels=labels, cameras=cameras, seed=seed)
    for plant, counts in cut.counts.items():
        shares = ", ".join(f"{name} {count}" for name, count in counts.items())
        console().print(f"{plant}: {shares}")
    if cut.left_out:
        console().print(f"left out: {cut.left_out} images of classes too small at their plant")
    for item in cut.skipped:
        errors().print(f"skipped {item.file}: {item.why}")
    console().print(f"written: {out}")


def ask_of_plants(data: Path) -> None:
    """Ask whether class folders whose images all lie deeper are plants, DATA one level too high."""
    nested = [
        path.name for path in folders(data) if not _images(path, "*") and _images(path, "*/*")
    ]
    if nested:
        errors().print(
            f"note: classes with images in folders of their own only: {names(nested)}; if these "
            "are plants, --data must be one of them"
        )


def _images(folder: Path, pattern: str) -> bool:
    return any(path.suffix.lower() in SUFFIXES for path in folder.glob(pattern))


def _onboarding(row: Onboarding) -> str:
    if row.source is None or row.release is None or row.gain is None:
        return f"{row.labels:>6}  {row.problem}"
    spans = (
        f"{span.value:.3f} ({span.low:.3f} to {span.high:.3f})"
        for span in (row.source, row.release)
    )
    gain = f"{row.gain.value:+.3f} ({row.gain.low:+.3f} to {row.gain.high:+.3f})"
    return f"{row.labels:>6}  {'   '.join(spans)}   {gain}"
