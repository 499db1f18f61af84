from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from client.fitting import network_for
from client.methods import FEDERATED, alone
from client.plant import Plant
from client.tasks import task_of
from client.tasks.anomaly import AnomalyTask, Moved
from client.tasks.metrics import Prediction
from client.tasks.ranks import placements
from client.tasks.transforms import Normalise
from client.training import Trainer
from common.backbone import Part, load_source, parts, read_tensors
from common.backbones.memory import MemoryHead
from common.config import FederationConfig, PlantConfig
from common.errors import ConfigError, DataError
from common.orders import Kind, Order, Outcome, Release
from common.sharing import FEDERATED as SHARING
from common.sharing import SELF_SUPERVISED
from common.source import first_release

GOOD = 70


def draw(folder: Path, count: int, *, spot: bool, seed: int) -> None:
    """Draw stripes, with a bright spot on defective parts."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    y, x = np.mgrid[:32, :32]
    for number in range(count):
        grey = 120 + 40 * np.sin(x / 2 + rng.uniform(0, 6)) + rng.normal(0, 6, (32, 32))
        if spot:
            centre = rng.uniform(8, 24, 2)
            grey += 110 * np.exp(-(np.hypot(y - centre[0], x - centre[1]) ** 2) / 12)
        pixels = grey.clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).convert("RGB").save(folder / f"{number}.png")


@pytest.fixture(scope="module")
def plants(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of two plants: one with defective parts, one with good ones alone."""
    root = tmp_path_factory.mktemp("good-parts")
    draw(root / "north" / "fine", GOOD, spot=False, seed=0)
    draw(root / "north" / "spot", 14, spot=True, seed=1)
    draw(root / "north" / "blob", 14, spot=True, seed=2)
    draw(root / "south" / "fine", GOOD, spot=False, seed=3)
    return root


@pytest.fixture(scope="module")
def config() -> FederationConfig:
    return FederationConfig.model_validate(
        {
            "task": "image-anomaly",
            "backbone": "shufflenet_v2_x0_5",
            "weights": "none",
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "image_size": 32,
            "rounds": 1,
            "local_epochs": 1,
            "local_steps": 0,
            "device": "cpu",
            "training": {"epochs": 2, "batch_size": 8, "round_learning_rate": 1e-3},
            "anomaly": {"memory": 40},
        }
    )


def settings(plants: Path, name: str = "north", **rest: Any) -> PlantConfig:
    values = {"name": name, "data": str(plants / name), "good": "fine", "device": "cpu", **rest}
    return PlantConfig.model_validate(values)


@pytest.fixture
def plant_at(plants: Path, tmp_path: Path) -> Callable[..., Plant]:
    def make(name: str = "north", **rest: Any) -> Plant:
        return Plant.create(tmp_path / name, settings(plants, name, **rest))

    return make


@pytest.fixture(scope="module")
def release(config: FederationConfig) -> Release:
    return first_release(load_source(config, base=Path()).network, config)


def order(config: FederationConfig, release: Release, **rest: Any) -> Order:
    values: dict[str, Any] = {
        "run": "seed-0",
        "round": 1,
        "kind": Kind.TRAIN,
        "release": release.hash,
        "cohort": ("north", "south"),
        "deadline": 60.0,
        "config": config,
        **rest,
    }
    return Order(**values)


def load(plants: Path, config: FederationConfig, name: str = "north", **rest: Any) -> Any:
    own = settings(plants, name, **rest)
    return task_of(config, own).load(Path(own.data))


# -- what is for what ------------------------------------------------------------------------------


def test_nothing_learns_from_defective_parts(plants: Path, config: FederationConfig) -> None:
    data = load(plants, config)
    assert data.classes == ("good", "defect")
    assert (data.targets[data.train] == 0).all()
    assert (data.targets[data.extra] == 0).all()
    assert not set(data.extra.tolist()) & {*data.train.tolist(), *data.validation.tolist()}
    assert data.targets[data.test].tolist().count(1) == 28
    judging = [data.names[i] for i in data.validation.tolist() if data.targets[i] == 1]
    assert judging
    assert all(name.endswith("(made-up defect)") for name in judging)
    assert any("threshold from 19 good parts" in note for note in data.notes)


def test_real_defective_parts_judge_where_they_are_spared(
    plants: Path, config: FederationConfig
) -> None:
    data = load(plants, config, anomaly={"validation_defects": 6})
    judging = [data.names[i] for i in data.validation.tolist() if data.targets[i] == 1]
    assert len(judging) == 6
    assert {name.split("/")[0] for name in judging} == {"spot", "blob"}
    assert data.targets[data.test].tolist().count(1) == 22


def test_a_plant_without_a_defective_part_is_tested_on_made_up_ones(
    plants: Path, config: FederationConfig
) -> None:
    data = load(plants, config, "south")
    bad = [data.names[i] for i in data.test.tolist() if data.targets[i] == 1]
    assert bad
    assert all(name.endswith("(made-up defect)") for name in bad)
    assert any("no defective part is left for the test" in note for note in data.notes)


# -- bad input -------------------------------------------------------------------------------------


def test_no_good_class_is_named(plants: Path, config: FederationConfig) -> None:
    with pytest.raises(ConfigError, match=r"good must name .* set it to one of \['blob', 'fine'"):
        load(plants, config, good="")


def test_the_good_class_is_not_there(plants: Path, config: FederationConfig) -> None:
    with pytest.raises(ConfigError, match=r"good must be one of the classes .* got 'perfect'"):
        load(plants, config, good="perfect")


def test_too_few_good_parts(plants: Path, config: FederationConfig) -> None:
    with pytest.raises(DataError, match=r"spot must be at least 49 .* got 14; add good parts"):
        load(plants, config, good="spot")


def test_defective_parts_alone(tmp_path: Path, config: FederationConfig) -> None:
    draw(tmp_path / "east" / "spot", 5, spot=True, seed=0)
    with pytest.raises(ConfigError, match=r"good must be one of the classes \['spot'\]"):
        load(tmp_path, config, "east")


def test_a_folder_without_classes(tmp_path: Path, config: FederationConfig) -> None:
    (tmp_path / "east").mkdir()
    with pytest.raises(DataError, match="must hold at least a class, got"):
        load(tmp_path, config, "east")


def test_damaged_images_are_named_and_left_out(
    plants: Path, tmp_path: Path, config: FederationConfig
) -> None:
    draw(tmp_path / "east" / "fine", 60, spot=False, seed=0)
    (tmp_path / "east" / "fine" / "cut.png").write_bytes(
        (tmp_path / "east" / "fine" / "0.png").read_bytes()[:90]
    )
    data = load(tmp_path, config, "east")
    assert [(one.file, bool(one.why)) for one in data.skipped] == [("fine/cut.png", True)]


def test_kept_images_that_are_damaged_are_decoded_again(
    plants: Path, tmp_path: Path, config: FederationConfig
) -> None:
    own = settings(plants)
    first = task_of(config, own).load(Path(own.data), cache=tmp_path)
    (file,) = tmp_path.iterdir()
    raw = bytearray(file.read_bytes())
    raw[-5] ^= 0xFF
    file.write_bytes(raw)
    again = task_of(config, own).load(Path(own.data), cache=tmp_path)
    assert torch.equal(first.inputs, again.inputs)


# -- learning and judging --------------------------------------------------------------------------


def test_a_batch_is_seen_in_three_forms(plants: Path, config: FederationConfig) -> None:
    task = task_of(config, settings(plants))
    data = load(plants, config)
    assert isinstance(task, AnomalyTask)
    made = task.head_transform()(data.inputs[:4], torch.Generator().manual_seed(0))
    plain = Normalise(task.mean, task.std)(data.inputs[:4])
    assert made.shape == (12, 3, 32, 32)
    torch.testing.assert_close(made[:4], plain)
    assert not torch.equal(made[4:8], plain)
    right = torch.eye(3).repeat_interleave(4, dim=0) * 20
    zeros = torch.zeros(4, dtype=torch.int64)
    sure = task.loss(right, zeros, weights=None, data=data)
    wrong = task.loss(right.flip(0), zeros, weights=None, data=data)
    assert sure < wrong


def test_a_head_is_fitted_to_images_as_the_network_will_see_them(
    plants: Path, config: FederationConfig
) -> None:
    task, data = task_of(config, settings(plants)), load(plants, config)
    network = network_for(config, data, device=torch.device("cpu"))
    trainer = Trainer(task=task, data=data, config=config, device=torch.device("cpu"), seed=0)
    seen: list[torch.Tensor] = []
    network.backbone.register_forward_pre_hook(lambda _, given: seen.append(given[0]))

    trainer.fit_head(network, data.train[:4])

    torch.testing.assert_close(seen[0][:4], trainer.inputs(data.train[:4]))


def test_decoded_scores_still_rank_where_they_are_tiny(
    plants: Path, config: FederationConfig
) -> None:
    task = task_of(config, settings(plants))
    odds = torch.tensor([[0.0, -20.0], [0.0, -21.0], [0.0, -22.0]])
    said = task.decode(odds, data=load(plants, config))
    assert len(set(said[:, 1].tolist())) == 3
    assert task.decode(torch.zeros(1, 3), data=load(plants, config))[0, 1] == pytest.approx(2 / 3)


def test_worth_has_the_error_of_delong(plants: Path, config: FederationConfig) -> None:
    """The rule's standard error over both strata is that of the AUROC, which a simulation shows."""
    task = task_of(config, settings(plants))
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1], 60)
    areas, errors = [], []
    for _ in range(400):
        high = rng.normal(size=120) + truth
        said = np.column_stack([-high, high])
        worth = task.worth(said, truth, data=load_nothing())
        areas.append(worth[truth == 1].mean())
        assert worth[truth == 0].mean() == pytest.approx(areas[-1])
        spread = [worth[truth == side].var(ddof=1) / 60 for side in (0, 1)]
        errors.append(np.sqrt(sum(spread)) / 2)
    assert np.mean(errors) == pytest.approx(np.std(areas), rel=0.1)


def load_nothing() -> Any:
    return None


def test_scores_say_what_the_threshold_lets_through(plants: Path, config: FederationConfig) -> None:
    task = task_of(config, settings(plants))
    truth = np.repeat([0, 1], 4)
    high = np.array([0.1, 0.2, 0.3, 0.6, 0.4, 0.7, 0.8, 0.9])
    found = task.scores(
        Prediction(truth=truth, predicted=np.column_stack([1 - high, high])),
        data=load(plants, config),
    )
    assert found["false_rejects"] == 0.25
    assert found["escaped"] == 0.25
    assert found["auroc"] == pytest.approx(placements(high, truth)[truth == 1].mean())


# -- at a plant ------------------------------------------------------------------------------------


def test_a_plant_alone_remembers_and_inspects(
    plant_at: Callable[..., Plant], config: FederationConfig, release: Release
) -> None:
    plant = plant_at()
    version = plant.train_alone("local", source=release, config=config)
    kept = plant.store.model(version.number)
    assert kept["head.memory.count"] == 40
    assert kept["head.memory.patches"].nbytes < 40 * 200 * 4
    # The source's features, the memory of the training parts: the threshold is exactly between.
    held = plant.test(version.number, config=config)
    task, data = plant.task(config), plant.data(config)
    assert task.scores(held, data=data)["auroc"] > 0.9
    assert version.scores["auroc"] == pytest.approx(
        placements(plant.store.evidence(version)[:, 1], held_truth(plant, config))[-1:].mean(),
        abs=1.0,
    )


def held_truth(plant: Plant, config: FederationConfig) -> np.ndarray[Any, Any]:
    data = plant.data(config)
    return data.targets[data.validation].numpy()


def test_the_threshold_rejects_what_was_promised_of_its_own_parts(
    plant_at: Callable[..., Plant], config: FederationConfig, release: Release
) -> None:
    plant = plant_at()
    version = plant.train_alone("local", source=release, config=config)
    work = plant._work(release, config, moment="local")
    from common.backbone import write_tensors

    write_tensors(work.network, plant.store.model(version.number))
    said = work.trainer.predict(work.network, plant.data(config).extra)
    # 19 parts and 5 %: the threshold is the highest of their scores.
    assert (said[:, 1] > 0.5 + 1e-6).sum() == 0
    assert float(said[:, 1].max()) == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize("method", sorted(FEDERATED.keys() - SELF_SUPERVISED))
def test_every_method_learns_from_good_parts(
    method: str, plant_at: Callable[..., Plant], config: FederationConfig
) -> None:
    config = config.model_copy(update={"method": method})
    if SHARING[method].head:
        config = config.model_copy(update={"classes": ("good", "defect")})
    start = first_release(load_source(config, base=Path()).network, config)
    plant = plant_at()
    reply = plant.answer(order(config, start), start)
    assert reply.outcome is Outcome.DONE, reply.reason
    assert reply.payload is not None
    assert np.abs(np.frombuffer(reply.payload, np.float32)).max() > 0
    assert set(reply.scores["trained"]) == {"auroc", "loss"}
    names = [name for name, _, _ in _travelled(plant, config, start)]
    assert not any(name.startswith(("head.memory", "head.scale")) for name in names)
    assert any(name.startswith("head.pretext") for name in names) == SHARING[method].head


def _travelled(
    plant: Plant, config: FederationConfig, release: Release
) -> Iterator[tuple[str, Any, Any]]:
    from common.backbone import travelling

    network = plant.network(config)
    names = travelling(network, head=SHARING[config.method].head, norm=config.norm_travels)
    return iter(release.schema.subset(names).slices())


def test_made_up_defects_do_not_vouch_for_a_release(
    plant_at: Callable[..., Plant], config: FederationConfig, release: Release
) -> None:
    plant = plant_at()
    plant.answer(order(config, release), release)
    reply = plant.answer(order(config, release, round=2, kind=Kind.ADOPT), release)
    assert reply.outcome is Outcome.DONE, reply.reason
    assert not reply.notes["adopted"]
    assert reply.notes["why"].startswith("kept what it had: it was judged by made-up defects")
    # The engineer may know better.
    candidate = next(v for v in plant.store.versions() if v.kind == "federated")
    assert plant.store.rollback(candidate.number).version == candidate.number


def test_adoption_compares_memories_on_real_defects(
    plant_at: Callable[..., Plant], config: FederationConfig, release: Release
) -> None:
    plant = plant_at(anomaly={"validation_defects": 6})
    plant.answer(order(config, release), release)
    reply = plant.answer(order(config, release, round=2, kind=Kind.ADOPT), release)
    assert reply.outcome is Outcome.DONE, reply.reason
    assert "more AUROC on real defects" in reply.notes["why"]
    # The release is the source, and so is the plant's own: the same memory, no gain, adopted.
    kinds = {v.kind: v for v in plant.store.versions()}
    one, other = (plant.store.model(kinds[kind].number) for kind in ("local", "federated"))
    compared = [n for n in one if not n.startswith(("head.pretext", "head.scale"))]
    assert all(np.array_equal(one[name], other[name]) for name in compared)


def test_training_at_the_plant_keeps_the_best_state(
    plant_at: Callable[..., Plant], config: FederationConfig, release: Release
) -> None:
    tuned = config.model_copy(
        update={"anomaly": config.anomaly.model_copy(update={"fine_tune": True})}
    )
    plant = plant_at()
    plain = plant.train_alone("head_only", source=release, config=tuned)
    version = plant.train_alone("local", source=release, config=tuned)
    assert version.scores["auroc"] >= plain.scores["auroc"]


def test_what_a_memory_holds_depends_on_the_backbone_alone(
    plant_at: Callable[..., Plant], config: FederationConfig, release: Release
) -> None:
    plant = plant_at()
    work = plant._work(release, config, moment="any")
    evidence = alone("head_only", task=config.task)(work)
    head = work.network.head
    assert isinstance(head, MemoryHead)
    assert float(head.memory.threshold) > 0
    assert evidence.shape == (len(plant.data(config).validation), 2)
    again = plant._work(release, config, moment="other")
    assert np.array_equal(evidence, alone("local", task=config.task)(again))
    own = {n for n, part in parts(work.network).items() if part is Part.OWN}
    assert own == {n for n in read_tensors(work.network) if n.startswith(("head.mem", "head.sc"))}


def test_moved_takes_no_more_than_it_may() -> None:
    made = Moved(lambda batch, generator: batch, most=2)  # type: ignore[arg-type]
    images = torch.zeros(5, 3, 16, 16, dtype=torch.uint8)
    assert len(made(images, torch.Generator().manual_seed(0))) == 6
