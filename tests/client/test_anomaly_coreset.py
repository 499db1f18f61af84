from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from client.anomaly import coreset as module
from client.anomaly.coreset import coreset


def points(count: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def radius(patches: torch.Tensor, chosen: torch.Tensor) -> float:
    return float(torch.cdist(patches, patches[chosen]).min(dim=1).values.max())


@given(
    count=st.integers(5, 60), size=st.integers(1, 12), width=st.integers(1, 6), seed=st.integers(0)
)
def test_no_patch_is_further_than_the_picked_are_from_each_other(
    count: int, size: int, width: int, seed: int
) -> None:
    """Gonzalez 1985: what makes greedy k-centre at most twice as wide as the best choice."""
    patches = points(count, width, seed % 1000)
    chosen = coreset(patches, size=size, seed=seed % 7)
    assert len(set(chosen.tolist())) == min(size, count)
    if 1 < len(chosen) < count:
        between = torch.cdist(patches[chosen], patches[chosen])
        between.fill_diagonal_(torch.inf)
        assert radius(patches, chosen) <= float(between.min()) + 1e-3


def test_rare_texture_stays() -> None:
    patches = torch.cat([points(500, 4, 0), points(3, 4, 1) + 30])
    assert (coreset(patches, size=10, seed=0) >= 500).any()


def test_it_repeats_and_follows_its_seed() -> None:
    patches = points(200, 4, 2)
    first = coreset(patches, size=10, seed=0)
    assert torch.equal(first, coreset(patches, size=10, seed=0))
    assert not torch.equal(first, coreset(patches, size=10, seed=1))


def test_wide_features_are_projected_and_still_covered() -> None:
    patches = points(300, 900, 3)
    chosen = coreset(patches, size=30, seed=0)
    drawn = torch.randperm(300, generator=torch.Generator().manual_seed(5))[:30]
    assert radius(patches, chosen) < 1.1 * radius(patches, drawn)


def test_more_than_can_be_searched_are_drawn(monkeypatch: object) -> None:
    before, module.MOST = module.MOST, 50
    try:
        assert len(coreset(points(400, 3, 0), size=80, seed=0)) == 50
        assert len(coreset(points(40, 3, 0), size=80, seed=0)) == 40
    finally:
        module.MOST = before
