"""All plants' data in one place, which only a simulation may have."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from client.selection import fit_and_choose, judged, labelled
from client.tasks.data import PlantData
from client.tasks.pooling import pool, starts
from client.training import Trainer
from common.backbone import Network

Toy = Callable[..., PlantData]


@pytest.mark.parametrize("folds", [(3, 3), (2, 3), (1, 3), (1, 1)])
def test_pooled_folds_are_those_of_the_plants(toy: Toy, folds: tuple[int, int]) -> None:
    plants = [toy(folds=count) for count in folds]
    pooled = pool(plants)

    assert len(pooled.folds) == max(folds)
    assert torch.equal(pooled.folds[0][0], pooled.train)
    assert torch.equal(pooled.folds[0][1], pooled.validation)
    every = sorted(labelled(pooled).tolist())
    for train, held in pooled.folds:
        assert sorted([*train.tolist(), *held.tolist()]) == every
    for plant, start in zip(plants, starts(plants), strict=True):
        assert set((judged(plant) + start).tolist()) <= set(judged(pooled).tolist())


def test_pooled_is_trained_on_as_many_labels_as_the_plants_together(
    toy: Toy, trainer_of: Callable[..., Trainer], tiny: Callable[[], Network]
) -> None:
    """Below ten labels a class each plant is trained on all of its own in the end."""
    plants = [toy(folds=3), toy(folds=3)]
    trained: list[int] = []

    def fit(network: Network, indices: torch.Tensor, after: Callable[[Network], bool]) -> None:
        trained.append(len(indices))
        after(network)

    fit_and_choose(tiny(), trainer_of(pool(plants)), fit)

    assert trained[-1] == sum(len(labelled(plant)) for plant in plants)
