import math
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.models import mobilenet_v2

from client.tasks.transforms import Augment, Light, Normalise, Place

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def batch(count: int = 8, size: int = 24) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_normalise() -> None:
    images = batch()
    result = Normalise(MEAN, STD)(images)
    mean, std = torch.tensor(MEAN).reshape(3, 1, 1), torch.tensor(STD).reshape(3, 1, 1)
    torch.testing.assert_close(result, (images / 255 - mean) / std)
    assert result.is_contiguous(memory_format=torch.channels_last)


def test_strength_0_changes_nothing() -> None:
    images = batch()
    assert torch.equal(Augment(0.0, MEAN, STD)(images, seeded()), Normalise(MEAN, STD)(images))


def test_the_generator_alone_decides() -> None:
    augment = Augment(1.0, MEAN, STD)
    images = batch()
    torch.manual_seed(5)
    one = augment(images, seeded())
    torch.manual_seed(6)
    state = torch.get_rng_state()
    assert torch.equal(one, augment(images, seeded()))
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(one, augment(images, seeded(2)))
    assert one.dtype == torch.float32
    assert one.is_contiguous(memory_format=torch.channels_last)


def test_every_image_has_parameters_of_its_own() -> None:
    images = batch(1).expand(16, -1, -1, -1)
    result = Augment(1.0, MEAN, STD)(images, seeded())
    assert len({image.sum().item() for image in result}) == 16


@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0])
def test_limits_of_the_affine_maps(strength: float) -> None:
    maps = Place(strength).draw(2000, seeded())
    determinant = torch.linalg.det(maps[:, :, :2])
    scale = determinant.abs().sqrt()
    assert scale.max() <= 1.1**strength + 1e-4
    assert scale.min() >= 1.1**-strength - 1e-4
    assert scale.max() > 1.09**strength
    turn = torch.atan2(-maps[:, 0, 1] * maps[:, 1, 1].sign(), maps[:, 1, 1].abs())
    assert turn.abs().max() <= math.radians(10 * strength) + 1e-4
    assert turn.abs().max() > math.radians(9 * strength)
    assert maps[:, :, 2].abs().max() <= 0.12 * strength
    for flips in (maps[:, 0, 0] < 0, maps[:, 1, 1] < 0, determinant < 0):
        assert 0.45 < flips.float().mean() < 0.55


def test_the_affine_map_without_turn_is_a_plain_flip() -> None:
    images = torch.rand(1, 3, 9, 9, generator=seeded())
    flip = torch.tensor([[[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
    torch.testing.assert_close(Place(1.0).apply_to(images, flip), images.flip(3))


def test_a_turn_keeps_the_shape() -> None:
    """A turn is a rigid motion also where it goes with a flip: a centred disc stays a disc."""
    axis = torch.linspace(-1, 1, 65)
    disc = (axis[:, None] ** 2 + axis[None, :] ** 2 < 0.36).float().expand(32, 3, 65, 65)
    maps = Place(1.0).draw(32, seeded())
    scale = torch.linalg.det(maps[:, :, :2]).abs().sqrt()
    maps = maps / scale[:, None, None]
    maps[:, :, 2] = 0
    assert (Place(1.0).apply_to(disc, maps) - disc).abs().mean() < 0.01


@pytest.mark.parametrize("strength", [1.0, 4.0])
def test_limits_of_light(strength: float) -> None:
    factor, offset = Light(strength).draw(2000, seeded())
    assert factor.min() >= 1.3**-strength - 1e-4
    assert factor.max() <= 1.3**strength + 1e-4
    assert factor.max() > 1.28**strength
    assert 0.28 * strength < offset.abs().max() <= 0.3 * strength
    images = torch.ones(2, 3, 4, 4)
    drawn = torch.tensor([[2.0, 3.0], [0.5, -1.0]]).reshape(2, 2, 1, 1, 1)
    assert Light(1.0).apply_to(images, drawn)[:, 0, 0, 0].tolist() == [2.5, 2.0]


def test_augmentation_costs_less_than_a_tenth_of_a_training_step() -> None:
    augment = Augment(1.0, MEAN, STD)
    images, generator = batch(16, 96), seeded()
    network = mobilenet_v2()

    def train() -> None:
        network(Normalise(MEAN, STD)(images)).square().mean().backward()

    def cpu_seconds(work: Callable[[], object]) -> float:
        start = time.process_time()
        work()
        return time.process_time() - start

    step = min(cpu_seconds(train) for _ in range(3))
    assert min(cpu_seconds(lambda: augment(images, generator)) for _ in range(8)) < step / 10
