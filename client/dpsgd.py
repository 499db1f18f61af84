"""Rounds whose steps hide single images: DP-SGD.

Abadi et al. 2016, "Deep Learning with Differential Privacy", https://arxiv.org/abs/1607.00133. In
each step every training image takes part with a chance of its own; its gradient over all that moves
is shortened to ``privacy.clip``; noise of ``noise_multiplier`` times that is added to the sum. What
the steps lead to, and so the update, is bounded by `common.privacy`.

The bound needs each gradient to depend on its own image and on earlier steps alone. Therefore:

- the head moves in the same steps, and starts at zero: one that was fitted without noise would
  carry all images into each gradient. For the same reason there are no class weights;
- the network is in evaluation mode: batch-norm statistics stay those of the release (scale and
  shift move, which is safe then), dropout and stochastic depth are off, and so is augmentation,
  whose draws go by place in the batch;
- sums are divided by ``training.batch_size``, not by the number drawn, which is secret; the
  optimiser (AdamW) does not see the scale.

Gradients of single images come from torch.func (`vmap` of `grad`): on a CPU four times faster for
MobileNetV2 than opacus's hooks, which the tests compare with (benchmarks/privacy.py).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn import functional as F

from client.anchor import Anchor, pulls
from client.training import Trainer, finite
from common.backbone import Network
from common.noise import Noise

#: Values of single gradients that are held at once; 4 bytes each.
MOST = 64_000_000

Loss = Callable[[Tensor, Tensor], Tensor]


def fit(
    trainer: Trainer,
    network: Network,
    indices: Tensor,
    *,
    anchor: Anchor | None = None,
    noise: Noise | None = None,
) -> None:
    """Take a round's private steps in place, at the constant step sizes of rounds.

    Parameters
    ----------
    indices : training examples.
    anchor : pull to a point, which is none of the data's; added after the noise.
    noise : fresh from the operating system, unless a test gives one.

    Raises
    ------
    TrainingError
        If a value is not finite; the network is then unusable.
    """
    config, noise = trainer.config, noise or Noise()
    privacy, training = config.privacy, config.training
    groups = trainer.groups(network, (), training.round_learning_rate)
    optimiser = torch.optim.AdamW(groups, weight_decay=training.weight_decay)
    pulled = pulls(network, anchor)
    network.eval()
    total = torch.zeros((), device=trainer.device)
    seen = 0
    for _ in range(privacy.steps):
        drawn = torch.from_numpy(noise.chosen(len(indices), rate=privacy.sample_rate))
        lot = indices[drawn.to(indices.device)]
        gradients, loss = clipped_sum(
            network,
            trainer.inputs(lot),
            trainer.targets(lot),
            clip=privacy.clip,
            loss=trainer.loss_of,
        )
        spread = privacy.noise_multiplier * privacy.clip
        for name, parameter in _moving(network).items():
            added = torch.from_numpy(noise.normal(parameter.numel(), scale=spread))
            # Added on the CPU: a Mac's GPU has no float64.
            exact = gradients[name].cpu().double() + added.view_as(parameter)
            parameter.grad = (exact / training.batch_size).to(parameter)
        for parameter, point, strength in pulled:
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - point, alpha=strength)
        optimiser.step()
        total += loss
        seen += len(lot)
    trainer.seen += seen
    trainer.loss = finite(total, "training") / max(1, seen)


def clipped_sum(
    network: Network, inputs: Tensor, targets: Tensor, *, clip: float, loss: Loss = F.cross_entropy
) -> tuple[dict[str, Tensor], Tensor]:
    """Return the sum of the images' gradients, each at most ``clip`` long, and of their losses.

    Parameters
    ----------
    network : in evaluation mode; gradients are of the parameters that require them.
    inputs : as the network takes them, shape (examples, ...); none at all gives zeros.
    targets : class indices or numbers, shape (examples, ...).
    clip : Euclidean, over all parameters of an example's gradient together.
    loss : from the outputs and targets of one example, in a batch of one.
    """
    moving = _moving(network)
    size = sum(parameter.numel() for parameter in moving.values())
    sums = {name: torch.zeros_like(parameter) for name, parameter in moving.items()}
    total = torch.zeros((), device=targets.device)
    if not len(targets):
        return sums, total
    at_once = max(1, MOST // max(1, size))
    for some, truth in zip(
        torch.split(inputs, at_once), torch.split(targets, at_once), strict=True
    ):
        single, losses = _single(network, moving, some, truth, loss)
        factors = _factors(single.values(), clip)
        for name, gradient in single.items():
            sums[name] += torch.einsum("n,n...->...", factors, gradient)
        total += losses.sum()
    return sums, total


def _moving(network: Network) -> dict[str, nn.Parameter]:
    return {n: p for n, p in network.named_parameters() if p.requires_grad}


def _single(
    network: Network,
    moving: Mapping[str, nn.Parameter],
    inputs: Tensor,
    targets: Tensor,
    loss: Loss,
) -> tuple[dict[str, Tensor], Tensor]:
    """Return each image's gradient, with a first axis of images, and each image's loss."""

    def of_one(parameters: dict[str, Tensor], one: Tensor, truth: Tensor) -> Tensor:
        outputs: Tensor = functional_call(network, parameters, (one[None],))
        return loss(outputs, truth[None])

    detached = {name: parameter.detach() for name, parameter in moving.items()}
    each = vmap(grad_and_value(of_one), in_dims=(None, 0, 0))
    with warnings.catch_warnings():
        # Some operations have no batched form, and are slower for it; nothing is wrong.
        warnings.filterwarnings("ignore", message="There is a performance drop")
        gradients, losses = each(detached, inputs, targets)
    return gradients, losses


def _factors(gradients: Iterable[Tensor], clip: float) -> Tensor:
    """Return what each image's gradient is multiplied with, at most 1; shape (images,)."""
    squares = [_exact(part.flatten(1)).square().sum(1) for part in gradients]
    norms = torch.stack(squares).sum(0).sqrt()
    return (clip / norms.clamp_min(1e-12)).clamp_max(1.0).float()


def _exact(values: Tensor) -> Tensor:
    """Return float64, or float32 on a Mac's GPU, which has no other: a length then errs by 1e-6."""
    return values.float() if values.device.type == "mps" else values.double()
