"""plant.toml: what one plant knows of itself, and what it will not do for anybody."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, Strict

from common.config.anomaly import PlantAnomalySection
from common.config.privacy import Delta
from common.config.section import ClassNames, NotNegative, Section
from common.config.series import PlantSeriesSection
from common.config.table import TableColumns
from common.config.text import PlantTextSection
from common.toml import read_toml, validate

Names = Annotated[tuple[str, ...], Strict(False)]
Hours = Annotated[str, Field(pattern=r"^(([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d)?$")]


class CentreSection(Section):
    """Where the centre is; written by `transferline-plant join`."""

    federation: str = Field("", description="Name of the federation.")
    fleet: str = Field("", description="Address of the centre's TLS edge, `host:port`.")
    enrolment: str = Field("", description="Address of the centre's enrolment, `host:port`.")


class LinkSection(Section):
    """The link: the only part of a plant that talks to the centre."""

    user: str = Field(
        "",
        description="User (name or number) that the link runs as, with no right to read the data; "
        "needs `up` as root. Empty: the user of the daemon, which is for trials.",
    )
    socket: str = Field(
        "link/plant.sock", min_length=1, description="The daemon's socket, in this folder."
    )
    listen: str = Field(
        "",
        description="`host:port` for a link in another zone: TCP with mutual TLS takes the place "
        "of the socket.",
    )


class PolicySection(Section):
    """What an order may ask for. An order outside it is declined, and the operator sees why."""

    minimum_cohort: int = Field(2, ge=1, description="Fewest plants in an order's cohort.")
    methods: Names = Field((), description="Methods allowed; empty means all.")
    backbones: Names = Field((), description="Backbones allowed; empty means all.")
    protection: Names = Field(
        (),
        description="Protection that an order must ask for; empty means none is needed.",
        examples=[("secure-aggregation",)],
    )
    sum_cohort: int | None = Field(
        None,
        ge=3,
        le=100,
        description="Fewest plants of a secure sum, this one included; default: a little over two "
        "thirds of the plants accepted here and this one, 3 at least.",
    )
    sum_bound: float = Field(
        10.0, gt=0, description="Largest bound of a value that a secure sum may ask for."
    )
    sum_weight: int = Field(
        1_000_000, ge=1, description="Largest `server.max_weight` that a secure sum may ask for."
    )
    sum_bits: int = Field(
        32, ge=2, le=32, description="Most bits of a value that a secure sum may ask for."
    )
    contributions_per_release: int = Field(
        4,
        ge=1,
        description="How often an update of one release may be sent under masks: two sums with "
        "other survivors can be subtracted. A round that is broken off counts too.",
    )
    hours: Hours = Field(
        "",
        description="Local time in which the plant may train; empty means always.",
        examples=["22:00-06:00"],
    )
    rounds_per_day: int | None = Field(None, ge=1, description="Most rounds in 24 hours.")
    privacy_budget: float | None = Field(
        None,
        gt=0,
        description="Most epsilon that all rounds together may cost this plant, counted for each "
        "unit of privacy; a round that would cost more, or has no noise, is declined before "
        "training. Not set: no limit.",
        examples=[8.0],
    )
    privacy_delta: Delta = Field(
        1e-5, description="The delta that goes with the budget; well below one in the images."
    )
    gpu_memory_share: float = Field(
        1.0, gt=0, le=1, description="Share of the GPU's memory that training may take."
    )
    bandwidth: float | None = Field(
        None, gt=0, description="Most megabytes a second between daemon and link."
    )
    disk_free: NotNegative = Field(1.0, description="Gigabytes of disk that stay free.")
    longest_round: float = Field(
        6 * 3600.0, gt=0, description="Seconds after which training is stopped, whatever was asked."
    )


class PlantConfig(Section):
    """plant.toml."""

    name: str = Field(min_length=1, max_length=64, description="The plant's name in reports.")
    data: str = Field(
        min_length=1, description="Folder of the data: for images one folder a class, for other "
        "tasks their files; absolute, or relative to this file."
    )  # fmt: skip
    classes: ClassNames = Field((), description="Use only these class folders; empty means all.")
    good: str = Field(
        "",
        description="The class of good parts; escape rate needs it, and `image-anomaly`, which "
        "learns from it alone.",
    )
    labels_per_class: int | None = Field(
        None,
        ge=2,
        description="Labelled examples a class (of a table's numbers: a fifth of their range by "
        "rank; of a series' numbers: all together), training and validation together.",
    )
    test_per_class: int | None = Field(
        None, ge=1, description="At most this many test examples a class."
    )
    seed: int = Field(0, ge=0, description="Of the split.")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="Where to train.")
    adoption_margin: NotNegative = Field(
        0.0,
        description="How much worse on validation a release may be and still be adopted: in "
        "probability of the truth for classes, in share of the variance for numbers.",
    )
    metrics: str = Field(
        "",
        description="`host:port` or `unix:PATH` of the plant's Prometheus metrics; empty: none.",
        examples=["127.0.0.1:9465"],
    )  # fmt: skip
    series: PlantSeriesSection = Field(default_factory=lambda: PlantSeriesSection())
    table: TableColumns = Field(default_factory=lambda: TableColumns())
    anomaly: PlantAnomalySection = Field(default_factory=lambda: PlantAnomalySection())
    centre: CentreSection = Field(default_factory=lambda: CentreSection())
    link: LinkSection = Field(default_factory=lambda: LinkSection())
    policy: PolicySection = Field(default_factory=lambda: PolicySection())
    text: PlantTextSection = Field(default_factory=lambda: PlantTextSection())


def load_plant(path: Path) -> PlantConfig:
    """Read plant.toml; as `load_federation`."""
    return validate(PlantConfig, read_toml(path), name=str(path))
