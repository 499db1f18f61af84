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
from simulation.factory import write_plants
from simulation.made_up import DEMOS

app = terminal.command_line(about="Simulate plants that learn together, on folders of their data.")

#: What a demo writes.
DEMO = ("data", "run", "report.html")


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
    config = _config(file, labels_per_class)
    with terminal.loading():
        from simulation import running  # noqa: PLC0415  loads torch
    plan = running.Plan(
        config=config,
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
    running.run(plan)


@app.command()
def compare(
    file: ConfigFile,
    data: DataFolder,
    out: OutFolder,
    methods: Annotated[
        str, typer.Option(help="Methods, separated by commas; see above.")
    ] = "local,fedper,fedrep,fedbn,ditto",
    workers: WorkerCount = 1,
    seeds: SeedCount = 1,
    labels_per_class: Labels = None,
    plants: PlantNames = "",
    resume: Resume = False,
) -> None:
    """Run several methods on the same split and seeds, and draw them side by side.

    Methods in rounds: fedavg, fedprox, fedper, fedrep, fedbn, ditto, simclr.

    References, each plant alone: local (fine-tuning; fine_tune is the same),
    head_only (a head on frozen features), l2sp (fine-tuning held to the source).
    Not here: pooled, which `run` trains beside its method.

    Example: transferline-sim compare federation.toml --data plants --out out/compare
    """
    config = _config(file, labels_per_class)
    with terminal.loading():
        from simulation import running  # noqa: PLC0415  loads torch
    plan = running.Plan(
        config=config,
        base=file.parent,
        data=data,
        out=out,
        workers=workers,
        seeds=seeds,
        plants=_names(plants),
        resume=resume,
        pooled=False,
    )
    running.compare(plan, _names(methods))


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
    config, counts = load_federation(file), _counts(labels)
    with terminal.loading():
        from simulation import running  # noqa: PLC0415  loads torch
    if KINDS[config.task].images:
        running.ask_of_plants(data)
    with running.Display() as display:
        rows = running.onboard(
            config,
            base=file.parent,
            release=release,
            data=data,
            labels=counts,
            seeds=seeds,
            out=out,
            watch=display,
        )
    running.print_onboarding(rows, out=out)


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
    with terminal.loading():
        from simulation import running  # noqa: PLC0415  loads torch
    running.split(data, out, plants=plants, labels=labels, cameras=cameras, seed=seed)


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
    """Let made-up plants learn together, from scratch, in under two minutes (images: three).

    Nothing is downloaded; the time is that of two free cores.

    Example: transferline-sim demo --task tabular
    """
    if task not in DEMOS:
        raise ConfigError(f"--task must be one of {', '.join(DEMOS)}, got {task!r}; choose one")
    out = out or Path("out/demo" if task == "images" else f"out/demo-{task}")
    there = {path.name for path in out.glob("[!.]*")}
    if foreign := sorted(there.difference(DEMO)):
        raise StateError(
            f"{out} must be new or an earlier demo's, it holds {foreign[0]}; choose another --out"
        )
    with terminal.loading():
        from simulation import running  # noqa: PLC0415  loads torch
    data = out / "data"
    if not data.is_dir():
        part = out / ".data.part"
        shutil.rmtree(part, ignore_errors=True)
        DEMOS[task].write(part)
        part.rename(data)
    config = FederationConfig.model_validate(DEMOS[task].settings)
    run_folder = out / "run"
    resume = (run_folder / "run.json").exists()
    plan = running.Plan(
        config=config, base=out, data=data, out=run_folder, workers=workers, resume=resume
    )
    running.run(plan, report=out / "report.html")


def main() -> None:
    """Run the command line."""
    terminal.run(app)


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
