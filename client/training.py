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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from client.tasks import Task
from client.tasks.images import ImageData
from common.backbone import Network, norm_layers, stage_index, stages
from common.config import FederationConfig
from common.errors import ConfigError, TrainingError

#: Images in one forward pass without gradients.
EVALUATION_BATCH = 128


def choose_device(name: str) -> torch.device:
    """Return the device to train on; ``auto`` prefers cuda, then mps, then cpu.

    Raises
    ------
    ConfigError
        If the named device is not there.
    """
    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next((kind for kind, here in found.items() if here), "cpu")
    if not found.get(name, True):
        raise ConfigError(f"device must be present on this machine, got {name!r}; use auto or cpu")
    return torch.device(name)


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """A quadratic pull of named parameters to a point: strength / 2 · ‖θ − point‖²."""

    point: Mapping[str, Tensor]
    strength: float


#: Called with the network after each epoch; returns True to stop.
AfterEpoch = Callable[[Network], bool]


@dataclass(kw_only=True)
class Trainer:
    """Trains networks on one plant's data.

    Attributes
    ----------
    task : says how a raw batch becomes input.
    data : the plant's images, on ``device``.
    config : the federation's settings.
    device : where the network and the data are.
    seed : of shuffles, augmentation and dropout; nothing else is random.
    """

    task: Task
    data: ImageData
    config: FederationConfig
    device: torch.device
    seed: int

    def __post_init__(self) -> None:
        torch.set_num_threads(self.config.threads)
        self._evaluate = self.task.evaluation_transform()
        self._augment = self.task.training_transform()

    # -- without gradients -------------------------------------------------------------------

    @torch.no_grad()
    def embed(self, network: Network, indices: Tensor) -> Tensor:
        """Return features of the frozen backbone, float32, shape (len(indices), features)."""
        network.eval()
        parts = []
        for batch in indices.split(EVALUATION_BATCH):
            with self._precision():
                parts.append(network.embed(self._evaluate(self._images(batch))).float())
        return torch.cat(parts)

    @torch.no_grad()
    def predict(self, network: Network, indices: Tensor) -> Tensor:
        """Return class probabilities, float32 on the CPU, shape (len(indices), classes)."""
        logits = network.head(self.embed(network, indices))
        return logits.softmax(1).cpu()

    def validate(self, network: Network, indices: Tensor | None = None) -> dict[str, float]:
        """Return balanced accuracy and loss on the validation split (or other indices)."""
        indices = self.data.validation if indices is None else indices
        return quick_scores(self.predict(network, indices), self.data.labels[indices.cpu()].cpu())

    # -- head first --------------------------------------------------------------------------

    def fit_head(self, network: Network, indices: Tensor) -> None:
        """Fit the head on features of the frozen backbone, computed once.

        Full-batch AdamW from zero along a cosine; a convex problem, so it needs no tuning.
        """
        training = self.config.training
        features = self.embed(network, indices)
        labels = self._labels(indices)
        weights = self.data.class_weights(indices).to(self.device)
        head = network.head
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        head.requires_grad_(True)
        optimiser = torch.optim.AdamW(head.parameters(), lr=1e-2, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            optimiser, max(1, training.head_epochs)
        )
        with self._randomness(self.seed):
            for _ in range(training.head_epochs):
                logits = head(F.dropout(features, 0.2))
                loss = F.cross_entropy(
                    logits, labels, weights, label_smoothing=training.label_smoothing
                )
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
        _finite(head.weight.sum(), "fitting the head")

    # -- the loop ----------------------------------------------------------------------------

    def fit(
        self,
        network: Network,
        indices: Tensor,
        *,
        epochs: int,
        anchor: Anchor | None = None,
        freeze: Sequence[str] = (),
        anneal: bool = True,
        freeze_until: str = "",
        after_epoch: AfterEpoch | None = None,
    ) -> list[float]:
        """Train the network in place.

        Parameters
        ----------
        indices : training images.
        epochs : passes over them, at most.
        anchor : pull of some parameters to a point, added to the gradient.
        freeze : ``("head",)`` or ``("backbone",)``: parts that do not move.
        anneal : warm up and fall along a cosine; otherwise the step size is constant.
        freeze_until : stages of the backbone before this one do not move.
        after_epoch : called after each epoch; training stops when it returns True.

        Returns
        -------
        The mean loss of each epoch.

        Raises
        ------
        TrainingError
            If the loss is not finite; the network is then unusable.
        """
        training = self.config.training
        if training.batch_norm == "adapt":
            self.estimate_norm(network, indices)
        groups = self._groups(network, freeze, freeze_until)
        parameters = [parameter for group in groups for parameter in group["params"]]
        optimiser = torch.optim.AdamW(groups, weight_decay=training.weight_decay)
        pulls = _pulls(network, anchor)
        weights = self.data.class_weights(indices).to(self.device)
        rates = [group["lr"] for group in optimiser.param_groups]
        steps = epochs * math.ceil(len(indices) / training.batch_size)
        losses: list[float] = []
        step = 0
        with self._randomness(self.seed) as generator:
            for _ in range(epochs):
                self._training_mode(network, freeze)
                total = torch.zeros((), device=self.device)
                for batch in self._batches(indices, generator):
                    factor = _schedule(step, steps, training.warmup) if anneal else 1.0
                    for group, rate in zip(optimiser.param_groups, rates, strict=True):
                        group["lr"] = rate * factor
                    inputs = self._augment(self._images(batch), generator)
                    with self._precision():
                        logits = network(inputs)
                    loss = F.cross_entropy(
                        logits.float(),
                        self._labels(batch),
                        weights,
                        label_smoothing=training.label_smoothing,
                    )
                    optimiser.zero_grad(set_to_none=True)
                    loss.backward()  # type: ignore[no-untyped-call]
                    for parameter, point, strength in pulls:
                        if parameter.grad is not None:
                            parameter.grad.add_(parameter.detach() - point, alpha=strength)
                    nn.utils.clip_grad_norm_(parameters, training.clip_norm)
                    optimiser.step()
                    total += loss.detach()
                    step += 1
                losses.append(
                    _finite(total, "training") / math.ceil(len(indices) / training.batch_size)
                )
                if after_epoch is not None and after_epoch(network):
                    break
        return losses

    @torch.no_grad()
    def estimate_norm(self, network: Network, indices: Tensor) -> None:
        """Re-estimate batch-norm statistics as plain means over the given images."""
        layers = [m for m in norm_layers(network) if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        before = [layer.momentum for layer in layers]
        network.eval()
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None
            layer.train()
        for batch in indices.split(EVALUATION_BATCH):
            network.embed(self._evaluate(self._images(batch)))
        for layer, momentum in zip(layers, before, strict=True):
            layer.momentum = momentum
            layer.eval()

    # -- parts -------------------------------------------------------------------------------

    def _groups(
        self, network: Network, freeze: Sequence[str], freeze_until: str
    ) -> list[dict[str, object]]:
        """Parameter groups: the head, then each stage with its own step size."""
        training = self.config.training
        named = dict(network.named_parameters())
        for parameter in named.values():
            parameter.requires_grad_(False)
        groups: list[dict[str, object]] = []
        if "head" not in freeze:
            groups.append(
                {"params": list(network.head.parameters()), "lr": training.head_learning_rate}
            )
        if "backbone" not in freeze:
            order = stages(network)
            first = stage_index(network, freeze_until) if freeze_until else 0
            for place, stage in enumerate(order):
                if place >= first:
                    rate = training.learning_rate * training.stage_decay ** (len(order) - 1 - place)
                    groups.append({"params": [named[name] for name in stage.parameters], "lr": rate})
        for group in groups:
            for parameter in group["params"]:  # type: ignore[attr-defined]
                parameter.requires_grad_(True)
        return groups

    def _training_mode(self, network: Network, freeze: Sequence[str]) -> None:
        """Dropout on; batch norm by policy."""
        network.train()
        if self.config.training.batch_norm != "train" or "backbone" in freeze:
            for layer in norm_layers(network):
                layer.eval()

    def _batches(self, indices: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
        """Shuffled batches; a last batch of one image joins the one before."""
        order = indices[torch.randperm(len(indices), generator=generator).to(indices.device)]
        batches = list(order.split(self.config.training.batch_size))
        if len(batches) > 1 and len(batches[-1]) == 1:
            batches[-2:] = [torch.cat(batches[-2:])]
        yield from batches

    def _images(self, indices: Tensor) -> Tensor:
        return self.data.images[indices.to(self.data.images.device)]

    def _labels(self, indices: Tensor) -> Tensor:
        return self.data.labels[indices.to(self.data.labels.device)].to(self.device)

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    @contextmanager
    def _randomness(self, seed: int) -> Iterator[torch.Generator]:
        """Seed torch for dropout and yield a generator for the rest; restores both after."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            yield torch.Generator().manual_seed(seed)


def quick_scores(probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """Balanced accuracy and mean negative log likelihood; cheap enough for every epoch."""
    right = (probabilities.argmax(1) == labels).double()
    recalls = [right[labels == label].mean() for label in labels.unique()]
    true = probabilities.gather(1, labels[:, None]).clamp_min(1e-12).log()
    return {
        "balanced_accuracy": float(torch.stack(recalls).mean()),
        "loss": float(-true.double().mean()),
    }


def _pulls(network: Network, anchor: Anchor | None) -> list[tuple[nn.Parameter, Tensor, float]]:
    if anchor is None or anchor.strength == 0:
        return []
    named = dict(network.named_parameters())
    return [
        (named[name], point.to(named[name].device), anchor.strength)
        for name, point in anchor.point.items()
        if name in named
    ]


def _schedule(step: int, steps: int, warmup: float) -> float:
    """Factor of the step size: linear from 0 over ``warmup``, then half a cosine to 0."""
    ahead = warmup * steps
    if step + 1 < ahead:
        return (step + 1) / ahead
    return 0.5 * (1 + math.cos(math.pi * (step - ahead) / max(1.0, steps - ahead)))


def _finite(value: Tensor, doing: str) -> float:
    """Read a number from the device; the only wait of an epoch."""
    number = float(value.detach())
    if not math.isfinite(number):
        raise TrainingError(
            f"loss must be finite, got {number} while {doing}; lower training.learning_rate"
        )
    return number

