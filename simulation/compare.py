"""Several methods side by side: one seed set, one split, one set of models trained alone.

Each plant trains alone once; every method in rounds then starts from a copy of that run folder, in
``OUT/runs/<method>``, so that only the method differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from client.methods import ALONE, FEDERATED
from client.tasks.metrics import interval, mean_interval
from common.errors import ConfigError
from common.tasks import measure_of
from simulation.collect import answers, collect
from simulation.report import write_comparison, write_report
from simulation.results import Comparison, Results, save_results
from simulation.run import Plan, SeedRun, Watch, run


def check_methods(methods: Sequence[str]) -> None:
    """Refuse unknown methods, and `pooled`, which a run has beside every method.

    Raises
    ------
    ConfigError
        Naming what is unknown and what there is.
    """
    known = [*(name for name in ALONE if name != "pooled"), *FEDERATED]
    unknown = [name for name in methods if name not in known]
    if unknown or not methods:
        raise ConfigError(f"--methods must be among {', '.join(known)}; got {', '.join(unknown)}")


def compare(plan: Plan, methods: Sequence[str], *, watch: Watch) -> Comparison:
    """Run the methods, write compare.json and the reports, return the comparison.

    Raises
    ------
    TransferlineError
        As `simulation.run.run`; with an unknown method too.
    """
    check_methods(methods)
    measure = measure_of(plan.config)
    alone = tuple(dict.fromkeys(["head_only", "local", *(m for m in methods if m in ALONE)]))
    base = replace(plan, out=plan.out / "runs" / "alone", alone=alone, together=False)
    runs = run(base, watch=watch)
    scores = {name: _scores(runs, name, measure.name) for name in methods if name in ALONE}
    for name, found in scores.items():
        found["answers"] = answers(runs, name)
        found["seconds"] = {"training alone": round(sum(run.alone[name] for run in runs), 3)}
    results: dict[str, Results] = {}
    for name in (m for m in methods if m in FEDERATED):
        watch("method", 0, 0, name)
        results[name], held = _one(plan, name, start=base.out, watch=watch)
        scores[name] = {
            **_scores(held, "federated", measure.name),
            "deployed": _scores(held, "deployed", measure.name),
            "answers": answers(held, "federated"),
            "seconds": results[name].seconds,
        }
    comparison = Comparison.model_validate(
        {
            "name": plan.config.name,
            "metric": measure.name,
            "word": measure.word,
            "lower": measure.lower,
            "share": measure.share,
            "seeds": list(plan.all_seeds),
            "methods": {name: scores[name] for name in methods},
            "runs": {name: f"runs/{name}/results.json" for name in results},
        }
    )
    save_results(plan.out / "compare.json", comparison)
    write_comparison(comparison, results, plan.out / "report.html")
    return comparison


def _one(plan: Plan, name: str, *, start: Path, watch: Watch) -> tuple[Results, Sequence[SeedRun]]:
    """Run one method in rounds, in its own run folder."""
    config = plan.config.model_copy(update={"method": name})
    own = replace(plan, config=config, out=plan.out / "runs" / name, start=start)
    runs = run(own, watch=watch)
    results = collect(own, runs)
    save_results(own.out / "results.json", results)
    write_report(results, own.out / "report.html")
    return results, runs


def _scores(runs: Sequence[SeedRun], variant: str, metric: str) -> dict[str, object]:
    """Return what one variant scored, with intervals over the seeds' test examples."""
    said = {p: [run.judged[p].predictions[variant] for run in runs] for p in runs[0].judged}
    return {
        "plants": {plant: asdict(interval(found, metric=metric)) for plant, found in said.items()},
        "mean": asdict(mean_interval(list(said.values()), metric=metric)),
    }
