"""How sure the plant's model is: an ensemble, and what it got wrong on rows it did not learn from.

Members start from the model that the plant runs, read rows as it does, and are tuned on bootstrap
samples of the training rows (Lakshminarayanan et al. 2017, "Simple and Scalable Predictive
Uncertainty Estimation using Deep Ensembles", https://arxiv.org/abs/1612.01474; with bootstrap
instead of random starts, because the shared trunk is the point). Their spread, and the error that
is left on the validation rows, make the uncertainty; a factor makes 90 % intervals of it that hold
on the validation rows (split conformal prediction, Lei et al. 2018, https://arxiv.org/abs/1604.04173).

These rows vouch for nothing that learned from them: members train for a fixed number of epochs, and
where the plant's model has, or may have, trained on them there is no interval.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
import torch

from client.earlier import read_by
from client.origin import judged_examples
from client.plant import Plant
from client.tasks.data import PlantData
from client.tasks.meaning import Meaning
from client.training import Trainer
from common.backbone import Network
from common.config import FederationConfig
from common.errors import ConfigError

Array = npt.NDArray[np.float64]

MEMBERS = 8
LEVEL = 0.9
#: Fewer rows have no 90 % quantile: the largest of n errors holds n of n + 1.
FEWEST = 9
#: Passes over a bootstrap sample; fewer where rows are many.
EPOCHS = 30
MOST_ROWS = 20_000


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """A plant's model with its uncertainty.

    Attributes
    ----------
    members : networks on the plant's device.
    left : standard deviation of what the members' mean gets wrong beyond their spread.
    factor : of the uncertainty, for intervals of 90 %; None if there are none.
    doubt : why there are none; "" if there are.
    judged : validation rows that ``left`` and ``factor`` come from.
    correlation : of predicted and measured, by rank, on these rows.
    """

    members: tuple[Network, ...]
    trainer: Trainer
    left: float
    factor: float | None
    doubt: str
    judged: int
    correlation: float

    def predict(self, rows: npt.NDArray[np.float32]) -> tuple[Array, Array]:
        """Return mean and uncertainty (one deviation) in the units of the target, shape (n,)."""
        mean, spread = _say(self.members, self.trainer, rows)
        return mean, np.sqrt(np.square(spread) + self.left**2)

    def interval(self, mean: float, deviation: float) -> tuple[float, float] | None:
        """Return the ends of the 90 % interval; None where nothing vouches for one."""
        if self.factor is None:
            return None
        return mean - self.factor * deviation, mean + self.factor * deviation

    def chance(self, mean: float, deviation: float, *, above: float) -> float | None:
        """Return how likely a value is above another one, by the interval's width, or None."""
        if self.factor is None:
            return None
        width = deviation * self.factor / NormalDist().inv_cdf((1 + LEVEL) / 2)
        return 1 - NormalDist(mean, max(width, 1e-12)).cdf(above)


def train(plant: Plant, config: FederationConfig, *, members: int = MEMBERS) -> Ensemble:
    """Make an ensemble from the model that a plant runs.

    Raises
    ------
    ConfigError
        If the plant runs no model yet, or one that says something else than its table holds now.
    TransferlineError
        As training raises.
    """
    deployed = plant.store.deployed()
    if deployed is None:
        raise ConfigError("plant must run a model before it can propose anything, got none; train")
    version = plant.store.version(deployed.version)
    meaning = Meaning.of(version.meaning, where=f"model {version.number}")
    data = read_by(plant, config, meaning=meaning)
    if data is None:
        raise ConfigError(
            f"model {version.number} must say {plant.data(config).numbers[0]}, which the plant "
            f"learns now, got one that says {', '.join(meaning.numbers or meaning.classes)}; wait "
            "for the next model"
        )
    task, device = plant.task(config), data.inputs.device
    start = plant.model(version.number, config=config)
    rows = len(data.train)
    epochs = max(1, min(EPOCHS, EPOCHS * MOST_ROWS // max(1, rows * EPOCHS)))
    found = []
    for number in range(members):
        network = copy.deepcopy(start)
        trainer = Trainer(task=task, data=data, config=config, device=device, seed=number)
        drawn = np.random.default_rng([config.seed, number]).integers(0, rows, rows)
        sample = data.train[torch.from_numpy(drawn).to(data.train.device)]
        trainer.fit_head(network, sample)
        trainer.fit(network, sample, epochs=epochs)
        found.append(network.eval())
    held = data.inputs[data.validation].cpu().numpy()
    truth = data.targets[data.validation][:, 0].cpu().numpy().astype(np.float64)
    mean, spread = _say(found, trainer, held)
    left = float(np.sqrt(max(np.square(truth - mean).mean() - np.square(spread).mean(), 0.0)))
    left = max(left, 1e-6 * float(truth.std() or 1.0))
    deviation = np.sqrt(np.square(spread) + left**2)
    doubt = _doubt(data, judged=version.judged)
    rank = int(np.ceil((len(truth) + 1) * LEVEL))
    return Ensemble(
        members=tuple(found),
        trainer=trainer,
        left=left,
        factor=None if doubt else float(np.sort(np.abs(truth - mean) / deviation)[rank - 1]),
        doubt=doubt,
        judged=len(truth),
        correlation=rank_correlation(mean, truth),
    )


def _doubt(data: PlantData, *, judged: str) -> str:
    """Say why the validation rows vouch for no interval; "" if they do.

    Parameters
    ----------
    judged : what the plant's model was judged on (`client.personal.Version`).
    """
    if len(data.folds) > 1:
        return "the model has learned from all labelled rows, as below ten labels a class"
    if judged != judged_examples(data):
        return "the labelled rows are others than the model was judged on; wait for the next model"
    if len(data.validation) < FEWEST:
        return f"{len(data.validation)} validation rows are too few, {FEWEST} are needed"
    return ""


def rank_correlation(one: Array, other: Array) -> float:
    """Return Spearman's rank correlation; 0 where one of them is constant."""
    first, second = (_ranks(values) for values in (one, other))
    if first.std() == 0 or second.std() == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def _ranks(values: Array) -> Array:
    """Return ranks, the mean one for ties."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[place], dtype=np.float64)


@torch.no_grad()
def _say(
    members: tuple[Network, ...] | list[Network], trainer: Trainer, rows: npt.NDArray[np.float32]
) -> tuple[Array, Array]:
    """Return mean and deviation over the members."""
    inputs = torch.from_numpy(np.ascontiguousarray(rows)).to(trainer.device)
    data = replace(trainer.data, inputs=inputs)
    outputs = [
        trainer.task.decode(member(trainer.task.evaluation_transform()(inputs)), data=data)
        for member in members
    ]
    said = torch.stack(outputs)[..., 0].cpu().double().numpy()
    return said.mean(axis=0), said.std(axis=0)
