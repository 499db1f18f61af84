"""SimCLR: the backbone learns from images alone, labelled or not; labels only fit the head.

Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations",
https://arxiv.org/abs/2002.05709. Two views of an image (flips, turns, zooms, other light) are drawn
together, those of different images apart, behind a small projector that stays at the plant. A plant
has far more images than labels: those in its folder ``unlabelled`` count here too.

What is left out: the paper's large batches, of which a plant's device has no room, and its random
crops and colours; a part is never half in the picture. After the last round each plant fine-tunes
head and backbone with its labels, as under every method.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from client.methods.base import RoundMethod, Work
from client.training import finite

BATCH = 64  #: images whose views are told apart at once
TEMPERATURE = 0.2
WIDTH = 128  #: of the projector's output
KEPT = "projector."  #: names of the projector's tensors among the plant's own


class SimCLR(RoundMethod):
    """Move the backbone by contrast of views, then fit the head to it."""

    def train(self, work: Work) -> None:
        contrast(work)
        work.trainer.fit_head(work.network, work.train)


def contrast(work: Work) -> None:
    """Take a round's steps on views of all images, at the constant step size of rounds."""
    trainer, network, config = work.trainer, work.network, work.trainer.config
    views = trainer.task.views()
    assert views is not None, "the configuration refuses tasks without views"
    indices = torch.cat([work.train, trainer.data.unlabelled])
    projector = _projector(work)
    rate = config.training.round_learning_rate
    groups = trainer.groups(network, ("head",), rate)
    groups.append(
        {"params": list(projector.parameters()), "lr": config.training.head_learning_rate}
    )
    optimiser = torch.optim.AdamW(groups, weight_decay=config.training.weight_decay)
    moving = [parameter for group in groups for parameter in group["params"]]
    steps = math.ceil(len(indices) / BATCH)
    epochs = max(config.local_epochs, math.ceil(config.local_steps / steps))
    trainer.adapt(network, indices)
    trainer.training_mode(network)
    with trainer.randomness(trainer.seed) as generator:
        for _ in range(epochs):
            total = torch.zeros((), device=trainer.device)
            order = torch.randperm(len(indices), generator=generator).to(indices.device)
            batches = [batch for batch in torch.split(indices[order], BATCH) if len(batch) > 1]
            for batch in batches:
                raw = trainer.raw(batch)
                both = torch.cat([views(raw, generator), views(raw, generator)])
                with trainer.precision():
                    shown = projector(network.embed(both))
                loss = nt_xent(shown.float(), temperature=TEMPERATURE)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(moving, config.training.clip_norm)
                optimiser.step()
                total += loss.detach()
            trainer.loss = finite(total, "contrasting views") / max(1, len(batches))
            trainer.seen += len(indices)
    for name, tensor in projector.state_dict().items():
        work.extra[KEPT + name] = tensor.cpu().numpy()


def nt_xent(shown: Tensor, *, temperature: float) -> Tensor:
    """Return the normalised, temperature-scaled cross-entropy of views.

    Parameters
    ----------
    shown : float32, shape (2n, width): first views, then second views in the same order.
    temperature : small ones weigh near neighbours more.
    """
    ends = F.normalize(shown, dim=1)
    alike = ends @ ends.T / temperature
    alike.fill_diagonal_(-torch.inf)  # a view is no other view of itself
    partner = torch.arange(len(shown), device=shown.device).roll(len(shown) // 2)
    return F.cross_entropy(alike, partner)


def _projector(work: Work) -> nn.Sequential:
    """Return the plant's projector as the last round left it."""
    width = work.network.features
    with torch.random.fork_rng([]):
        torch.manual_seed(work.trainer.seed)
        found = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, WIDTH))
    kept = {
        name.removeprefix(KEPT): work.extra[name] for name in work.extra if name.startswith(KEPT)
    }
    if kept:
        found.load_state_dict({name: torch.from_numpy(value) for name, value in kept.items()})
    return found.to(work.trainer.device)
