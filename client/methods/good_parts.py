"""Methods of one plant alone where there are only good parts: a memory, and the backbone if asked.

PatchCore (Roth et al. 2022, https://arxiv.org/abs/2106.08265) trains nothing: the memory is filled
with a coreset of a plant's good patches on the backbone as it is, and the threshold is calibrated
on good parts that are not in it. That is what a plant has without joining, and what it makes of the
last release. With ``anomaly.fine_tune`` the backbone is trained at the plant first, by the same
recipe as in rounds; the state is kept whose memory tells made-up defects best, the one before any
training among them.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from client.anomaly.coreset import MOST, coreset
from client.anomaly.threshold import calibrate
from client.methods.base import Work
from client.selection import Evidence, judged
from client.training import EVALUATION_BATCH, Trainer
from common.backbone import Network
from common.backbones.memory import MemoryHead

#: Times that a memory is filled while the backbone trains: each takes as long as an epoch or two.
CHECKS = 5


def remember(work: Work) -> Evidence:
    """Fill the memory on the backbone as it is, and return what it says of held-out parts."""
    trainer, network = work.trainer, work.network
    data, head = trainer.data, _head(network)
    head.memory.count.zero_()
    patches = _patches(trainer, network, data.train)
    # One seed for all models of a plant: they differ by their backbone, not by their draw.
    chosen = coreset(patches, size=len(head.memory.patches), seed=trainer.config.seed)
    head.memory.fill(patches[chosen])
    batches = torch.split(data.extra.to(trainer.device), EVALUATION_BATCH)
    scores = [head.memory.look(trainer.embed(network, batch)).scores for batch in batches]
    budget = trainer.config.false_reject_budget
    line = calibrate(torch.cat(scores).cpu().numpy(), budget=budget)
    head.memory.threshold.fill_(line.value)
    return trainer.predict(network, judged(data)).numpy()


def local(work: Work) -> Evidence:
    """`remember`, or `train_and_remember` where the federation asks for it."""
    if work.trainer.config.anomaly.fine_tune:
        return train_and_remember(work)
    return remember(work)


def pooled(work: Work) -> Evidence:
    """Train the backbone as far as it goes: every plant will fill a memory of its own on it."""
    trainer = work.trainer
    _head(work.network).memory.count.zero_()
    trainer.fit_head(work.network, trainer.data.train)
    trainer.fit(work.network, trainer.data.train, epochs=trainer.config.training.epochs)
    return remember(work)


def train_and_remember(work: Work) -> Evidence:
    """Train the backbone and keep its best state."""
    trainer, network = work.trainer, work.network
    best = _State(network, remember(work), trainer)
    training = trainer.config.training
    every = max(1, training.epochs // CHECKS)
    done = 0

    def after(network: Network) -> bool:
        nonlocal best, done
        done += 1
        if done % every == 0 or done == training.epochs:
            state = _State(network, remember(work), trainer)
            best = max(best, state, key=lambda one: one.score)
            _head(network).memory.count.zero_()
        return False

    _head(network).memory.count.zero_()
    trainer.fit_head(network, trainer.data.train)
    trainer.fit(
        network,
        trainer.data.train,
        epochs=training.epochs,
        after_epoch=after,
    )
    network.load_state_dict(best.tensors)
    return best.evidence


class _State:
    """A network as it was, with its evidence."""

    def __init__(self, network: Network, evidence: Evidence, trainer: Trainer) -> None:
        self.tensors = copy.deepcopy(network.state_dict())
        self.evidence = evidence
        scores = trainer.quick_scores(torch.from_numpy(evidence), judged(trainer.data))
        self.score = trainer.task.measure.rank(scores)


def _patches(trainer: Trainer, network: Network, indices: Tensor) -> Tensor:
    """Return patches of good parts, of each part about equally many, `MOST` in all at most."""
    most = -(-MOST // len(indices))
    generator = torch.Generator().manual_seed(trainer.config.seed)
    found = []
    for batch in torch.split(indices, EVALUATION_BATCH):
        features = trainer.embed(network, batch).flatten(1, 2)
        if features.shape[1] > most:
            drawn = torch.rand(features.shape[:2], generator=generator).argsort(dim=1)[:, :most]
            rows = torch.arange(len(features))[:, None]
            features = features[rows.to(features.device), drawn.to(features.device)]
        found.append(features.flatten(0, 1))
    return torch.cat(found)


def _head(network: Network) -> MemoryHead:
    head = network.head
    assert isinstance(head, MemoryHead), "the task's family has this head"
    return head
