"""Cut and pasted pieces, and made-up defects."""

from __future__ import annotations

import pytest
import torch

from client.anomaly.cutpaste import KINDS, cut_paste
from client.anomaly.synthetic import damage


def images(count: int = 12, side: int = 64, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


def changed(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Return the share of pixels that differ, by image."""
    return (before != after).any(dim=1).float().mean(dim=(1, 2))


def test_kinds_are_what_they_say() -> None:
    kinds = torch.arange(60) % len(KINDS)
    before = images(60)
    after = cut_paste(before, kinds, generator=torch.Generator().manual_seed(0))
    assert after.dtype == torch.uint8
    share = changed(before, after)
    assert (share[kinds == 0] == 0).all()
    assert ((share[kinds == 1] > 0.01) & (share[kinds == 1] < 0.16)).all()
    assert ((share[kinds == 2] > 0) & (share[kinds == 2] < 0.03)).all()


def test_a_pasted_piece_comes_from_the_same_image() -> None:
    """A flat image stays flat up to the change of light, so nothing foreign is in it."""
    flat = torch.full((8, 3, 32, 32), 100, dtype=torch.uint8)
    kinds = torch.ones(8, dtype=torch.int64)
    after = cut_paste(flat, kinds, generator=torch.Generator().manual_seed(0))
    assert (after.int() - 100).abs().max() <= 1


def test_pieces_follow_the_generator() -> None:
    kinds = torch.ones(4, dtype=torch.int64)
    one, again, other = (
        cut_paste(images(4), kinds, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("side", [32, 96])
def test_every_part_is_damaged_a_little(side: int) -> None:
    before = images(16, side=side)
    after = damage(before, seed=3)
    share = changed(before, after)
    assert after.shape == before.shape
    assert after.dtype == torch.uint8
    assert (share > 0).all()
    assert (share < 0.4).all()
    assert torch.equal(after, damage(before, seed=3))
    assert not torch.equal(after, damage(before, seed=4))


def test_no_parts_are_no_defects() -> None:
    assert len(damage(images(0), seed=0)) == 0
