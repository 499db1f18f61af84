"""What leaves a plant in a round with noise, and what does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import generate_latest

from client import dpsgd, metrics
from client import plant as plants
from client.console.preview import preview
from client.desk.outbox import Outbox
from client.desk.spending import Spending
from client.methods import FEDERATED
from client.plant import Plant
from client.training import Trainer
from common.backbone import Network, Part, build, parts
from common.config import FederationConfig, PolicySection
from common.config.privacy import objection
from common.errors import TrainingError
from common.files import write_atomic
from common.orders import Kind, Order, Outcome, Release, Reply
from common.privacy import cost_of, epsilon

PlantOf = Callable[..., Plant]
Change = Callable[..., FederationConfig]


@pytest.fixture
def config_of(small_config: FederationConfig, changed: Change) -> Callable[..., FederationConfig]:
    """Return ``config_of(unit, **privacy)``: settings of a round with noise."""

    def make(unit: str, **privacy: Any) -> FederationConfig:
        settings = {"unit": unit, "steps": 2, "noise_multiplier": 2.0} | privacy
        return changed(
            small_config,
            privacy=settings,
            methods={"local_first": False},
            server={"max_update_norm": 1e5},
        )

    return make


@pytest.fixture
def answer_of(
    release_of: Callable[..., Release], order_for: Callable[..., Order]
) -> Callable[..., Reply]:
    """Return ``answer_of(plant, config, **order)``: by these settings, from their source."""

    def answer(plant: Plant, config: FederationConfig, **order: Any) -> Reply:
        release = release_of(config)
        return plant.answer(order_for(config, release, **order), release)

    return answer


def update_of(reply: Reply) -> np.ndarray:
    assert reply.outcome is Outcome.DONE, reply.reason
    assert reply.payload is not None
    return np.frombuffer(reply.payload, np.float32)


@pytest.mark.parametrize("unit", ["record", "plant"])
def test_nothing_beside_the_update_tells_of_the_images(
    unit: str,
    plant_of: PlantOf,
    config_of: Callable[..., FederationConfig],
    answer_of: Callable[..., Reply],
) -> None:
    config, plant = config_of(unit), plant_of("ash")
    reply = answer_of(plant, config)
    assert update_of(reply).any()
    assert (reply.scores, reply.seconds, reply.notes) == ({}, {}, {})
    assert reply.weight == config.server.max_weight
    # The plant itself sees them.
    assert plant.facts["scores"]["trained"]["balanced_accuracy"] >= 0
    adopted = answer_of(plant, config, round=2, kind=Kind.ADOPT)
    assert adopted.outcome is Outcome.DONE
    assert (adopted.scores, adopted.seconds, adopted.notes) == ({}, {}, {})
    assert plant.facts["notes"]["why"]
    shown = preview(config, classes=2)
    assert not shown.open
    assert shown.beside["scores"] == "nothing: they stay at the plant"
    assert shown.protection[0].startswith("privacy (noise multiplier 2, clip 1)")


@pytest.mark.parametrize(
    "asked", [{"privacy_budget": 1.0}, {"protection": ("record-privacy",)}], ids=str
)
def test_a_plant_that_asks_for_privacy_tells_nothing_whatever_the_order_says(
    asked: dict[str, Any],
    plant_of: PlantOf,
    small_config: FederationConfig,
    answer_of: Callable[..., Reply],
) -> None:
    plant = plant_of("ash", policy=PolicySection(**asked))
    reply = answer_of(plant, small_config, kind=Kind.ADOPT)
    assert reply.outcome is Outcome.DONE
    assert (reply.scores, reply.seconds, reply.notes) == ({}, {}, {})
    # It adopts all the same, and sees the scores itself.
    assert plant.store.deployed() is not None
    assert plant.facts["scores"]["tuned"]["balanced_accuracy"] >= 0
    assert plant.facts["notes"]["why"]


def test_frozen_statistics_get_no_noise(
    plant_of: PlantOf,
    config_of: Callable[..., FederationConfig],
    release_of: Callable[..., Release],
    answer_of: Callable[..., Reply],
) -> None:
    """Noise on variances would make them negative, and the network useless."""
    config = config_of("plant")
    update = update_of(answer_of(plant_of("ash"), config))
    network = build(config.backbone, classes=2, image_size=config.image_size)
    parameters = {name for name, _ in network.named_parameters()}
    names = [name for name, part in parts(network).items() if part is not Part.HEAD]
    for name, _, place in release_of(config).schema.subset(frozenset(names)).slices():
        assert update[place].any() == (name in parameters), name


def test_stages_that_are_held_still_get_no_noise(
    plant_of: PlantOf,
    config_of: Callable[..., FederationConfig],
    changed: Change,
    release_of: Callable[..., Release],
    answer_of: Callable[..., Reply],
) -> None:
    for unit in ("plant", "record"):
        config = changed(config_of(unit), training={"freeze_until": "conv5"})
        update = update_of(answer_of(plant_of("ash", folder=unit), config))
        for name, _, place in release_of(config).schema.slices():
            assert not update[place].any() or name.startswith("backbone.conv5."), name


@pytest.mark.parametrize("method", ["fedper", "ditto", "fedprox", "fedbn"])
def test_no_step_of_what_is_sent_is_without_noise(
    method: str,
    plant_of: PlantOf,
    config_of: Callable[..., FederationConfig],
    answer_of: Callable[..., Reply],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The head is never fitted without noise, and other training ends before the update is cut."""
    trained: list[bool] = []

    def watched(self: Trainer, network: Any, *args: Any, **options: Any) -> list[float]:
        trained.append(options.get("anchor") is not None)
        return [0.0]

    monkeypatch.setattr(Trainer, "fit_head", lambda *args: pytest.fail("head fitted"))
    monkeypatch.setattr(Trainer, "fit", watched)
    classes = {"classes": ("dark", "light")} if method == "fedprox" else {}
    config = config_of("record").model_copy(update={"method": method, **classes})
    assert update_of(answer_of(plant_of("ash"), config)).any()
    # Ditto's personal model is trained without noise, and stays.
    assert trained == ([True] if method == "ditto" else [])


@pytest.mark.parametrize("unit", ["none", "plant"])
def test_private_steps_go_on_from_private_steps_alone(
    unit: str,
    plant_of: PlantOf,
    config_of: Callable[..., FederationConfig],
    changed: Change,
    answer_of: Callable[..., Reply],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Within a run the centre may order another unit: then the head begins at zero again."""
    heads: list[float] = []
    lefts: list[bool] = []
    fit, shield = dpsgd.fit, plants.protect

    def watched(trainer: Trainer, network: Network, *args: Any, **options: Any) -> None:
        heads.append(max(float(p.detach().abs().max()) for p in network.head.parameters()))
        fit(trainer, network, *args, **options)

    def seen(*args: Any, left: Any, **options: Any) -> Any:
        lefts.append(left is not None)
        return shield(*args, left=left, **options)

    monkeypatch.setattr(dpsgd, "fit", watched)
    monkeypatch.setattr(plants, "protect", seen)
    plant = plant_of("ash")
    for number, of in enumerate((unit, "record", "record", unit, "record"), start=1):
        form = {"form": "top_k", "error_feedback": of != "plant"}
        config = changed(config_of(of), update=form)
        reply = answer_of(plant, config, round=number)
        assert reply.outcome is Outcome.DONE, reply.reason
    # The first private round is as a plant's first; later ones go on from those before.
    assert [head > 0 for head in heads] == [False, True, True]
    assert lefts[1:3] == [False, True]
    assert [one.unit for one in plant.store.versions()] == [
        unit,
        "record",
        "record",
        unit,
        "record",
    ]
    # The last one went on from the private part of round 3, not from that of round 4.
    assert lefts[4]


def test_every_method_is_private_or_refused(config_of: Callable[..., FederationConfig]) -> None:
    allowed = [
        method
        for method in FEDERATED
        if not objection(config_of("record").model_copy(update={"method": method}))
    ]
    assert sorted(allowed) == ["ditto", "fedavg", "fedbn", "fedper", "fedprox"]


def test_a_budget_ends_the_rounds_before_training(
    plant_of: PlantOf,
    config_of: Callable[..., FederationConfig],
    answer_of: Callable[..., Reply],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config, plant = config_of("record"), plant_of("ash")
    cost = cost_of(config)
    assert cost is not None
    budget = epsilon([cost], delta=1e-5).value * 1.01
    text = (plant.folder / "plant.toml").read_text()
    allowed = text.replace("[policy]", f"[policy]\nprivacy_budget = {budget}")
    write_atomic(plant.folder / "plant.toml", allowed.encode())

    reply = answer_of(plant, config)
    update_of(reply)
    again = answer_of(plant, config)
    assert again.payload == reply.payload
    assert len(plant.spending.charges()) == 1

    monkeypatch.setattr(Plant, "_train", lambda *args: pytest.fail("trained"))
    refused = answer_of(plant, config, round=2)
    assert refused.outcome is Outcome.DECLINED
    assert refused.reason.startswith("privacy spent must be at most epsilon")
    assert len(plant.spending.charges()) == 1
    text = generate_latest(metrics.registry(plant.folder)).decode()
    wanted = plant.spending.spent("record", delta=1e-5)
    assert f'privacy_epsilon{{accountant="pld",unit="record"}} {wanted.pld}' in text
    assert f"privacy_budget_epsilon {budget}" in text
    assert 'privacy_rounds{unit="record"} 1.0' in text


class Killed(BaseException):
    """The process ends here: nothing of the program can catch it."""


@pytest.mark.parametrize(
    ("place", "sent", "charges"),
    [
        ((Trainer, "validate"), False, 1),  # in training: nothing can have been seen
        ((Spending, "sending"), False, 1),  # trained and not filed: the noise is drawn anew
        ((Outbox, "put"), True, 2),  # perhaps filed: another look
        (None, True, 1),  # filed: the same bytes again
    ],
)
def test_whenever_a_plant_is_killed_no_look_at_it_is_free(
    place: tuple[Any, str] | None,
    sent: bool,
    charges: int,
    plant_of: PlantOf,
    config_of: Callable[..., FederationConfig],
    answer_of: Callable[..., Reply],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A charge is on disk before what it pays for can leave the plant."""
    config, plant = config_of("record"), plant_of("ash")

    def kill(*_: Any) -> None:
        raise Killed

    if place is None:
        kept = answer_of(plant, config).payload
    else:
        kept = None
        with monkeypatch.context() as patch:
            patch.setattr(*place, kill)
            with pytest.raises(Killed):
                answer_of(plant, config)
    assert [charge.sent for charge in Spending(plant.folder).charges()] == [sent]
    again = answer_of(plant, config)
    assert update_of(again).any()
    assert kept in (None, again.payload)
    assert [charge.sent for charge in Spending(plant.folder).charges()] == [True] * charges


def test_a_round_that_failed_is_not_charged_twice(
    plant_of: PlantOf,
    config_of: Callable[..., FederationConfig],
    answer_of: Callable[..., Reply],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config, plant = config_of("record"), plant_of("ash")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "validate", _full)
        assert answer_of(plant, config).outcome is Outcome.FAILED
    update_of(answer_of(plant, config))
    assert [charge.sent for charge in plant.spending.charges()] == [True]


def _full(*args: object) -> dict[str, float]:
    raise TrainingError("no memory left")


def test_local_training_is_not_charged(
    plant_of: PlantOf,
    config_of: Callable[..., FederationConfig],
    changed: Change,
    release_of: Callable[..., Release],
    tmp_path: Path,
) -> None:
    config = changed(config_of("record"), methods={"local_first": True})
    plant = plant_of("ash")
    plant.train_alone("local", source=release_of(config), config=config)
    assert plant.spending.charges() == []
