"""Choosing among states of training, and the evidence for the choice.

With ten labels a class or more, some labelled examples are held out and the best state on them is
kept. With fewer, holding out is too dear: k-fold cross-validation over all labelled examples says
how many epochs to train, and then all of them are trained on.

Either way a model comes with *evidence*: its predictions for labelled examples that it (or
its twin of the fold) was not trained on, in the order of `judged`. Adoption compares evidence.
Rounds never train on the validation examples, which are the first fold's; a release's backbone may
have seen the others, so adoption looks at the evidence about these alone.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from client.tasks.data import PlantData
from client.training import Trainer
from common.backbone import Network

Evidence = npt.NDArray[np.float32]

#: Trains the network on the given examples and calls the function after each epoch.
Fit = Callable[[Network, Tensor, Callable[[Network], bool]], object]


def judged(data: PlantData) -> Tensor:
    """Return indices of the labelled examples that evidence is about, in its order.

    The validation examples come first. No round trains on them, so of a release only the evidence
    about these is clean.
    """
    return torch.cat([held for _, held in data.folds])


def labelled(data: PlantData) -> Tensor:
    """Return indices of all labelled examples."""
    return torch.cat([data.train, data.validation])


def fit_and_choose(network: Network, trainer: Trainer, fit: Fit) -> Evidence:
    """Train a network in place, keep the best state, return the evidence.

    Parameters
    ----------
    network : where training starts.
    fit : the recipe; every state at which it calls back is a candidate.

    Returns
    -------
    float32, shape (len(judged(data)), outputs).
    """
    data = trainer.data
    if len(data.folds) == 1:
        train, held = data.folds[0]
        keeper = Keeper(trainer=trainer, held=held, patience=trainer.config.training.patience)
        fit(network, train, keeper)
        keeper.restore(network)
        return trainer.predict(network, held).numpy()
    start = copy.deepcopy(network.state_dict())
    records = []
    for train, held in data.folds:
        network.load_state_dict(start)
        record = Record(trainer=trainer, held=held)
        fit(network, train, record)
        records.append(torch.stack(record.predicted))
    evidence = torch.cat(records, dim=1)
    order, task = judged(data), trainer.task
    scores = [task.measure.rank(trainer.quick_scores(epoch, order)) for epoch in evidence]
    enough = max(scores) - task.slack(len(order))
    best = max(i for i, score in enumerate(scores) if score >= enough)
    network.load_state_dict(start)
    fit(network, labelled(data), Countdown(epochs=best + 1))
    return evidence[best].numpy()


@dataclass(kw_only=True)
class Keeper:
    """Early stopping on held-out examples: remembers the best state.

    Of states that are within the task's slack (one image, say) of the best the latest is kept:
    the step size falls along a cosine, so later states are calmer, and a few examples cannot tell
    them apart.
    """

    trainer: Trainer
    held: Tensor
    patience: int
    best: float = -math.inf
    state: dict[str, Tensor] | None = None
    waited: int = 0

    def __call__(self, network: Network) -> bool:
        task = self.trainer.task
        score = task.measure.rank(self.trainer.validate(network, self.held))
        if score >= self.best - task.slack(len(self.held)):
            self.best, self.waited = max(self.best, score), 0
            self.state = copy.deepcopy(network.state_dict())
        else:
            self.waited += 1
        return self.waited >= self.patience

    def restore(self, network: Network) -> None:
        """Put the best state back."""
        if self.state is not None:
            network.load_state_dict(self.state)


@dataclass(kw_only=True)
class Record:
    """Predictions for a fold's held-out examples after every epoch."""

    trainer: Trainer
    held: Tensor
    predicted: list[Tensor] = field(default_factory=list)

    def __call__(self, network: Network) -> bool:
        self.predicted.append(self.trainer.predict(network, self.held))
        return False


@dataclass(kw_only=True)
class Countdown:
    """Stops after a number of epochs."""

    epochs: int

    def __call__(self, network: Network) -> bool:
        self.epochs -= 1
        return self.epochs <= 0
