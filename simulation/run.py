"""One simulation: many plants and a centre on this machine, from image folders to results.

For each seed: look at the data, train every plant alone, hold the rounds, let the plants adopt,
pool, then judge the test images once. Each step leaves its result on disk and is not done again
when the run is continued, so it may be killed at any moment.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from client.personal import Version
from client.plant import open_plant
from client.tasks import TASKS
from client.tasks.metrics import Prediction
from common.config import FederationConfig
from common.errors import ConfigError, StateError
from common.files import unwritable
from common.orders import Release
from server.chain import Place
from server.engine.job import RUN
from server.events import Event, ReplyArrived, RoundClosed
from server.federation import Federation
from server.seals import papers_of
from simulation.desks import PKI
from simulation.local import LocalFleet
from simulation.pictures import Picture, Scene, pictures_of, views_of
from simulation.pooled import Pooled, train_pooled
from simulation.prepare import Prepared, find_plants, left_out, prepare
from simulation.workers import Task, Workers

#: Called with a phase, how many of its steps are done, how many there are, and a few words.
Watch = Callable[[str, int, int, str], None]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to simulate.

    Attributes
    ----------
    base : folder of federation.toml; relative paths in it start there.
    data : folder of plants.
    out : run folder; further seeds go to ``out/seeds/<seed>``.
    seeds : how many, from ``config.seed`` on.
    plants : only these; empty means all in ``data``.
    pooled : whether to train the pooled bound too.
    alone : methods of one plant that every plant trains first.
    together : whether to hold rounds; otherwise the plants stay alone.
    start : a finished run folder whose models of plants alone are taken over (by seed).
    """

    config: FederationConfig
    base: Path
    data: Path
    out: Path
    engine: Literal["local", "flower"] = "local"
    workers: int = 1
    seeds: int = 1
    plants: tuple[str, ...] = ()
    resume: bool = False
    pooled: bool = True
    alone: tuple[str, ...] = ("head_only", "local")
    together: bool = True
    start: Path | None = None

    def homes(self) -> dict[int, Path]:
        """Return the run folder of each seed."""
        return {seed: self.home(self.out, seed) for seed in self.all_seeds}

    @property
    def all_seeds(self) -> range:
        return range(self.config.seed, self.config.seed + self.seeds)

    def home(self, out: Path, seed: int) -> Path:
        return out if seed == self.config.seed else out / "seeds" / str(seed)


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One plant's test predictions by variant, and what it deployed.

    Attributes
    ----------
    scores : of each variant, as the task gives them (`client.tasks.Task.scores`).
    pictures : of the deployed model, as the task's report has them (`simulation.pictures`).
    views : of examples that are no pictures themselves, data URIs by name.
    """

    predictions: Mapping[str, Prediction]
    source: str
    why: str
    scores: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    pictures: tuple[Picture, ...] = ()
    views: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SeedRun:
    """What one seed gave.

    Attributes
    ----------
    seconds : by phase.
    alone : seconds of each method of one plant alone, added up over the plants.
    """

    seed: int
    prepared: Prepared
    judged: Mapping[str, Judged]
    seconds: Mapping[str, float]
    alone: Mapping[str, float] = field(default_factory=dict)


@dataclass(kw_only=True)
class _Phases:
    """Seconds by phase."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - start, 3)


def run(plan: Plan, *, watch: Watch) -> list[SeedRun]:
    """Run every seed of a plan.

    Raises
    ------
    TransferlineError
        For whatever the user can mend; what is on disk stays good for ``--resume``.
    """
    used = any((plan.out / name).exists() for name in (RUN, "plants", "results.json"))
    if used and not plan.resume:
        raise StateError(
            f"--out must be a new or empty folder, got {plan.out}, which holds a run; continue it "
            "with --resume or choose another"
        )
    if plan.resume and not used and plan.start is None:
        watch("warning", 0, 0, f"nothing to resume in {plan.out}; starting")
    data = _plants(plan, watch=watch)
    with Workers(plan.workers) as workers:
        return [
            run_seed(
                home,
                plan=plan,
                config=plan.config.model_copy(update={"seed": seed}),
                data=data,
                workers=workers,
                watch=watch,
            )
            for seed, home in plan.homes().items()
        ]


def _plants(plan: Plan, *, watch: Watch) -> dict[str, Path]:
    """Find the plants, and name the folders that look like none, unless plants were chosen."""
    config = plan.config
    data = find_plants(plan.data, wanted=plan.plants, task=config.task)
    passed = [] if plan.plants else left_out(plan.data, task=config.task)
    for name in passed if plan.start is None else []:
        watch("warning", 0, 0, f"{name}: left out, --data must hold {TASKS[config.task].layout}")
    if config.rounds and len(data) < config.min_plants:
        without = f"; left out: {', '.join(passed)}" if passed else ""
        raise ConfigError(
            f"min_plants must be at most the number of plants, {len(data)}, got "
            f"{config.min_plants}{without}"
        )
    return data


def run_seed(
    home: Path,
    *,
    plan: Plan,
    config: FederationConfig,
    data: Mapping[str, Path],
    workers: Workers,
    watch: Watch,
) -> SeedRun:
    """Run one seed in its run folder."""
    phase = _Phases()
    if plan.start is not None:
        _take_over(plan.home(plan.start, config.seed), home)
    with phase("data"), ExitStack() as undo:
        if not (home / "plants").exists():
            # A try that is refused for its data leaves the folder as free as it was.
            undo.callback(shutil.rmtree, home / "plants", ignore_errors=True)
        prepared = prepare(home, config=config, base=plan.base, data=data, workers=workers)
        undo.pop_all()
    for warning in prepared.warnings:
        watch("warning", 0, 0, warning)
    with phase("baselines"):
        trained = _train_alone(prepared, plan=plan, workers=workers, watch=watch)
    if plan.together:
        with phase("rounds"):
            _hold_rounds(prepared, plan=plan, workers=workers, watch=watch)
    with phase("report"):
        judged = _judge(prepared, trained, workers=workers, watch=watch)
    return SeedRun(
        seed=config.seed,
        prepared=prepared,
        judged=judged,
        seconds=phase.seconds,
        alone=trained.seconds,
    )


# -- each plant alone, and all in one place ------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Alone:
    """What plants trained alone.

    Attributes
    ----------
    versions : numbers of the models, by plant and method.
    seconds : by method, added up over the plants.
    pooled : the pooled model's predictions by plant; None where there is none.
    """

    versions: Mapping[str, Mapping[str, int]]
    seconds: Mapping[str, float]
    pooled: list[Pooled] | None


def train_alone(
    folder: Path, method: str, source: Release, config: FederationConfig
) -> tuple[Version, float]:
    """Let the plant in a folder train alone, in whatever process this runs; seconds beside it."""
    plant, started = open_plant(folder), time.monotonic()
    version = plant.train_alone(method, source=source, config=config)
    return version, time.monotonic() - started


def _train_alone(prepared: Prepared, *, plan: Plan, workers: Workers, watch: Watch) -> _Alone:
    job = prepared.job
    tasks = [
        Task(place, train_alone, (prepared.folder(name), method, job.source, job.config))
        for method in plan.alone
        for place, name in enumerate(prepared.plants)
    ]
    labels = [(name, method) for method in plan.alone for name in prepared.plants]
    if plan.pooled:
        folders = prepared.folders
        pooled_task = Task(
            len(folders), train_pooled, (prepared.home, folders, job.config, job.source)
        )
        tasks.append(pooled_task)
        labels.append(("all plants", "pooled"))
    versions: dict[str, dict[str, int]] = {name: {} for name in prepared.plants}
    seconds = dict.fromkeys(plan.alone, 0.0)
    pooled: list[Pooled] | None = None
    watch("training alone", 0, len(tasks), "")
    for done, (position, result) in enumerate(workers.every(tasks), start=1):
        name, method = labels[position]
        watch("training alone", done, len(tasks), f"{name}: {method}")
        if method == "pooled" and isinstance(result, str):
            watch("warning", 0, 0, f"no pooled model: {result}")
        elif method == "pooled":
            pooled = result
        else:
            version, took = result
            versions[name][method] = version.number
            seconds[method] += took
    return _Alone(versions=versions, seconds=seconds, pooled=pooled)


def _take_over(start: Path, home: Path) -> None:
    """Copy what plants trained alone from another run folder, unless this one has its own."""
    for part in ("plants", "pooled"):
        if (start / part).is_dir() and not (home / part).exists():
            try:
                shutil.copytree(start / part, home / f".{part}")
                (home / f".{part}").rename(home / part)
            except OSError as error:
                raise unwritable(home / part, error) from error


# -- together ------------------------------------------------------------------------------------


def _hold_rounds(prepared: Prepared, *, plan: Plan, workers: Workers, watch: Watch) -> None:
    """Hold the rounds and the adoption on the engine of the plan."""
    job = prepared.job
    total = (job.config.rounds + 1) * len(prepared.plants)
    done = 0

    def tell(event: Event) -> None:
        nonlocal done
        if isinstance(event, ReplyArrived):
            done += 1
            note = f"round {event.round}: {event.plant} {event.outcome}"
            watch("learning together", min(done, total), total, f"{note} {event.reason}".rstrip())
        elif isinstance(event, RoundClosed) and event.outcome != "committed":
            watch("warning", 0, 0, f"round {event.round} {event.outcome}: {event.reason}")

    watch("learning together", 0, total, "")
    if plan.engine == "flower":
        from simulation.flower import run_flower  # noqa: PLC0415  Ray is an extra

        run_flower(prepared.home, plants=len(prepared.plants), workers=plan.workers, events=tell)
        return
    fleet = LocalFleet(prepared.home, plants=list(prepared.plants), workers=workers)
    Federation(
        Place(home=prepared.home, papers=lambda: papers_of(prepared.home / PKI)),
        fleet=fleet,
        config=job.config,
        source=job.source,
        travelling=job.travelling,
        run=job.run,
        events=tell,
    ).run()


# -- judged --------------------------------------------------------------------------------------


def judge(folder: Path, config: FederationConfig, versions: Mapping[str, int]) -> Judged:
    """Judge a plant's test examples with each of its models; each model runs once."""
    plant = open_plant(folder)
    deployed = plant.store.deployed()
    if deployed is None:
        raise StateError(f"{folder} must have a deployed model, got none; continue with --resume")
    numbers = {**versions, "deployed": deployed.version}
    federated = [v.number for v in plant.store.versions() if v.kind == "federated"]
    if federated:
        numbers["federated"] = federated[-1]
    once = {number: plant.test(number, config=config) for number in set(numbers.values())}
    task, data = plant.task(config), plant.data(config)
    scored = {number: task.scores(one, data=data) for number, one in once.items()}
    predictions = {variant: once[number] for variant, number in numbers.items()}
    scene = Scene(plant=plant, config=config, version=deployed.version, predictions=predictions)
    return Judged(
        predictions=predictions,
        source=deployed.source,
        why=deployed.why,
        scores={variant: scored[number] for variant, number in numbers.items()},
        pictures=pictures_of(scene),
        views=views_of(scene),
    )


def _judge(
    prepared: Prepared, trained: _Alone, *, workers: Workers, watch: Watch
) -> dict[str, Judged]:
    config = prepared.job.config
    names = list(prepared.plants)
    tasks = [
        Task(place, judge, (prepared.folder(name), config, trained.versions[name]))
        for place, name in enumerate(names)
    ]
    judged: dict[str, Judged] = {}
    watch("judging", 0, len(tasks), "")
    for done, (position, result) in enumerate(workers.every(tasks), start=1):
        name = names[position]
        if trained.pooled:
            extra, scores = trained.pooled[position]
            result = replace(
                result,
                predictions={**result.predictions, "pooled": extra},
                scores={**result.scores, "pooled": scores},
            )
        judged[name] = result
        watch("judging", done, len(tasks), name)
    return {name: judged[name] for name in names}
