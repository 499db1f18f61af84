"""What the shared backbone gives a plant that joins late, at so many labels a class.

The same recipe starts once from the source weights and once from a release, on the same images,
for several draws of the labelled ones; both models judge the same test images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from client.plant import Plant
from client.tasks.metrics import Interval, Prediction, interval, paired_interval
from common.backbone import load_source, read_tensors
from common.config import FederationConfig, PlantConfig, PlantSection
from common.errors import DataError, StateError
from common.files import write_json
from common.orders import Release
from common.tasks import measure_of
from common.update import Schema
from server.releases import MANIFEST, read_manifest, read_release


@dataclass(frozen=True, kw_only=True)
class Onboarding:
    """What a number of labels a class gives; without figures, ``problem`` says why."""

    labels: int
    source: Interval | None = None
    release: Interval | None = None
    gain: Interval | None = None
    problem: str = ""


def onboard(
    config: FederationConfig,
    *,
    base: Path,
    release: Path,
    data: Path,
    labels: Sequence[int],
    seeds: int,
    out: Path,
    watch: Callable[[str, int, int, str], None],
) -> list[Onboarding]:
    """Try every number of labels and write ``out/onboard.json``.

    Raises
    ------
    TransferlineError
        If the release does not fit the configuration, or the plant's data does not do at all.
    """
    if not (release / MANIFEST).is_file():
        names = [path.parent.name for path in release.parent.glob(f"*/{MANIFEST}")]
        there = sorted(int(name) for name in names if name.isdigit())  # others are being written
        raise StateError(
            f"--release must be OUT/releases/<n>, got {release}; there are "
            f"{', '.join(map(str, there)) or 'none'}"
        )
    received = read_release(release)
    manifest = read_manifest(release)
    if manifest.backbone != config.backbone:
        raise StateError(
            f"--release must be of backbone {config.backbone}, got {manifest.backbone}; use the "
            "federation.toml of the run that made it"
        )
    config, source = _source(config, base)
    starts = {"source": source, "release": _without_head(received)}
    rows = []
    done, total = 0, len(labels) * seeds * 2
    for count in labels:
        found: dict[str, list[Prediction]] = {"source": [], "release": []}
        problem = ""
        for seed in range(config.seed, config.seed + seeds):
            plant = _plant(out / f"{count}-labels" / str(seed), data, config, count, seed)
            try:
                for name, start in starts.items():
                    found[name].append(_judge(plant, start, config, seed))
                    done += 1
                    watch("onboarding", done, total, f"{count} labels a class, from {name}")
            except DataError as error:
                problem = str(error)
                break
        rows.append(_row(count, found, problem, measure_of(config).name))
    if all(row.problem for row in rows):
        raise DataError(rows[0].problem)
    write_json(
        out / "onboard.json",
        {"version": 1, "plant": data.name, "release": received.hash, "rows": [*map(asdict, rows)]},
    )
    return rows


def _row(count: int, found: dict[str, list[Prediction]], problem: str, metric: str) -> Onboarding:
    if problem:
        return Onboarding(labels=count, problem=problem)
    return Onboarding(
        labels=count,
        source=interval(found["source"], metric=metric),
        release=interval(found["release"], metric=metric),
        gain=paired_interval(found["release"], found["source"], metric=metric),
    )


def _judge(plant: Plant, start: Release, config: FederationConfig, seed: int) -> Prediction:
    seeded = config.model_copy(update={"seed": seed})
    version = plant.train_alone("local", source=start, config=seeded)
    return plant.test(version.number, config=seeded)


def _plant(folder: Path, data: Path, config: FederationConfig, labels: int, seed: int) -> Plant:
    section = config.plants.get(data.name, PlantSection())
    settings = PlantConfig(
        name=data.name,
        data=str(data.resolve()),
        classes=section.classes,
        good=section.good,
        labels_per_class=labels,
        test_per_class=config.test_per_class,
        seed=seed,
        device=config.device,
    )
    return Plant.create(folder, settings)


def _source(config: FederationConfig, base: Path) -> tuple[FederationConfig, Release]:
    source = load_source(config, base=base)
    config = source.config.model_copy(update={"classes": ()})
    tensors = read_tensors(source.network)
    schema = Schema.of({n: v for n, v in tensors.items() if not n.startswith(("head.", "stem."))})
    vector = schema.flatten({name: tensors[name] for name in schema.shapes})
    return config, Release(number=0, schema=schema, vector=vector)


def _without_head(release: Release) -> Release:
    """Leave out a head that travelled: a joining plant has its own classes."""
    schema = release.schema.subset(
        frozenset(name for name in release.schema.shapes if not name.startswith("head."))
    )
    tensors = release.schema.unflatten(release.vector)
    vector = schema.flatten({name: tensors[name] for name in schema.shapes})
    return Release(number=release.number, schema=schema, vector=vector)
