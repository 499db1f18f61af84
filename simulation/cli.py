"""``transferline-sim``: try a federation on one machine before anyone's line is touched."""

from __future__ import annotations

import shutil
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from common import terminal
from common.config import FederationConfig, load_federation, template
from common.errors import ConfigError, StateError
from common.files import write_atomic
from common.tasks import KINDS
from common.toml import validate
from simulation.collect import collect
from simulation.compare import compare as compare_methods
from simulation.factory import write_plants
from simulation.made_up import DEMOS
from simulation.onboard import Onboarding
from simulation.onboard import onboard as onboard_plant
from simulation.report import write_report
from simulation.results import save_results, write_plants_csv
from simulation.run import Plan
from simulation.run import run as run_plan
from simulation.split import split_product
from simulation.table import print_table
from simulation.watch import Display

app = terminal.command_line(about="Simulate plants that learn together, on folders of their data.")


class Engine(StrEnum):
    """Where plants run."""

    LOCAL = "local"
    FLOWER = "flower"


ConfigFile = Annotated[Path, typer.Argument(help="federation.toml; `init` writes one.")]
DataFolder = Annotated[
    Path,
    typer.Option("--data", help="ROOT/<plant>/ with each plant's data; images: <class>/ folders."),
]
OutFolder = Annotated[Path, typer.Option("--out", help="Where results and state go.")]
WorkerCount = Annotated[int, typer.Option("--workers", help="Processes to train in.")]
SeedCount = Annotated[int, typer.Option("--seeds", min=1, help="Repeat with this many seeds.")]
Labels = Annotated[
    int | None,
    typer.Option(
        "--labels-per-class", min=2, help="Labelled examples a class; overrides the file."
    ),
]
PlantNames = Annotated[
    str, typer.Option("--plants", help="Only these plants, separated by commas.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue a run that was stopped.")]
Pooled = Annotated[bool, typer.Option(help="Also train on all plants' data in one place.")]


@app.command()
def run(
    file: ConfigFile,
    data: DataFolder,
    out: OutFolder,
    engine: Annotated[Engine, typer.Option(help="Where plants run.")] = Engine.LOCAL,
    workers: WorkerCount = 1,
    seeds: SeedCount = 1,
    labels_per_class: Labels = None,
    plants: PlantNames = "",
    resume: Resume = False,
    pooled: Pooled = True,
) -> None:
    """Run a federation and report what it gave each plant.

    Example: transferline-sim run federation.toml --data plants --out out/first --workers 2
    """
    plan = Plan(
        config=_config(file, labels_per_class),
        base=file.parent,
        data=data,
        out=out,
        engine=engine.value,
        workers=workers,
        seeds=seeds,
        plants=_names(plants),
        resume=resume,
        pooled=pooled,
    )
    _run(plan)


@app.command()
def compare(
    file: ConfigFile,
    data: DataFolder,
    out: OutFolder,
    methods: Annotated[
        str, typer.Option(help="Methods, separated by commas.")
    ] = "local,fedper,fedrep,fedbn,ditto",
    workers: WorkerCount = 1,
    seeds: SeedCount = 1,
    labels_per_class: Labels = None,
    plants: PlantNames = "",
    resume: Resume = False,
) -> None:
    """Run several methods on the same split and seeds, and draw them side by side.

    Example: transferline-sim compare federation.toml --data plants --out out/compare
    """
    plan = Plan(
        config=_config(file, labels_per_class),
        base=file.parent,
        data=data,
        out=out,
        workers=workers,
        seeds=seeds,
        plants=_names(plants),
        resume=resume,
        pooled=False,
    )
    with Display() as display:
        comparison = compare_methods(plan, _names(methods), watch=display)
    console = terminal.console()
    for name, found in comparison.methods.items():
        console.print(
            f"{name:<10} {found.mean.value:.3f}  ({found.mean.low:.3f} to {found.mean.high:.3f})"
            + (f"   deployed {found.deployed.mean.value:.3f}" if found.deployed else "")
        )
    console.print(f"report: {out / 'report.html'}")


@app.command()
def onboard(
    file: ConfigFile,
    release: Annotated[Path, typer.Option(help="A release folder, OUT/releases/<n>.")],
    data: Annotated[Path, typer.Option(help="The joining plant's folder of data.")],
    out: OutFolder = Path("out/onboard"),
    labels: Annotated[str, typer.Option(help="Labels a class to try.")] = "5,10,20,50",
    seeds: SeedCount = 3,
) -> None:
    """Say what a plant that joins late gets from the shared backbone.

    Example: transferline-sim onboard federation.toml --release out/first/releases/10
    --data plants/plant-5 --labels 5,20
    """
    counts = _counts(labels)
    with Display() as display:
        rows = onboard_plant(
            load_federation(file),
            base=file.parent,
            release=release,
            data=data,
            labels=counts,
            seeds=seeds,
            out=out,
            watch=display,
        )
    console = terminal.console()
    console.print("labels  from source              from release             gain")
    for row in rows:
        console.print(_onboarding(row))
    console.print(f"written: {out / 'onboard.json'}")


@app.command()
def plants(
    out: Annotated[Path, typer.Option(help="Where the plants' folders go.")],
    plants: Annotated[int, typer.Option("--plants", min=1, help="How many.")] = 4,
    images_per_class: Annotated[int, typer.Option(min=5, help="Images a class.")] = 60,
    size: Annotated[int, typer.Option(min=32, help="Side of an image, pixels.")] = 96,
    seed: Annotated[int, typer.Option(min=0, help="Of everything drawn.")] = 0,
) -> None:
    """Write made-up plants as image folders, to look at and to try.

    Example: transferline-sim plants --out plants --plants 4
    """
    for folder in write_plants(
        out, plants=plants, images_per_class=images_per_class, size=size, seed=seed
    ):
        terminal.console().print(str(folder))


@app.command()
def split(
    data: Annotated[Path, typer.Option(help="One product: a folder of class folders.")],
    out: Annotated[Path, typer.Option(help="Where the plants' folders go.")],
    plants: Annotated[int, typer.Option("--plants", min=2, help="How many.")] = 4,
    labels: Annotated[str, typer.Option(help="`iid` or `dirichlet:0.3`.")] = "iid",
    cameras: Annotated[bool, typer.Option("--cameras", help="Each its own camera.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the split and the cameras.")] = 0,
) -> None:
    """Cut one product's images into plants, each with its own camera.

    Example: transferline-sim split --data images/steel --out steel-4 --plants 4 --cameras
    """
    cut = split_product(data, out, plants=plants, labels=labels, cameras=cameras, seed=seed)
    console = terminal.console()
    for plant, counts in cut.counts.items():
        shares = ", ".join(f"{name} {count}" for name, count in counts.items())
        console.print(f"{plant}: {shares}")
    if cut.left_out:
        console.print(f"left out: {cut.left_out} images of classes too small at their plant")
    for item in cut.skipped:
        terminal.errors().print(f"skipped {item.file}: {item.why}")
    console.print(f"written: {out}")


@app.command()
def init(
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("federation.toml"),
    task: Annotated[
        str, typer.Option(help=f"What the plants learn: {', '.join(KINDS)}.")
    ] = "image-classification",
) -> None:
    """Write a commented federation.toml with every key of a task at its default.

    Example: transferline-sim init --task text-classification
    """
    if out.exists():
        raise StateError(f"{out} must be a new file, got one that exists; choose another --out")
    settings = validate(FederationConfig, {"task": task}, name="--task")
    write_atomic(out, template(settings).encode())
    terminal.console().print(f"written: {out}")


@app.command()
def demo(
    task: Annotated[
        str, typer.Option(help=f"What the plants learn from: {', '.join(DEMOS)}.")
    ] = "images",
    out: Annotated[
        Path | None, typer.Option("--out", help="Where all goes; default: out/demo[-TASK].")
    ] = None,
    workers: WorkerCount = 2,
) -> None:
    """Let made-up plants learn together, from scratch; no download, under three minutes.

    Example: transferline-sim demo --task tabular
    """
    if task not in DEMOS:
        raise ConfigError(f"--task must be one of {', '.join(DEMOS)}, got {task!r}; choose one")
    out = out or Path("out/demo" if task == "images" else f"out/demo-{task}")
    data = out / "data"
    if not data.is_dir():
        part = out / ".data.part"
        shutil.rmtree(part, ignore_errors=True)
        DEMOS[task].write(part)
        part.rename(data)
    config = FederationConfig.model_validate(DEMOS[task].settings)
    run_folder = out / "run"
    resume = (run_folder / "run.json").exists()
    plan = Plan(config=config, base=out, data=data, out=run_folder, workers=workers, resume=resume)
    _run(plan, report=out / "report.html")


def main() -> None:
    """Run the command line."""
    terminal.run(app)


def _run(plan: Plan, *, report: Path | None = None) -> None:
    with Display() as display:
        results = collect(plan, run_plan(plan, watch=display))
    save_results(plan.out / "results.json", results)
    write_plants_csv(plan.out / "plants.csv", results)
    report = report or plan.out / "report.html"
    write_report(results, report)
    console = terminal.console()
    print_table(results, console)
    console.print(f"report: {report}")


def _config(file: Path, labels: int | None) -> FederationConfig:
    config = load_federation(file)
    return config.model_copy(update={"labels_per_class": labels}) if labels else config


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _counts(text: str) -> list[int]:
    names = _names(text)
    if not names or not all(name.isdigit() and int(name) >= 2 for name in names):
        raise ConfigError(f"--labels must be numbers from 2 on, like 5,10,20; got {text!r}")
    return [int(name) for name in names]


def _onboarding(row: Onboarding) -> str:
    if row.source is None or row.release is None or row.gain is None:
        return f"{row.labels:>6}  {row.problem}"
    spans = (
        f"{span.value:.3f} ({span.low:.3f} to {span.high:.3f})"
        for span in (row.source, row.release)
    )
    gain = f"{row.gain.value:+.3f} ({row.gain.low:+.3f} to {row.gain.high:+.3f})"
    return f"{row.labels:>6}  {'   '.join(spans)}   {gain}"
