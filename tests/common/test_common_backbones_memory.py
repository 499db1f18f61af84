from __future__ import annotations

import math

import pytest
import torch

from common.backbones.memory import NEIGHBOURS, Memory, MemoryHead, heat


def features(count: int, *, seed: int = 0, side: int = 3, width: int = 5) -> torch.Tensor:
    return torch.randn(count, side, side, width, generator=torch.Generator().manual_seed(seed))


def filled(patches: torch.Tensor, *, size: int | None = None) -> Memory:
    memory = Memory(patches.shape[1], size=size or len(patches))
    memory.fill(patches)
    return memory


def test_a_part_that_is_remembered_has_distance_zero() -> None:
    known = features(4)
    memory = filled(known.reshape(-1, 5))
    assert memory.look(known).distances.max() == 0
    assert memory.look(known).scores.max() == 0


def test_scores_are_those_of_equation_7() -> None:
    memory = filled(features(6, seed=1).reshape(-1, 5), size=200)
    parts = features(4, seed=2)
    seen = memory.look(parts)
    known = memory.used
    for part in range(4):
        rows = parts[part].reshape(-1, 5)
        far = torch.cdist(rows, known, compute_mode="donot_use_mm_for_euclid_dist")
        nearest, place = far.min(dim=1)
        torch.testing.assert_close(seen.distances[part].reshape(-1), nearest)
        worst = int(nearest.argmax())
        centre = known[place[worst]]
        around = (known - centre).norm(dim=1).argsort()[:NEIGHBOURS]
        crowd = sum(math.exp(float((rows[worst] - known[i]).norm())) for i in around)
        weight = 1 - math.exp(float(nearest[worst])) / crowd
        assert float(seen.scores[part]) == pytest.approx(float(nearest[worst]) * weight, rel=1e-4)


def test_room_that_is_not_used_is_not_remembered() -> None:
    memory = filled(features(1, seed=3).reshape(-1, 5) + 10, size=50)
    # The empty rows are zero, and the part is: it must be far from all that is known.
    assert memory.look(torch.zeros(1, 2, 2, 5)).scores > 5


def test_one_patch_has_no_neighbours() -> None:
    memory = filled(torch.ones(1, 5))
    assert float(memory.look(torch.zeros(1, 2, 2, 5)).scores) == pytest.approx(math.sqrt(5))


def test_the_threshold_is_where_good_and_defective_are_as_likely() -> None:
    memory = filled(torch.zeros(1, 5))
    memory.threshold.fill_(math.sqrt(5))
    assert memory(torch.ones(1, 2, 2, 5)).softmax(1)[0, 1] == pytest.approx(0.5, abs=1e-6)
    assert memory(1.1 * torch.ones(1, 2, 2, 5)).softmax(1)[0, 1] == pytest.approx(0.722, abs=1e-3)


def test_the_head_learns_until_its_memory_is_filled() -> None:
    head = MemoryHead(5, size=20)
    head.fit(features(9), torch.zeros(3), seed=0)
    assert head(features(2)).shape == (2, 3)
    flat = head.scale(features(9)[:3]).reshape(-1, 5)
    assert flat.mean(0).abs().max() < 1e-5
    head.memory.fill(torch.zeros(3, 5))
    assert head(features(2)).shape == (2, 2)


def test_heat_is_where_the_distance_is() -> None:
    distances = torch.zeros(1, 8, 8)
    distances[0, 1, 6] = 1.0
    found = heat(distances, size=64)
    assert found.shape == (1, 64, 64)
    row, column = divmod(int(found[0].argmax()), 64)
    assert abs(row - 12) < 4
    assert abs(column - 52) < 4
