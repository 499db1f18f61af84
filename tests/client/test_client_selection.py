"""The best state is kept, and evidence is about images that a model was not trained on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from client.selection import Countdown, Keeper, fit_and_choose, judged, labelled
from client.tasks.data import PlantData
from client.training import Trainer
from common.backbone import Network, read_tensors

Make = Callable[..., Trainer]
Tiny = Callable[[], Network]
Toy = Callable[..., PlantData]
After = Callable[[Network], bool]


def answer(network: Network, *, dark: float) -> None:
    """Let a network give one probability, whatever the image."""
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias.copy_(torch.tensor([dark, 1 - dark]).log())


def test_keeper_keeps_the_latest_of_the_best_and_has_patience(trainer_of: Make, tiny: Tiny) -> None:
    trainer, network = trainer_of(), tiny()
    dark_only = trainer.data.validation[trainer.data.targets[trainer.data.validation] == 0]
    keeper = Keeper(trainer=trainer, held=dark_only, patience=2)
    stops = []
    for dark in (0.6, 0.4, 0.7, 0.3, 0.2):  # above a half all are right, below none
        answer(network, dark=dark)
        stops.append(keeper(network))
    assert stops == [False, False, False, False, True]
    assert keeper.best == 1.0
    keeper.restore(network)
    assert trainer.predict(network, dark_only)[:, 0].tolist() == pytest.approx([0.7] * 4)


def test_one_image_less_is_as_good(trainer_of: Make, tiny: Tiny) -> None:
    trainer, network = trainer_of(), tiny()
    answer(network, dark=0.9)  # right for half of the eight
    for best, waits in ((0.625, 0), (0.65, 1)):
        keeper = Keeper(trainer=trainer, held=trainer.data.validation, patience=9, best=best)
        keeper(network)
        assert (keeper.waited, keeper.best) == (waits, best)


def test_countdown() -> None:
    down = Countdown(epochs=2)
    network = None
    assert [down(network) for _ in range(2)] == [False, True]  # type: ignore[arg-type]


def test_held_out_evidence_is_that_of_the_kept_state(trainer_of: Make, tiny: Tiny) -> None:
    trainer, network = trainer_of(), tiny()
    seen: list[Tensor] = []

    def fit(network: Network, indices: Tensor, after: After) -> None:
        seen.append(indices)
        trainer.fit_head(network, indices)
        after(network)
        trainer.fit(network, indices, epochs=3, after_epoch=after)

    evidence = fit_and_choose(network, trainer, fit)
    assert [indices.tolist() for indices in seen] == [trainer.data.train.tolist()]
    again = trainer.predict(network, trainer.data.validation).numpy()
    np.testing.assert_array_equal(evidence, again)
    assert evidence.dtype == np.float32


def test_every_labelled_image_is_judged_once_by_a_twin_that_never_saw_it(
    trainer_of: Make, tiny: Tiny, toy: Toy
) -> None:
    """Each call of the recipe leaves its number in the head, so that evidence tells who gave it."""
    data = toy(train=12, held=6, folds=3)
    trainer, network = trainer_of(data), tiny()
    start = read_tensors(network)["backbone.first.0.weight"].copy()
    calls: list[Tensor] = []
    starts: list[bool] = []

    def fit(network: Network, indices: Tensor, after: After) -> None:
        now = read_tensors(network)["backbone.first.0.weight"]
        starts.append(np.array_equal(now, start))
        calls.append(indices)
        answer(network, dark=len(calls) / 10)
        with torch.no_grad():
            network.backbone.first[0].weight.add_(1.0)
        after(network)

    evidence = fit_and_choose(network, trainer, fit)
    order = judged(data)
    assert sorted(order.tolist()) == sorted(labelled(data).tolist()) == list(range(18))
    for image, row in zip(order.tolist(), evidence, strict=True):
        twin = round(float(row[0]) * 10) - 1
        assert image not in calls[twin].tolist()
        assert len(calls[twin]) == 12
    assert sorted(calls[3].tolist()) == list(range(18))  # the model itself: all of them
    assert starts == [True] * 4  # no twin starts from another
    held = data.validation.tolist()
    assert judged(data).tolist()[: len(held)] == held
    assert not set(held) & set(data.train.tolist())


def test_folds_say_how_long_to_train(trainer_of: Make, tiny: Tiny, toy: Toy) -> None:
    trainer, network = trainer_of(toy(train=12, held=6, folds=3), head_epochs=60), tiny()
    lengths = []

    def fit(network: Network, indices: Tensor, after: After) -> None:
        lengths.append(0)
        trainer.fit_head(network, indices)
        for turn in (-1, -1, 1, -1, 1):  # wrong, right, right, wrong, wrong
            with torch.no_grad():
                network.head.weight.mul_(turn)
                network.head.bias.mul_(turn)
            lengths[-1] += 1
            if after(network):
                break

    evidence = fit_and_choose(network, trainer, fit)
    assert lengths == [5, 5, 5, 3]
    truth = trainer.data.targets[judged(trainer.data)].numpy()
    assert (evidence.argmax(1) == truth).mean() > 0.8
