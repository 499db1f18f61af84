"""The local loop: one network, one plant's data, torch alone.

The recipe is made for 5 to 20 labelled images a class. The head is fitted first, on features of
the frozen backbone that are computed once; then everything moves, the backbone with its own,
slower step; batch-norm statistics stay those of the release (`frozen`), because the statistics of
sixteen images are noise; the step size warms up and falls along a cosine; the state with the best
validation score is the one that is kept. Sources: Kumar et al. 2022, "Fine-Tuning can Distort
Pretrained Features" (https://arxiv.org/abs/2202.10054) for head first; Howard and Ruder 2018
(https://arxiv.org/abs/1801.06146) for discriminative steps.

Nothing in a step waits for the device: losses are summed there and read once an epoch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from client.anchor import Anchor, Pull, pulls
from client.tasks import Task
from client.tasks.data import PlantData
from common.backbone import Network, norm_layers, stage_index, stages
from common.backbones import FittedHead
from common.config import FederationConfig
from common.errors import TrainingError

#: Examples in one forward pass without gradients.
EVALUATION_BATCH = 128


#: Called with the network after each epoch; returns True to stop.
AfterEpoch = Callable[[Network], bool]


@dataclass(kw_only=True)
class Trainer:
    """Trains networks on one plant's data.

    Attributes
    ----------
    task : says how a raw batch becomes input.
    data : the plant's examples, on ``device``.
    config : the federation's settings.
    device : where the network and the data are.
    seed : of shuffles, augmentation and dropout; nothing else is random.
    seen : examples that went through training steps so far.
    loss : mean loss of the last epoch; None before the first.
    """

    task: Task
    data: PlantData
    config: FederationConfig
    device: torch.device
    seed: int
    seen: int = 0
    loss: float | None = None

    def __post_init__(self) -> None:
        torch.set_num_threads(self.config.threads)
        self._evaluate = self.task.evaluation_transform()
        self._augment = self.task.training_transform()

    @torch.no_grad()
    def embed(self, network: Network, indices: Tensor) -> Tensor:
        """Return features of the frozen backbone, float32, shape (len(indices), features)."""
        network.eval()
        parts = []
        for batch in torch.split(indices, EVALUATION_BATCH):
            with self.precision():
                parts.append(network.embed(self.inputs(batch)).float())
        return torch.cat(parts)

    @torch.no_grad()
    def predict(self, network: Network, indices: Tensor) -> Tensor:
        """Return predictions, float32 on the CPU, shape (len(indices), outputs).

        Raises
        ------
        TrainingError
            If one of them is not finite; the last step of training may have done that.
        """
        batches = torch.split(indices, EVALUATION_BATCH)
        outputs = torch.cat([network.head(self.embed(network, batch)) for batch in batches])
        predicted = self.task.decode(outputs, data=self.data).cpu()
        if not predicted.isfinite().all():
            raise TrainingError("predictions must be finite, got NaN; lower training.learning_rate")
        return predicted

    def validate(self, network: Network, indices: Tensor | None = None) -> dict[str, float]:
        """Return the task's quick scores on the validation split (or other indices)."""
        indices = self.data.validation if indices is None else indices
        return self.quick_scores(self.predict(network, indices), indices)

    def quick_scores(self, predicted: Tensor, indices: Tensor) -> dict[str, float]:
        """Return the task's quick scores of predictions for some examples."""
        return self.task.quick_scores(predicted, self.targets(indices).cpu(), data=self.data)

    def fit_head(self, network: Network, indices: Tensor) -> None:
        """Fit the head on features of the frozen backbone, computed once.

        Full-batch AdamW from zero along a cosine; a convex problem, so it needs no tuning. A head
        that fits itself (`common.backbones.FittedHead`) does so.
        """
        training = self.config.training
        self.adapt(network, indices)
        features = self._head_features(network, indices)
        targets = self.targets(indices)
        head = network.head
        if isinstance(head, FittedHead):
            head.fit(features, targets, seed=self.seed)
            return
        weights = self._weights(indices)
        if isinstance(head, nn.Linear):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
        head.requires_grad_(True)
        optimiser = torch.optim.AdamW(head.parameters(), lr=1e-2, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            optimiser, max(1, training.head_epochs)
        )
        with self.randomness(self.seed):
            for _ in range(training.head_epochs):
                outputs = head(F.dropout(features, 0.2))
                loss = self.loss_of(outputs, targets, weights)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
        finite(torch.stack([p.sum() for p in head.parameters()]).sum(), "fitting the head")

    @torch.no_grad()
    def _head_features(self, network: Network, indices: Tensor) -> Tensor:
        """Return what a head is fitted to: features of the examples, or of what a task makes."""
        made = self.task.head_transform()
        if made is None:
            return self.embed(network, indices)
        network.eval()
        inputs = made(self.raw(indices), torch.Generator().manual_seed(self.seed))
        batches = torch.split(inputs, EVALUATION_BATCH)
        with self.precision():
            return torch.cat([network.embed(batch).float() for batch in batches])

    def fit(
        self,
        network: Network,
        indices: Tensor,
        *,
        epochs: int,
        anchor: Anchor | None = None,
        freeze: Sequence[str] = (),
        rate: float | None = None,
        after_epoch: AfterEpoch | None = None,
    ) -> list[float]:
        """Train the network in place, from the stage ``training.freeze_until`` on.

        Parameters
        ----------
        indices : training examples.
        epochs : passes over them, at most.
        anchor : pull of some parameters to a point, added to the gradient.
        freeze : ``("head",)`` or ``("backbone",)``: parts that do not move.
        rate : constant step size of the backbone, for rounds; None warms up to
            ``learning_rate`` and falls along a cosine.
        after_epoch : called after each epoch; training stops when it returns True.

        Returns
        -------
        The mean loss of each epoch.

        Raises
        ------
        TrainingError
            If the loss is not finite; the network is then unusable.
        """
        self.adapt(network, indices)
        optimiser = self._optimiser(network, freeze, rate)
        steps = epochs * _batch_count(len(indices), self.config.training.batch_size)
        schedule = self._steps(optimiser, steps, rate)
        pulled = pulls(network, anchor)
        weights = self._weights(indices)
        losses: list[float] = []
        with self.randomness(self.seed) as generator:
            for _ in range(epochs):
                self.training_mode(network)
                total = torch.zeros((), device=self.device)
                batches = self._batches(indices, generator)
                for batch in batches:
                    loss = self._loss(network, batch, weights, generator)
                    self._step(optimiser, loss, pulled)
                    schedule.step()
                    total += loss.detach()
                losses.append(finite(total, "training") / len(batches))
                self.seen, self.loss = self.seen + len(indices), losses[-1]
                if after_epoch is not None and after_epoch(network):
                    break
        return losses

    def _optimiser(
        self, network: Network, freeze: Sequence[str], rate: float | None
    ) -> torch.optim.Optimizer:
        training = self.config.training
        peak = training.learning_rate if rate is None else rate
        groups = self.groups(network, freeze, peak)
        return torch.optim.AdamW(groups, weight_decay=training.weight_decay)

    def _steps(
        self, optimiser: torch.optim.Optimizer, steps: int, rate: float | None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Return the schedule of step sizes: constant in rounds, else warm-up and a cosine."""
        shape = partial(_schedule, steps=steps, warmup=self.config.training.warmup)
        return torch.optim.lr_scheduler.LambdaLR(
            optimiser, shape if rate is None else lambda step: 1.0
        )

    @torch.no_grad()
    def estimate_norm(self, network: Network, indices: Tensor) -> None:
        """Re-estimate batch-norm statistics as plain means over batches of the given examples."""
        layers = [m for m in norm_layers(network) if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        before = [layer.momentum for layer in layers]
        network.eval()
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None
            layer.train()
        for batch in _batched(indices, EVALUATION_BATCH):
            network.embed(self.inputs(batch))
        for layer, momentum in zip(layers, before, strict=True):
            layer.momentum = momentum
            layer.eval()

    def adapt(self, network: Network, indices: Tensor) -> None:
        """Follow the policy ``adapt``; the same images again change nothing."""
        if self.config.training.batch_norm == "adapt":
            self.estimate_norm(network, indices)

    def _loss(
        self, network: Network, batch: Tensor, weights: Tensor | None, generator: torch.Generator
    ) -> Tensor:
        """Return the mean loss of an augmented batch, on the device."""
        inputs = self._augment(self.raw(batch), generator)
        with self.precision():
            outputs = network(inputs)
        return self.loss_of(outputs.float(), self.targets(batch), weights)

    def _step(self, optimiser: torch.optim.Optimizer, loss: Tensor, pulls: Sequence[Pull]) -> None:
        """Take one clipped step; pulls are added to the gradients."""
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        for parameter, point, strength in pulls:
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - point, alpha=strength)
        moving = [parameter for group in optimiser.param_groups for parameter in group["params"]]
        nn.utils.clip_grad_norm_(moving, self.config.training.clip_norm)
        optimiser.step()

    def groups(self, network: Network, freeze: Sequence[str], rate: float) -> list[dict[str, Any]]:
        """Parameter groups: the head, each stage with its own step size, and a personal stem."""
        training = self.config.training
        named = dict(network.named_parameters())
        for parameter in named.values():
            parameter.requires_grad_(False)
        groups: list[dict[str, Any]] = []
        if "head" not in freeze:
            groups.append(
                {"params": list(network.head.parameters()), "lr": training.head_learning_rate}
            )
        if "backbone" not in freeze:
            order = stages(network)
            first = stage_index(network, training.freeze_until)
            for place, stage in enumerate(order):
                if place >= first:
                    slower = training.stage_decay ** (len(order) - 1 - place)
                    chosen = [named[name] for name in stage.parameters]
                    groups.append({"params": chosen, "lr": rate * slower})
            if stem := list(network.stem.parameters()):
                groups.append({"params": stem, "lr": training.head_learning_rate})
        for group in groups:
            for parameter in group["params"]:
                parameter.requires_grad_(True)
        return groups

    def training_mode(self, network: Network) -> None:
        """Dropout on; batch norm by policy, and never where its stage is frozen."""
        network.train()
        for layer in norm_layers(network):
            frozen = not any(parameter.requires_grad for parameter in layer.parameters())
            if frozen or self.config.training.batch_norm != "train":
                layer.eval()

    def _batches(self, indices: Tensor, generator: torch.Generator) -> list[Tensor]:
        """Return shuffled batches of indices."""
        order = indices[torch.randperm(len(indices), generator=generator).to(indices.device)]
        return _batched(order, self.config.training.batch_size)

    def raw(self, indices: Tensor) -> Tensor:
        """Return raw inputs; indices on the data's device, where they should be, are not copied."""
        return self.data.inputs[indices.to(self.data.inputs.device)]

    def inputs(self, indices: Tensor) -> Tensor:
        """Return examples as the network takes them, without augmentation."""
        inputs: Tensor = self._evaluate(self.raw(indices))
        return inputs

    def targets(self, indices: Tensor) -> Tensor:
        """Return what is to be learned of some examples, on the device."""
        return self.data.targets[indices.to(self.data.targets.device)].to(self.device)

    def loss_of(self, outputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the task's mean loss of a batch."""
        return self.task.loss(outputs, targets, weights=weights, data=self.data)

    def _weights(self, indices: Tensor) -> Tensor | None:
        weights = self.task.weights(self.data, indices)
        return None if weights is None else weights.to(self.device)

    def precision(self) -> torch.autocast:
        """Return the context of a forward pass: bfloat16 on CUDA, float32 elsewhere."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    @contextmanager
    def randomness(self, seed: int) -> Iterator[torch.Generator]:
        """Seed torch for dropout and yield a generator for the rest; restores both after."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            yield torch.Generator().manual_seed(seed)


def _batched(indices: Tensor, size: int) -> list[Tensor]:
    """Cut into batches; a single example left over joins the last: it has no batch statistics."""
    batches = list(torch.split(indices, size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def _batch_count(examples: int, size: int) -> int:
    """Return how many batches `_batched` makes."""
    full, left = divmod(examples, size)
    return max(1, full + (left > 1))


def _schedule(step: int, steps: int, warmup: float) -> float:
    """Factor of the step size: linear from 0 over ``warmup``, then half a cosine to 0."""
    ahead = warmup * steps
    if step + 1 < ahead:
        return (step + 1) / ahead
    return 0.5 * (1 + math.cos(math.pi * (step - ahead) / max(1.0, steps - ahead)))


def finite(value: Tensor, doing: str) -> float:
    """Read a number from the device; the only wait of an epoch."""
    number = float(value.detach())
    if not math.isfinite(number):
        raise TrainingError(
            f"loss must be finite, got {number} while {doing}; lower training.learning_rate"
        )
    return number
