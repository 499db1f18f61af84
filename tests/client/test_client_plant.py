"""A plant: order in, answer out, whatever happens in between."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from client.earlier import asked_again
from client.origin import judged_examples
from client.plant import LEFT, Plant, open_plant
from client.training import Trainer
from common.backbone import Part, build, parts
from common.config import FederationConfig
from common.errors import ConfigError
from common.orders import Kind, Order, Outcome, Release, Reply

PlantOf = Callable[..., Plant]
ReleaseOf = Callable[..., Release]
OrderFor = Callable[..., Order]
Change = Callable[..., FederationConfig]


@pytest.fixture
def config(small_config: FederationConfig, changed: Change) -> FederationConfig:
    """Rounds by themselves: a plant trains no model of its own before them."""
    return changed(small_config, methods={"local_first": False})


@pytest.fixture
def release(config: FederationConfig, release_of: ReleaseOf) -> Release:
    return release_of(config)


def digest(plant: Plant) -> dict[str, str]:
    """Content of all files of a plant, but for its cache."""
    return {
        str(path.relative_to(plant.folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(plant.folder.rglob("*"))
        if path.is_file() and "cache" not in path.parts
    }


def times(plant: Plant) -> dict[str, int]:
    """When each file was written."""
    files = [path for path in plant.folder.rglob("*") if path.is_file()]
    return {str(path): path.stat().st_mtime_ns for path in files}


def sent(reply: Reply) -> bytes:
    assert reply.outcome is Outcome.DONE, reply.reason
    assert reply.payload is not None
    return reply.payload


def test_a_plant_trains_alone_before_its_first_round(
    plant_of: PlantOf,
    small_config: FederationConfig,
    release_of: ReleaseOf,
    order_for: OrderFor,
) -> None:
    """Or nothing could say whether a release is worse than what the plant has."""
    plant, release = plant_of("elm"), release_of(small_config)
    first = plant.answer(order_for(small_config, release), release)
    deployed = plant.store.deployed()
    assert deployed is not None
    assert deployed.source == "local"
    assert first.scores["local"] == plant.store.version(deployed.version).scores
    assert first.seconds["alone"] > 0

    second = plant.answer(order_for(small_config, release, round=2), release)
    assert second.scores["local"] == first.scores["local"]
    assert [v.kind for v in plant.store.versions()].count("local") == 1
    adopted = plant.answer(order_for(small_config, release, round=3, kind=Kind.ADOPT), release)
    assert "the plant had no model before" not in adopted.notes["why"]


def test_two_rounds_of_fedbn(
    plant_of: PlantOf,
    config: FederationConfig,
    changed: Change,
    release_of: ReleaseOf,
    order_for: OrderFor,
) -> None:
    config = changed(config, method="fedbn")
    plant, release = plant_of("elm"), release_of(config)
    first = plant.answer(order_for(config, release), release)
    assert (first.plant, first.round, first.weight) == ("elm", 1, len(plant.data(config).train))
    assert set(first.scores) == {"trained"}  # no head yet that could be evaluated
    assert {"evaluate", "train"} <= set(first.seconds)

    later = release_of(config, number=1, shift=0.01)
    second = plant.answer(order_for(config, later, round=2), later)
    assert set(second.scores) == {"incoming", "trained"}
    assert sent(first) != sent(second)

    known = parts(build(config.backbone, classes=3, image_size=32))
    stays = {name for name, part in known.items() if part is not Part.BODY}
    one, two = (plant.store.load(version) for version in plant.store.versions())
    assert one.keys() == two.keys() == stays
    schema = release.schema.subset(frozenset(known.keys() - stays))
    assert (first.schema, len(sent(first))) == (schema.digest, 4 * schema.size)
    # Frozen statistics of round 2 are the plant's own, not those of the release.
    statistics = [name for name in stays if name.endswith("running_mean")]
    assert statistics
    assert all(np.array_equal(one[name], two[name]) for name in statistics)
    assert not np.array_equal(one["head.weight"], two["head.weight"])


@pytest.mark.parametrize("form", ["top_k", "low_rank", "coordinates"])
def test_what_an_update_leaves_out_survives_kills_and_goes_with_the_next(
    form: str,
    plant_of: PlantOf,
    config: FederationConfig,
    changed: Change,
    release: Release,
    order_for: OrderFor,
) -> None:
    config = changed(config, update={"form": form, "share": 0.1})
    plant = plant_of()
    plant.answer(order_for(config, release), release)
    left = plant.store.load(plant.store.versions()[-1])[LEFT]
    assert np.any(left)

    second = order_for(config, release, round=2)
    reply = plant.answer(second, release)
    # Killed before the answer was filed: it starts from what round 1 left again.
    for path in (plant.folder / "outbox").glob("*00002*"):
        path.unlink()
    crashed = Plant.open(plant.folder).answer(second, release)
    assert sent(crashed) == sent(reply)

    # What round 2 would say without the leftovers is something else.
    forgetful = changed(config, update={"form": form, "share": 0.1, "error_feedback": False})
    other = plant_of("elm")
    other.folder.joinpath("plant.toml").write_text(plant.folder.joinpath("plant.toml").read_text())
    other = Plant.open(other.folder)
    for number in (1, 2):
        without = other.answer(order_for(forgetful, release, round=number), release)
    assert LEFT not in other.store.load(other.store.versions()[-1])
    assert len(sent(without)) == len(sent(reply))
    assert sent(without) != sent(reply)


def test_the_same_order_gets_the_same_bytes(
    plant_of: PlantOf, config: FederationConfig, release: Release, order_for: OrderFor
) -> None:
    plant, order = plant_of(), order_for(config, release)
    first = plant.answer(order, release)
    written = times(plant)
    again = Plant.open(plant.folder).answer(replace(order, deadline=1.0), release)
    assert sent(again) == sent(first)
    assert again.head() == first.head()
    assert times(plant) == written  # nothing was trained

    # Killed after the personal part was stored and before the answer was filed.
    for path in (plant.folder / "outbox").iterdir():
        path.unlink()
    kept = plant.store.load(plant.store.versions()[-1])
    crashed = Plant.open(plant.folder).answer(order, release)
    assert sent(crashed) == sent(first)
    (version,) = plant.store.versions()
    assert all(np.array_equal(v, kept[n]) for n, v in plant.store.load(version).items())

    # Another plant of the same data has other randomness.
    twin = Plant.create(
        plant.folder.parent / "twin", plant.settings.model_copy(update={"name": "elm"})
    )
    assert sent(twin.answer(order, release)) != sent(first)


def test_what_does_not_fit_is_declined(
    plant_of: PlantOf,
    config: FederationConfig,
    release: Release,
    release_of: ReleaseOf,
    order_for: OrderFor,
    changed: Change,
) -> None:
    plant, order = plant_of(), order_for(config, release)
    assert plant.answer(order, release).outcome is Outcome.DONE
    before = digest(plant)
    other = release_of(config, number=1, shift=0.5)
    squeezed = changed(config, backbone="squeezenet1_1")
    for declined, brought in (
        (order, other),  # not the release of the order
        (replace(order, release=other.hash), other),  # another release for an answered round
        (replace(order, cohort=("ash", "oak")), release),  # another cohort for it
        (replace(order, cohort=("elm", "oak"), round=2), release),  # not asked
        (replace(order, config=squeezed, round=2), release),  # another network
    ):
        reply = plant.answer(declined, brought)
        assert (reply.outcome, reply.reason) == (Outcome.DECLINED, "update")
        assert reply.payload is None
        assert digest(plant) == before


def test_a_head_for_other_classes_names_them_at_the_plant(
    plant_of: PlantOf,
    config: FederationConfig,
    release: Release,
    order_for: OrderFor,
    changed: Change,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is the plant's data that does not fit, not the release; no class leaves the plant."""
    plant = plant_of()
    order = order_for(changed(config, method="fedavg", classes=("a", "b")), release)
    reply = plant.answer(order, release)
    assert (reply.outcome, reply.reason) == (Outcome.FAILED, "data")
    assert (
        "fedavg shares the head, for the classes a, b; the plant has dark, light; use"
        in caplog.text
    )


def moved(plant: Plant, folder: Path) -> Plant:
    """Return the plant with a copy of its data that may be changed."""
    shutil.copytree(plant.settings.data, folder)
    return Plant.create(plant.folder, plant.settings.model_copy(update={"data": str(folder)}))


def more_images(plant: Plant, label: str, *, of: str, first: int = 0) -> Plant:
    """Write images of a class into its data, new or more of it, and start its process again."""
    data = Path(plant.settings.data)
    (data / label).mkdir(exist_ok=True)
    for number, image in enumerate(sorted((data / of).glob("*.png"))[:12]):
        grey = np.asarray(Image.open(image)).astype(np.int16) + 3
        there = data / label / f"{first + number}.png"
        Image.fromarray(grey.clip(0, 255).astype(np.uint8)).save(there)
    return Plant.open(plant.folder)


@pytest.mark.parametrize("method", ["fedper", "ditto"])
def test_a_new_class_in_the_midst_of_a_run_gets_a_new_head(
    plant_of: PlantOf,
    config: FederationConfig,
    changed: Change,
    release: Release,
    order_for: OrderFor,
    tmp_path: Path,
    method: str,
) -> None:
    config = changed(config, method=method)
    plant = moved(plant_of(), tmp_path / "data")
    plant.answer(order_for(config, release), release)
    plant = more_images(plant, "amber", of="dark")
    reply = plant.answer(order_for(config, release, round=2), release)
    sent(reply)
    assert set(reply.scores) == {"trained"}  # there was no head yet that could be evaluated
    third = plant.answer(order_for(config, release, round=3), release)
    assert set(third.scores) == {"incoming", "trained"}
    assert plant.store.load(plant.store.versions()[-1])["head.bias"].shape == (3,)
    done = plant.answer(order_for(config, release, round=4, kind=Kind.ADOPT), release)
    assert done.outcome is Outcome.DONE


@pytest.mark.parametrize("runs", ["local", "federated"])
def test_a_plant_with_more_labelled_images_trains_alone_anew_and_may_adopt_again(
    plant_of: PlantOf,
    small_config: FederationConfig,
    release_of: ReleaseOf,
    order_for: OrderFor,
    tmp_path: Path,
    runs: str,
) -> None:
    config, release = small_config, release_of(small_config)
    plant = moved(plant_of(adoption_margin=1.0), tmp_path / "data")
    plant.answer(order_for(config, release), release)
    if runs == "federated":
        plant.answer(order_for(config, release, round=2, kind=Kind.ADOPT), release)
    before = plant.store.deployed()
    assert before is not None
    assert before.source == runs

    plant = more_images(plant, "dark", of="light", first=50)
    wild = release_of(config, number=1, shift=9.0)
    plant.answer(order_for(config, wild, run="seed-1"), wild)
    alone = [v for v in plant.store.versions() if v.kind == "local"]
    assert len(alone) == 2
    own = "backbone.conv1.0.weight"  # from its own backbone: a bad release has no say
    old, new = (plant.store.model(version.number)[own] for version in alone)
    assert abs(new - old).max() < 1.0
    now = plant.store.deployed()
    assert now is not None
    assert now.version == (alone[1].number if runs == "local" else before.version)
    plant.answer(order_for(config, wild, run="seed-1", round=2), wild)
    assert len([v for v in plant.store.versions() if v.kind == "local"]) == 2

    last = order_for(config, release, run="seed-1", round=3, kind=Kind.ADOPT)
    reply = plant.answer(last, release)
    assert reply.notes["adopted"] is True, reply.notes["why"]  # the margin allows all


def test_what_a_plant_runs_is_asked_again_about_other_images(
    plant_of: PlantOf,
    config: FederationConfig,
    release: Release,
    order_for: OrderFor,
    tmp_path: Path,
) -> None:
    """Or a release that is worse than it could come in when an image is added."""
    plant = moved(plant_of(), tmp_path / "data")
    plant.answer(order_for(config, release, kind=Kind.ADOPT), release)
    runs = plant.store.deployed()
    assert runs is not None
    plant = more_images(plant, "dark", of="dark", first=50)
    version = plant.store.version(runs.version)
    wanted = judged_examples(plant.data(config))
    assert version.judged != wanted
    said = asked_again(plant, version, judged=wanted)
    network = plant.model(version.number, config=config)
    expected = plant._trainer(config, seed=0).predict(network, plant.data(config).validation)
    assert said is not None
    np.testing.assert_array_equal(said, expected.numpy())
    assert asked_again(plant, version, judged="other examples") is None
    plant = more_images(plant, "amber", of="dark")
    wanted = judged_examples(plant.data(config))
    assert asked_again(plant, version, judged=wanted) is None  # it knows no amber


@pytest.mark.parametrize("epochs", [1, 3])
def test_training_that_fails_leaves_the_plant_as_it_was(
    plant_of: PlantOf,
    config: FederationConfig,
    changed: Change,
    release: Release,
    order_for: OrderFor,
    epochs: int,
) -> None:
    """With one epoch the last loss is still finite, but not what was trained."""
    plant = plant_of()
    wild = {"round_learning_rate": 1e36, "batch_size": 64}
    order = order_for(changed(config, local_epochs=epochs, training=wild), release)
    before = digest(plant)
    reply = plant.answer(order, release)
    assert (reply.outcome, reply.reason) == (Outcome.FAILED, "training")
    assert reply.payload is None
    assert digest(plant) == before


@pytest.mark.parametrize("kind", [Kind.TRAIN, Kind.ADOPT])
def test_a_gpu_that_is_full_fails_in_one_line(
    plant_of: PlantOf,
    config: FederationConfig,
    release: Release,
    order_for: OrderFor,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kind: Kind,
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    plant, order = plant_of(), order_for(config, release, kind=kind)
    before = digest(plant)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", full)
        reply = plant.answer(order, release)
    assert (reply.outcome, reply.reason) == (Outcome.FAILED, "training")
    assert digest(plant) == before
    assert "lower training.batch_size, or raise policy.gpu_memory_share" in caplog.text
    assert "Traceback" not in caplog.text
    assert plant.answer(order, release).outcome is Outcome.DONE


def test_facts_of_an_order_stay_at_the_plant(
    plant_of: PlantOf, config: FederationConfig, release: Release, order_for: OrderFor
) -> None:
    plant = plant_of()
    reply = plant.answer(order_for(config, release), release)
    data = plant.data(config)
    assert plant.facts["data"] == data.counts
    training = plant.facts["training"]
    assert training["images"] == len(data.train) * config.local_epochs
    assert training["loss"] > 0
    assert "images" not in reply.head()


def test_settings_that_are_wrong_fail(
    plant_of: PlantOf, config: FederationConfig, release: Release, order_for: OrderFor
) -> None:
    plant = plant_of()
    order = order_for(config.model_copy(update={"mean": None, "std": None}), release)
    reply = plant.answer(order, release)
    assert (reply.outcome, reply.reason) == (Outcome.FAILED, "config")


def test_a_head_travels_between_equal_classes(
    plant_of: PlantOf,
    config: FederationConfig,
    changed: Change,
    release_of: ReleaseOf,
    order_for: OrderFor,
) -> None:
    config = changed(config, method="fedprox", classes=("dark", "light"))
    plant, release = plant_of(), release_of(config)
    reply = plant.answer(order_for(config, release), release)
    change = release.schema.unflatten(np.frombuffer(sent(reply), np.float32))
    assert np.any(change["head.weight"])
    (version,) = plant.store.versions()
    assert plant.store.load(version) == {}


def test_alone_then_adoption(
    plant_of: PlantOf,
    config: FederationConfig,
    changed: Change,
    release: Release,
    order_for: OrderFor,
) -> None:
    plant = plant_of(adoption_margin=1.0)
    plant.train_alone("head_only", source=release, config=config)
    assert plant.store.deployed() is None
    local = plant.train_alone("local", source=release, config=config)
    deployed = plant.store.deployed()
    assert deployed is not None
    assert (deployed.version, deployed.source) == (local.number, "local")

    written = times(plant)
    again = Plant.open(plant.folder).train_alone("local", source=release, config=config)
    assert (again, times(plant)) == (local, written)
    slower = changed(config, training={"learning_rate": 1e-4})
    assert plant.train_alone("local", source=release, config=slower).number == local.number + 1

    order = order_for(config, release, kind=Kind.ADOPT, round=3)
    reply = plant.answer(order, release)
    assert reply.outcome is Outcome.DONE
    assert reply.payload is None
    assert reply.notes["adopted"] is True  # whatever it is: the margin allows all
    assert reply.notes["source"] == "federated"
    assert set(reply.scores) == {"tuned", "deployed"}

    # Killed after the candidate was deployed and before the answer was filed.
    for path in (plant.folder / "outbox").iterdir():
        path.unlink()
    before = digest(plant)
    resumed = Plant.open(plant.folder)
    crashed = resumed.answer(order, release)
    assert (crashed.notes, crashed.scores) == (reply.notes, reply.scores)
    after = {n: v for n, v in digest(plant).items() if not n.startswith("outbox")}
    assert after == before  # it was not made again
    assert plant.facts["training"]["images"] > 0
    assert resumed.facts.keys() == {"data"}  # what was trained last stays in the metrics

    prediction = plant.test(reply.notes["version"], config=config)
    assert prediction.predicted.shape == (len(plant.data(config).test), 2)
    np.testing.assert_allclose(prediction.predicted.sum(1), 1.0, rtol=1e-5)
    assert {file.split("/")[0] for file in prediction.names} == {"dark", "light"}


def test_few_labels_and_no_model_before(
    plant_of: PlantOf,
    config: FederationConfig,
    changed: Change,
    release: Release,
    order_for: OrderFor,
) -> None:
    config = changed(config, method="ditto", methods={"personal_fine_tune": False})
    plant = plant_of(labels_per_class=4)
    first = plant.answer(order_for(config, release), release)
    assert first.weight == 5  # the validation images take part in no round
    reply = plant.answer(order_for(config, release, kind=Kind.ADOPT, round=2), release)
    assert set(reply.scores) == {"incoming", "tuned", "deployed"}
    assert reply.notes["why"] == "the plant had no model before"
    candidate = plant.store.versions()[-1]
    assert plant.store.evidence(candidate).shape == (8, 2)
    # The head is new, the backbone that of the personal model.
    kept = plant.store.load(plant.store.versions()[0])
    model = plant.store.model(candidate.number)
    name = "backbone.conv1.0.weight"
    assert np.array_equal(model[name], kept[f"ditto.{name}"])


def test_a_local_model_on_other_images_takes_over(
    plant_of: PlantOf, config: FederationConfig, release: Release
) -> None:
    config = config.model_copy(
        update={"training": config.training.model_copy(update={"epochs": 1, "head_epochs": 2})}
    )
    plant_of(labels_per_class=4).train_alone("local", source=release, config=config)
    more = plant_of(labels_per_class=5)
    version = more.train_alone("local", source=release, config=config)
    assert version.number == 2
    deployed = more.store.deployed()
    assert deployed is not None
    assert deployed.version == 2


def test_a_plant_is_opened_once_a_process(plant_of: PlantOf, config: FederationConfig) -> None:
    folder = plant_of().folder
    assert open_plant(folder) is open_plant(folder)
    assert open_plant(folder).data(config) is open_plant(folder).data(config)


def test_a_folder_without_settings_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"plant.toml"):
        Plant.open(tmp_path)
