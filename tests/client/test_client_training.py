"""The loop on a network of 400 parameters."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from client.anchor import Anchor
from client.device import choose_device
from client.tasks.classes import quick_scores
from client.tasks.data import PlantData
from client.training import Trainer, _batch_count, _batched, _schedule
from common.backbone import Network, read_tensors
from common.errors import ConfigError, TrainingError

Make = Callable[..., Trainer]
Tiny = Callable[[], Network]
Toy = Callable[..., PlantData]


def same(one: Network, other: Network) -> bool:
    pairs = zip(read_tensors(one).values(), read_tensors(other).values(), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def moved(network: Network, start: Network) -> set[str]:
    """Names of parameters that are no longer what they were."""
    before = dict(start.named_parameters())
    return {n for n, p in network.named_parameters() if not torch.equal(p, before[n])}


def statistics(network: Network) -> list[torch.Tensor]:
    return [t.clone() for n, t in network.named_buffers() if n.endswith(("_mean", "_var"))]


def test_learns_what_is_separable(trainer_of: Make, tiny: Tiny) -> None:
    trainer, network = trainer_of(learning_rate=1e-2, head_learning_rate=1e-2), tiny()
    losses = trainer.fit(network, trainer.data.train, epochs=12)
    assert len(losses) == 12
    assert losses[-1] < losses[0]
    assert trainer.validate(network)["balanced_accuracy"] == 1.0


def test_head_learns_on_frozen_features(trainer_of: Make, tiny: Tiny) -> None:
    trainer, network, start = trainer_of(head_epochs=100), tiny(), tiny()
    trainer.fit_head(network, trainer.data.train)
    assert moved(network, start) == {"head.weight", "head.bias"}
    assert trainer.validate(network)["balanced_accuracy"] > 0.8


def test_same_seed_same_bytes(trainer_of: Make, tiny: Tiny) -> None:
    results = []
    for seed in (3, 3, 4):
        trainer, network = trainer_of(seed=seed), tiny()
        torch.rand(seed)  # whatever happened before
        trainer.fit_head(network, trainer.data.train)
        trainer.fit(network, trainer.data.train, epochs=2)
        results.append(network)
    assert same(results[0], results[1])
    assert not same(results[0], results[2])


def test_random_state_of_torch_is_restored(trainer_of: Make, tiny: Tiny) -> None:
    trainer, network = trainer_of(), tiny()
    before = torch.get_rng_state()
    trainer.fit_head(network, trainer.data.train)
    trainer.fit(network, trainer.data.train, epochs=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_equals_a_plain_loop(trainer_of: Make, tiny: Tiny, toy: Toy) -> None:
    """AdamW, clipping, warm-up and cosine, weights of classes, as one would write them by hand."""
    data = toy()
    data.targets[:6] = 0  # unequal classes
    trainer, ours, plain = trainer_of(data, augment=0.0), tiny(), tiny()
    trainer.fit(ours, data.train, epochs=3)

    training = trainer.config.training
    backbone = list(plain.backbone.parameters())
    optimiser = torch.optim.AdamW(
        [
            {"params": plain.head.parameters(), "lr": training.head_learning_rate},
            {"params": backbone, "lr": training.learning_rate},
        ],
        weight_decay=training.weight_decay,
    )
    peaks = [training.head_learning_rate, training.learning_rate]
    weights = data.class_weights(data.train)
    step = 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = torch.Generator().manual_seed(0)
        for _ in range(3):
            plain.train()
            for module in plain.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
            for batch in data.train[torch.randperm(24, generator=generator)].split(16):
                for group, peak in zip(optimiser.param_groups, peaks, strict=True):
                    group["lr"] = peak * _schedule(step, 6, training.warmup)
                inputs = (data.inputs[batch] / 255 - 0.5) / 0.5
                loss = F.cross_entropy(
                    plain(inputs), data.targets[batch], weights, label_smoothing=0.1
                )
                optimiser.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(plain.parameters(), training.clip_norm)
                optimiser.step()
                step += 1
    for name, value in read_tensors(ours).items():
        np.testing.assert_allclose(value, read_tensors(plain)[name], rtol=1e-4, atol=1e-6)


def test_frozen_statistics_stay(trainer_of: Make, tiny: Tiny) -> None:
    trainer, network = trainer_of(batch_norm="frozen"), tiny()
    before = statistics(network)
    trainer.fit(network, trainer.data.train, epochs=2)
    assert all(map(torch.equal, statistics(network), before))
    assert "backbone.first.1.weight" in moved(network, tiny())


def test_adapted_statistics_are_those_of_the_images(trainer_of: Make, tiny: Tiny) -> None:
    trainer, network = trainer_of(batch_norm="adapt"), tiny()
    inputs = trainer.task.evaluation_transform()(trainer.data.inputs[trainer.data.train])
    maps = network.backbone.first[0](inputs)
    trainer.fit_head(network, trainer.data.train)
    mean, var = statistics(network)[:2]
    torch.testing.assert_close(mean, maps.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(var, maps.var((0, 2, 3)), rtol=1e-4, atol=1e-5)
    momentum = network.backbone.first[1].momentum
    assert momentum == 0.1
    before = statistics(network)
    trainer.fit(network, trainer.data.train, epochs=2)
    assert all(map(torch.equal, statistics(network), before))


def test_training_statistics_move_but_not_in_frozen_stages(trainer_of: Make, tiny: Tiny) -> None:
    for freeze_until, expected in (("", [True] * 4), ("second.0", [False, False, True, True])):
        trainer, network = trainer_of(batch_norm="train", freeze_until=freeze_until), tiny()
        before = statistics(network)
        trainer.fit(network, trainer.data.train, epochs=1)
        changes = [not torch.equal(*pair) for pair in zip(statistics(network), before, strict=True)]
        assert changes == expected


def test_one_image_left_over_is_no_batch(trainer_of: Make, tiny: Tiny) -> None:
    trainer, network = trainer_of(batch_norm="train", batch_size=16), tiny()
    network.backbone.second[0].stride = (8, 8)  # maps of one pixel: no statistics of one image
    trainer.fit(network, trainer.data.train[:17], epochs=1)


@given(images=st.integers(1, 300), size=st.integers(2, 40))
def test_batches_hold_everything_once(images: int, size: int) -> None:
    batches = _batched(torch.arange(images), size)
    assert torch.equal(torch.cat(batches), torch.arange(images))
    assert len(batches) == _batch_count(images, size)
    assert images == 1 or all(1 < len(batch) <= size + 1 for batch in batches)


@pytest.mark.parametrize("part", ["head", "backbone"])
def test_frozen_parts_do_not_move(trainer_of: Make, tiny: Tiny, part: str) -> None:
    trainer, network = trainer_of(), tiny()
    trainer.fit(network, trainer.data.train, epochs=1, freeze=(part,))
    names = moved(network, tiny())
    assert names
    assert not any(name.startswith(part) for name in names)


def test_freeze_until_freezes_the_stages_before(trainer_of: Make, tiny: Tiny) -> None:
    trainer, network = trainer_of(freeze_until="second.0"), tiny()
    trainer.fit(network, trainer.data.train, epochs=1)
    stages = {name.rpartition(".")[0] for name in moved(network, tiny())}
    assert stages == {"backbone.second.0", "backbone.second.1", "head"}
    trainer = trainer_of(freeze_until="third")
    with pytest.raises(ConfigError, match=r"freeze_until must be a stage .* got 'third'"):
        trainer.fit(network, trainer.data.train, epochs=1)


def test_each_stage_further_from_the_head_is_slower(trainer_of: Make, tiny: Tiny) -> None:
    """AdamW's first step has the length of the step size, whatever the gradient."""
    trainer, network, start = trainer_of(stage_decay=0.5, weight_decay=0.0), tiny(), tiny()
    trainer.fit(network, trainer.data.train[:16], epochs=1, rate=1e-3)
    lengths = [
        (network.get_parameter(name) - start.get_parameter(name)).abs().max().item()
        for name in ("backbone.second.1.bias", "backbone.second.0.weight", "backbone.first.1.bias")
    ]
    assert lengths == pytest.approx([1e-3, 5e-4, 2.5e-4], rel=1e-2)


@pytest.mark.parametrize("rate", [None, 1e-3])
def test_step_falls_along_a_cosine_or_is_constant(
    trainer_of: Make, tiny: Tiny, rate: float | None
) -> None:
    trainer, network = trainer_of(learning_rate=1e-3, augment=0.0), tiny()
    weight = network.backbone.second[0].weight
    states = [weight.detach().clone()]

    def note(network: Network) -> bool:
        states.append(weight.detach().clone())
        return False

    trainer.fit(network, trainer.data.train, epochs=20, rate=rate, after_epoch=note)
    steps = [float((b - a).norm()) for a, b in pairwise(states)]
    ratio = steps[-1] / max(steps)
    assert ratio > 0.1 if rate else ratio < 0.05


@given(steps=st.integers(10, 200), warmup=st.floats(0, 0.5))
def test_schedule_rises_then_falls_to_nothing(steps: int, warmup: float) -> None:
    factors = [_schedule(step, steps, warmup) for step in range(steps + 1)]
    top = factors.index(max(factors))
    assert min(factors) >= 0
    assert max(factors) <= 1.0
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[top:] == sorted(factors[top:], reverse=True)
    assert factors[-1] == pytest.approx(0.0, abs=1e-9)


def test_anchor_pulls_to_its_point(trainer_of: Make, tiny: Tiny) -> None:
    distances = []
    for strength in (0.0, 10.0):
        trainer, network = trainer_of(), tiny()
        point = {"backbone.first.0.weight": torch.full_like(network.backbone.first[0].weight, 0.5)}
        trainer.fit(
            network,
            trainer.data.train,
            epochs=5,
            rate=1e-2,
            anchor=Anchor(point=point, strength=strength),
        )
        distances.append((network.backbone.first[0].weight - 0.5).norm().item())
    assert distances[1] < 0.9 * distances[0]


def test_anchor_without_strength_changes_nothing(trainer_of: Make, tiny: Tiny) -> None:
    trainer, one, other = trainer_of(), tiny(), tiny()
    point = {name: torch.ones_like(p) for name, p in one.named_parameters()}
    trainer.fit(one, trainer.data.train, epochs=1)
    trainer.fit(other, trainer.data.train, epochs=1, anchor=Anchor(point=point, strength=0.0))
    assert same(one, other)


def test_stops_when_told(trainer_of: Make, tiny: Tiny) -> None:
    trainer = trainer_of()
    losses = trainer.fit(tiny(), trainer.data.train, epochs=9, after_epoch=lambda network: True)
    assert len(losses) == 1


def test_loss_that_is_not_finite_stops(trainer_of: Make, tiny: Tiny) -> None:
    trainer = trainer_of(learning_rate=1e30)
    with pytest.raises(TrainingError, match="loss must be finite, got nan while training; lower"):
        trainer.fit(tiny(), trainer.data.train, epochs=3)


def test_last_step_to_nan_is_seen(trainer_of: Make, tiny: Tiny) -> None:
    trainer, network = trainer_of(), tiny()
    trainer.fit(network, trainer.data.train[:8], epochs=1, rate=1e36)  # its loss was finite
    with pytest.raises(TrainingError, match="predictions must be finite"):
        trainer.validate(network)


def test_head_that_is_not_finite_stops(trainer_of: Make, tiny: Tiny) -> None:
    trainer, network = trainer_of(), tiny()
    with torch.no_grad():
        network.backbone.first[0].bias.fill_(torch.inf)
    with pytest.raises(TrainingError, match="while fitting the head"):
        trainer.fit_head(network, trainer.data.train)


def test_quick_scores_weigh_classes_equally() -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
    found = quick_scores(probabilities, torch.tensor([0, 0, 0, 1]))
    assert found["balanced_accuracy"] == 0.5
    assert found["loss"] == pytest.approx(-np.log([0.9, 0.8, 0.7, 0.4]).mean(), rel=1e-6)


def test_device_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    absent: Callable[[], Any] = lambda: False  # noqa: E731
    monkeypatch.setattr(torch.cuda, "is_available", absent)
    monkeypatch.setattr(torch.backends.mps, "is_available", absent)
    assert choose_device("auto").type == "cpu"
    with pytest.raises(ConfigError, match="device must be present on this machine, got 'cuda'"):
        choose_device("cuda")
