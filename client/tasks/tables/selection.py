"""Which rows and columns of a table a plant uses: its own word first, then the federation's."""

from __future__ import annotations

from dataclasses import dataclass

from client.tasks.split import Quota
from common.config import FederationConfig, PlantConfig
from common.config.table import TableColumns


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which rows and columns to use, and how.

    Attributes
    ----------
    columns : target, what is dropped, what is a category, groups; of plant.toml, or of the
        federation where that says nothing.
    classes : names of the target's classes to use, in this order; empty: all, sorted.
    shared : columns that every plant has, each with its range or its names.
    typical : what the federation says of a column's size.
    bins : pieces between quantiles.
    """

    columns: TableColumns
    quota: Quota
    classes: tuple[str, ...] = ()
    good: str = ""
    shared: tuple[tuple[str, tuple[float | str, ...]], ...] = ()
    typical: tuple[tuple[str, float], ...] = ()
    bins: int = 16

    @classmethod
    def of(cls, config: FederationConfig, settings: PlantConfig) -> Selection:
        own, shared = settings.table, config.table
        return cls(
            columns=TableColumns(
                target=own.target or shared.target,
                drop=own.drop or shared.drop,
                categories=own.categories or shared.categories,
                group=own.group or shared.group,
            ),
            quota=Quota(
                seed=settings.seed, labels=settings.labels_per_class, test=settings.test_per_class
            ),
            classes=settings.classes,
            good=settings.good,
            shared=tuple(shared.shared.items()),
            typical=tuple(sorted(shared.typical.items())),
            bins=shared.bins,
        )
