"""DP-SGD against gradients worked out by hand, one image at a time, and against opacus."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opacus.grad_sample import GradSampleHooks
from torch import Tensor, nn
from torch.nn import functional as F

from client import dpsgd
from client.anchor import Anchor
from client.training import Trainer
from common.backbone import Network, build
from common.noise import Noise

Make = Callable[..., Trainer]
Tiny = Callable[[], Network]

IMAGES = 9


class Quiet(Noise):
    """Draws every image, and no noise; counts what was asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.scales: set[float] = set()

    def chosen(self, size: int, *, rate: float) -> Any:
        return np.ones(size, dtype=bool)

    def normal(self, size: int, *, scale: float) -> Any:
        self.scales.add(scale)
        return np.zeros(size)


def batch(network: Network, count: int = IMAGES, side: int = 32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn((count, 3, side, side), generator=generator)
    return inputs, torch.arange(count) % network.head.out_features


def by_hand(network: Network, inputs: Tensor, labels: Tensor) -> list[dict[str, Tensor]]:
    """Return each image's gradient by a backward pass of its own."""
    found = []
    for image, label in zip(inputs, labels, strict=True):
        network.zero_grad()
        F.cross_entropy(network(image[None]), label[None]).backward()  # type: ignore[no-untyped-call]
        found.append(
            {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}
        )
    return found


def length(gradient: dict[str, Tensor]) -> float:
    return float(torch.cat([part.flatten() for part in gradient.values()]).norm())


@pytest.mark.parametrize("clip", [0.3, 1.0, 1e6])
def test_sum_of_clipped_gradients_by_hand(tiny: Tiny, clip: float) -> None:
    network = tiny().eval()
    inputs, labels = batch(network)
    single = by_hand(network, inputs, labels)
    assert any(length(gradient) > 0.3 for gradient in single)
    sums, losses = dpsgd.clipped_sum(network, inputs, labels, clip=clip)
    for name in sums:
        wanted = sum(g[name] * min(1.0, clip / length(g)) for g in single)
        torch.testing.assert_close(sums[name], wanted, rtol=1e-4, atol=1e-6)
    wanted_loss = F.cross_entropy(network(inputs), labels, reduction="sum")
    torch.testing.assert_close(losses, wanted_loss.detach())


def test_parts_of_a_lot_add_up(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    network = tiny().eval()
    inputs, labels = batch(network)
    whole, _ = dpsgd.clipped_sum(network, inputs, labels, clip=0.5)
    monkeypatch.setattr(dpsgd, "MOST", 1000)
    parts, _ = dpsgd.clipped_sum(network, inputs, labels, clip=0.5)
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name])


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(clip=st.floats(1e-3, 10.0), left_out=st.integers(0, IMAGES - 1), scale=st.floats(0.1, 1e3))
def test_one_image_changes_the_sum_by_at_most_the_clip(
    tiny: Tiny, clip: float, left_out: int, scale: float
) -> None:
    """What the noise is sized for, whatever the image: also a huge one."""
    network = tiny().eval()
    inputs, labels = batch(network)
    inputs[left_out] *= scale
    kept = torch.arange(IMAGES) != left_out
    with_it, _ = dpsgd.clipped_sum(network, inputs, labels, clip=clip)
    without, _ = dpsgd.clipped_sum(network, inputs[kept], labels[kept], clip=clip)
    assert length({n: with_it[n] - without[n] for n in with_it}) <= clip * (1 + 1e-4)


def test_an_empty_lot_is_noise_alone(tiny: Tiny) -> None:
    network = tiny().eval()
    sums, loss = dpsgd.clipped_sum(network, *batch(network, 0), clip=1.0)
    assert all(not part.any() for part in sums.values())
    assert float(loss) == 0.0


def test_gradients_of_single_images_are_those_of_opacus() -> None:
    """A second opinion on a real network; its batch norm is frozen, which opacus needs."""
    network = build("mobilenet_v2", classes=3, image_size=32).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(False)
    inputs, labels = batch(network, 3)
    sums, _ = dpsgd.clipped_sum(network, inputs, labels, clip=0.7)
    for module in network.modules():  # opacus looks only at modules in training mode
        module.training = not isinstance(module, nn.BatchNorm2d | nn.Dropout)
    hooks = GradSampleHooks(network, strict=False, loss_reduction="sum")
    inputs.requires_grad_(True)  # else a full backward hook warns
    F.cross_entropy(network(inputs), labels, reduction="sum").backward()  # type: ignore[no-untyped-call]
    single = {n: p.grad_sample for n, p in network.named_parameters() if p.requires_grad}
    hooks.remove_hooks()
    norms = torch.stack([part.flatten(1).norm(dim=1) for part in single.values()]).norm(dim=0)
    factors = (0.7 / norms).clamp(max=1)
    for name, part in single.items():
        wanted = torch.einsum("n,n...->...", factors, part)
        torch.testing.assert_close(sums[name], wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "backbone", ["resnet18", "convnext_tiny", "efficientnet_b0", "squeezenet1_1", "vit_b_16"]
)
def test_works_on_every_kind_of_backbone(backbone: str) -> None:
    network = build(backbone, classes=2, image_size=64).eval()
    inputs, labels = batch(network, 2, side=64)
    for parameter in network.backbone.parameters():
        parameter.requires_grad_(False)
    last = list(network.backbone.parameters())[-2:]
    for parameter in last:
        parameter.requires_grad_(True)
    sums, _ = dpsgd.clipped_sum(network, inputs, labels, clip=0.1)
    assert len(sums) == 4
    assert length(sums) <= 0.2 * (1 + 1e-4)


def test_a_round_moves_by_the_noisy_mean(trainer_of: Make, tiny: Tiny) -> None:
    """One step, all images, no noise: AdamW's first step goes along the sign of the gradient."""
    trainer, network = trainer_of(privacy={"unit": "record", "steps": 1}), tiny()
    before = {n: p.detach().clone() for n, p in network.named_parameters()}
    data = trainer.data
    sums, _ = dpsgd.clipped_sum(
        network.eval(), trainer.inputs(data.train), trainer.targets(data.train), clip=1.0,
        loss=trainer.loss_of,
    )  # fmt: skip
    quiet = Quiet()
    dpsgd.fit(trainer, network, data.train, noise=quiet)
    assert quiet.scales == {1.0}
    for name, parameter in network.named_parameters():
        step = parameter.detach() - before[name]
        large = sums[name].abs() > 1e-4
        assert torch.equal(torch.sign(step[large]), -torch.sign(sums[name][large]))


def test_noise_is_clip_times_multiplier_and_new_each_time(trainer_of: Make, tiny: Tiny) -> None:
    settings_ = {"unit": "record", "steps": 2, "clip": 0.5, "noise_multiplier": 3.0}
    trainer, quiet = trainer_of(privacy=settings_), Quiet()
    dpsgd.fit(trainer, tiny(), trainer.data.train, noise=quiet)
    assert quiet.scales == {1.5}
    ends = []
    for _ in range(2):
        network = tiny()
        dpsgd.fit(trainer_of(privacy=settings_), network, trainer.data.train)
        ends.append(network.head.weight.detach())
    assert not torch.equal(*ends)


def test_statistics_do_not_move_and_nothing_is_random_but_the_noise(
    trainer_of: Make, tiny: Tiny
) -> None:
    trainer = trainer_of(privacy={"unit": "record", "steps": 3})
    ends, start = [], tiny()
    for seed in (1, 2):
        torch.manual_seed(seed)
        network = tiny()
        dpsgd.fit(trainer, network, trainer.data.train, noise=Noise(bytes(32)))
        ends.append(network)
    for (name, one), other in zip(
        ends[0].state_dict().items(), ends[1].state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name
    for (name, one), before in zip(start.named_buffers(), ends[0].buffers(), strict=True):
        assert torch.equal(one, before), name


def test_pull_is_added_after_the_noise(trainer_of: Make, tiny: Tiny) -> None:
    trainer = trainer_of(privacy={"unit": "record", "steps": 1, "clip": 1e-9})
    network = tiny()
    away = {n: p.detach() + 1 for n, p in network.named_parameters() if "head" not in n}
    before = {n: p.detach().clone() for n, p in network.named_parameters()}
    dpsgd.fit(
        trainer, network, trainer.data.train, noise=Quiet(),
        anchor=Anchor(point=away, strength=1.0),
    )  # fmt: skip
    for name, point in away.items():
        step = dict(network.named_parameters())[name].detach() - before[name]
        assert torch.equal(torch.sign(step), torch.sign(point - before[name])), name
