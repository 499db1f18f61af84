"""What each method does with a network, and what it keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from client.methods import ALONE, FEDERATED, Work
from client.methods.base import Arrays
from client.methods.simclr import contrast, nt_xent
from client.selection import judged
from client.tasks.data import PlantData
from client.training import Trainer
from common import sharing
from common.backbone import Network, read_tensors
from common.config import FederationConfig

Make = Callable[..., Trainer]
Tiny = Callable[[], Network]
Toy = Callable[..., PlantData]
Change = Callable[..., FederationConfig]


@pytest.fixture
def work_of(trainer_of: Make, tiny: Tiny, changed: Change) -> Callable[..., Work]:
    """Return ``work_of(first=True, data=None, extra=None, **methods)``."""

    def make(
        *,
        first: bool = True,
        data: PlantData | None = None,
        extra: Arrays | None = None,
        **methods: float,
    ) -> Work:
        trainer = trainer_of(data, learning_rate=1e-2, round_learning_rate=1e-2, epochs=4)
        trainer.config = changed(trainer.config, methods=methods)
        return Work(network=tiny(), trainer=trainer, first=first, extra=extra or {})

    return make


def distance(network: Network, other: Network, *, part: str = "backbone.") -> float:
    """Euclidean distance over parameters."""
    pairs = [
        (value, other.get_parameter(name))
        for name, value in network.named_parameters()
        if name.startswith(part)
    ]
    return float(np.sqrt(sum((one - two).square().sum().item() for one, two in pairs)))


def same(one: Arrays, other: Arrays) -> bool:
    return all(np.array_equal(value, other[name]) for name, value in one.items())


def test_names_are_those_of_the_federation() -> None:
    assert FEDERATED.keys() == sharing.FEDERATED.keys()
    assert tuple(ALONE) == sharing.ALONE


@pytest.mark.parametrize("method", ["fedavg", "fedper", "fedbn"])
def test_head_and_backbone_train_together(
    work_of: Callable[..., Work], tiny: Tiny, method: str
) -> None:
    work = work_of()
    FEDERATED[method].train(work)
    assert distance(work.network, tiny()) > 0.01
    assert distance(work.network, tiny(), part="head.") > 0.01
    assert work.extra == {}


def test_head_is_fitted_in_the_first_round_only(work_of: Callable[..., Work]) -> None:
    for first in (True, False):
        work, by_hand = work_of(first=first), work_of()
        FEDERATED["fedper"].train(work)
        if first:
            by_hand.trainer.fit_head(by_hand.network, by_hand.train)
        by_hand.descend()
        assert same(work.snapshot(), by_hand.snapshot())


def test_fedrep_moves_the_backbone_under_a_fitted_head(
    work_of: Callable[..., Work], tiny: Tiny
) -> None:
    fitted = work_of()
    fitted.trainer.fit_head(fitted.network, fitted.train)
    for first in (True, False):
        work = work_of(first=first)
        FEDERATED["fedrep"].train(work)
        assert distance(work.network, fitted.network, part="head.") == 0.0
        assert distance(work.network, tiny()) > 0.01


def test_fedprox_pulls_to_the_release(work_of: Callable[..., Work], tiny: Tiny) -> None:
    runs = {}
    for strength in (0.0, 50.0):
        work = work_of(prox=strength)
        FEDERATED["fedprox"].train(work)
        runs[strength] = work
    plain = work_of()
    FEDERATED["fedavg"].train(plain)
    assert same(runs[0.0].snapshot(), plain.snapshot())
    assert distance(runs[50.0].network, tiny()) < distance(runs[0.0].network, tiny())


def test_ditto_keeps_a_personal_model_beside_the_shared_one(work_of: Callable[..., Work]) -> None:
    plain, work = work_of(), work_of()
    FEDERATED["fedper"].train(plain)
    FEDERATED["ditto"].train(work)
    assert same(work.snapshot(), plain.snapshot())  # the shared model knows nothing of it
    assert set(work.extra) == {f"ditto.{name}" for name in plain.snapshot()}

    later = work_of(first=False, extra=dict(work.extra))
    anew = work_of(first=False)
    for one in (later, anew):
        FEDERATED["ditto"].train(one)
    assert same(later.snapshot(), anew.snapshot())
    assert not same(later.extra, anew.extra)  # it goes on from where it was

    FEDERATED["ditto"].start(later)
    assert same({f"ditto.{name}": v for name, v in later.snapshot().items()}, later.extra)


def test_ditto_without_a_personal_model_starts_from_the_release(
    work_of: Callable[..., Work], tiny: Tiny
) -> None:
    work = work_of()
    FEDERATED["ditto"].start(work)
    assert same(work.snapshot(), read_tensors(tiny()))


def test_ditto_pulls_the_personal_model(work_of: Callable[..., Work], tiny: Tiny) -> None:
    lengths = []
    for strength in (0.0, 50.0):
        work = work_of(ditto=strength)
        FEDERATED["ditto"].train(work)
        FEDERATED["ditto"].start(work)
        lengths.append(distance(work.network, tiny()))
    assert lengths[1] < lengths[0]


@pytest.mark.parametrize("folds", [1, 3])
@pytest.mark.parametrize("method", ["head_only", "local", "l2sp"])
def test_alone_gives_evidence_about_labelled_images(
    work_of: Callable[..., Work], toy: Toy, method: str, folds: int
) -> None:
    work = work_of(data=toy(train=16, held=8, folds=folds))
    evidence = ALONE[method](work)
    data = work.trainer.data
    assert evidence.shape == (len(judged(data)), 2)
    np.testing.assert_allclose(evidence.sum(1), 1.0, rtol=1e-5)
    assert work.trainer.validate(work.network)["balanced_accuracy"] > 0.5


def test_head_only_leaves_the_backbone(work_of: Callable[..., Work], tiny: Tiny) -> None:
    work = work_of()
    ALONE["head_only"](work)
    assert distance(work.network, tiny()) == 0.0


def test_fine_tuning_is_about_as_good_on_validation_as_its_head(
    work_of: Callable[..., Work],
) -> None:
    head, tuned = work_of(), work_of()
    head.trainer.fit_head(head.network, head.train)
    ALONE["fine_tune"](tuned)
    before = head.trainer.validate(head.network)
    after = tuned.trainer.validate(tuned.network)
    one = 1 / len(tuned.trainer.data.validation)
    assert after["balanced_accuracy"] >= before["balanced_accuracy"] - one


def test_fine_tuning_freezes_the_first_stages(
    work_of: Callable[..., Work], tiny: Tiny, changed: Change
) -> None:
    work = work_of()
    work.trainer.config = changed(work.trainer.config, training={"freeze_until": "second.0"})
    ALONE["fine_tune"](work)
    assert distance(work.network, tiny(), part="backbone.first") == 0.0
    assert distance(work.network, tiny(), part="backbone.second") > 0.0


@pytest.mark.parametrize("method", sorted(FEDERATED))
def test_rounds_freeze_the_first_stages(
    method: str, work_of: Callable[..., Work], tiny: Tiny, changed: Change
) -> None:
    work = work_of()
    work.trainer.config = changed(work.trainer.config, training={"freeze_until": "second.0"})
    FEDERATED[method].train(work)
    assert distance(work.network, tiny(), part="backbone.first") == 0.0
    assert distance(work.network, tiny(), part="backbone.second") > 0.0


def test_l2sp_stays_nearer_to_the_source(work_of: Callable[..., Work], tiny: Tiny) -> None:
    free, none, pulled = work_of(), work_of(l2sp=0.0), work_of(l2sp=50.0)
    ALONE["fine_tune"](free)
    for work in (none, pulled):
        ALONE["l2sp"](work)
    assert same(free.snapshot(), none.snapshot())
    assert 0.0 < distance(pulled.network, tiny()) < distance(free.network, tiny())


@pytest.mark.parametrize(
    ("local_epochs", "local_steps", "passes"), [(2, 0, 2), (2, 16, 16), (20, 16, 20), (1, 3, 3)]
)
def test_a_small_plant_passes_over_its_images_more_often(
    work_of: Callable[..., Work], changed: Change, local_epochs: int, local_steps: int, passes: int
) -> None:
    work = work_of()
    batch = len(work.train)
    training = work.trainer.config.training.model_copy(update={"batch_size": batch})
    work.trainer.config = changed(
        work.trainer.config, local_epochs=local_epochs, local_steps=local_steps, training=training
    )
    assert work.epochs == passes
    training = training.model_copy(update={"batch_size": max(2, batch // 4)})
    work.trainer.config = changed(work.trainer.config, training=training)
    assert work.epochs == max(local_epochs, -(-local_steps // -(-batch // max(2, batch // 4))))


def test_views_of_one_image_are_drawn_together() -> None:
    # Two images, both views the same: each view has one partner at 1 and two strangers at 0.
    shown = torch.eye(2).repeat(2, 1)
    by_hand = -np.log(np.exp(2.0) / (np.exp(2.0) + 2.0))
    assert nt_xent(shown, temperature=0.5).item() == pytest.approx(by_hand)
    assert nt_xent(shown.flip(0)[[0, 1, 3, 2]], temperature=0.5).item() > by_hand


def test_simclr_learns_from_images_without_labels_and_keeps_its_projector(
    work_of: Callable[..., Work], toy: Toy, tiny: Tiny, changed: Change
) -> None:
    data = toy()
    free = data.validation
    # Each image has a colour of its own, by which its views are known again.
    drawn = torch.Generator().manual_seed(3)
    shape = (len(data.inputs), 3, 1, 1)
    colours = torch.randint(0, 256, shape, dtype=torch.uint8, generator=drawn)
    unlabelled = replace(
        data,
        inputs=colours.expand_as(data.inputs).contiguous(),
        targets=data.targets.where(torch.arange(len(data.targets)) < len(data.train), -1),
        unlabelled=free,
    )
    work = work_of(data=unlabelled)
    FEDERATED["simclr"].train(work)
    first = work.trainer.loss
    assert distance(work.network, tiny()) > 0.01
    assert work.trainer.seen % (len(data.train) + len(free)) == 0
    assert work.extra.keys() == {"projector.0.weight", "projector.0.bias",
                                 "projector.2.weight", "projector.2.bias"}  # fmt: skip
    # The policy `adapt` comes before contrast as well: views are seen with the plant's statistics.
    adapting = work_of(data=unlabelled)
    adapting.trainer.config = changed(work.trainer.config, training={"batch_norm": "adapt"})
    contrast(adapting)
    kept = dict(tiny().named_buffers())
    assert any(not torch.equal(b, kept[n]) for n, b in adapting.network.named_buffers())
    # The next round goes on with the same projector, and gets better at it.
    work.trainer.config = changed(work.trainer.config, local_steps=60)
    FEDERATED["simclr"].train(work)
    assert first is not None
    assert work.trainer.loss is not None
    assert work.trainer.loss < first - 0.1
