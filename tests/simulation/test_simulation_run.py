"""A whole simulation on small made-up plants: results, resume after a kill, equal engines."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from common.config import FederationConfig, MethodConfig, TrainingConfig
from common.errors import ConfigError, DataError, StateError
from server.releases import Releases
from simulation.collect import collect
from simulation.compare import compare
from simulation.factory import write_plants
from simulation.onboard import onboard
from simulation.prepare import find_plants, prepare
from simulation.results import Results, save_results
from simulation.run import Plan, run
from simulation.workers import Workers


def quiet(phase: str, done: int, total: int, note: str) -> None:
    """Watch nothing."""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    write_plants(root, plants=2, images_per_class=14, size=32)
    return root


@pytest.fixture
def plan(tmp_path: Path, images: Path) -> Plan:
    config = FederationConfig(
        backbone="squeezenet1_1",
        weights="none",
        image_size=32,
        rounds=2,
        local_epochs=1,
        local_steps=0,
        device="cpu",
        training=TrainingConfig(epochs=1, head_epochs=5),
    )
    return Plan(config=config, base=tmp_path, data=images, out=tmp_path / "out")


def hashes(home: Path) -> list[str]:
    releases = Releases(home)
    return [releases.read(number).hash for number in releases.numbers()]


def digest(plants: Path) -> str:
    """Of every model that the plants keep."""
    total = hashlib.sha256()
    for path in sorted(plants.glob("*/personal/**/*")):
        if path.is_file():
            total.update(path.relative_to(plants).as_posix().encode() + path.read_bytes())
    return total.hexdigest()


def test_a_run_gives_every_variant_of_every_plant(plan: Plan) -> None:
    seeds = replace(plan, seeds=2)
    results = collect(seeds, run(seeds, watch=quiet))
    save_results(plan.out / "results.json", results)
    assert Results.model_validate_json((plan.out / "results.json").read_bytes()) == results
    assert list(results.plants) == [folder.name for folder in sorted(plan.data.iterdir())]
    for plant in results.plants.values():
        assert plant.pooled is not None
        assert plant.deployed.source in ("local", "federated")
        assert sum(plant.deployed.sources.values()) == 2
        shown = {"local": plant.local, "federated": plant.federated}[plant.deployed.source]
        if len(plant.deployed.sources) == 1:
            assert plant.deployed.value == pytest.approx(shown.value)
    held = [(entry.seed, entry.round) for entry in results.rounds]
    assert held == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert (plan.out / "seeds" / "1" / "releases" / "2").is_dir()
    assert all(reply.bytes_up > 0 for entry in results.rounds for reply in entry.replies.values())


@pytest.mark.timeout(400)  # many runs, each in processes of its own
def test_killed_at_any_moment_and_resumed_it_ends_the_same(plan: Plan, tmp_path: Path) -> None:
    """As undisturbed with two workers, where this one has a single one: they change nothing."""
    run(replace(plan, workers=2), watch=quiet)
    settings = tmp_path / "federation.json"
    settings.write_text(plan.config.model_dump_json())
    code = (
        "import sys; from pathlib import Path\n"
        "from common.config import FederationConfig; from simulation.run import Plan, run\n"
        "config = FederationConfig.model_validate_json(Path(sys.argv[1]).read_text())\n"
        "def watch(phase, done, total, note): print(phase, done, flush=True)\n"
        "if __name__ == '__main__':\n"
        "    run(Plan(config=config, base=Path(), data=Path(sys.argv[2]), out=Path(sys.argv[3]),"
        " resume=True), watch=watch)\n"
    )
    out = tmp_path / "killed"
    command = [sys.executable, "-c", code, str(settings), str(plan.data), str(out)]
    for moment in ("training alone 2", "learning together 1", "learning together 3", "judging 0"):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert any(line.strip() == moment for line in process.stdout), f"ended before {moment}"
        time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, f"had ended by itself after {moment}"
        assert "judging 2" not in process.stdout.read(), f"all was judged after {moment}"
        process.stdout.close()
    run(replace(plan, out=out, resume=True), watch=quiet)
    assert hashes(out) == hashes(plan.out)
    assert digest(out / "plants") == digest(plan.out / "plants")


def test_a_used_folder_needs_resume(plan: Plan) -> None:
    plan.out.mkdir()
    (plan.out / "run.json").write_text("{}")
    with pytest.raises(StateError, match="--resume"):
        run(plan, watch=quiet)


def test_a_refused_try_leaves_the_folder_free(plan: Plan, tmp_path: Path) -> None:
    data = shutil.copytree(plan.data, tmp_path / "data")
    image = next(data.glob("*/*/*.png"))
    shutil.copytree(image.parent, tmp_path / "kept")
    for path in image.parent.iterdir():
        path.write_text("no image")
    alone = replace(plan, data=data, pooled=False, together=False)
    with pytest.raises(DataError):
        run(alone, watch=quiet)
    assert not (plan.out / "plants").exists()
    shutil.copytree(tmp_path / "kept", image.parent, dirs_exist_ok=True)
    run(alone, watch=quiet)
    with pytest.raises(StateError, match="--resume"):
        run(alone, watch=quiet)


def test_a_folder_of_data_is_no_place_for_a_run(plan: Plan) -> None:
    shutil.copytree(plan.data, plan.out / "plants")
    with pytest.raises(StateError, match="new or empty folder"):
        run(plan, watch=quiet)
    assert not list(plan.out.rglob("plant.toml"))


def test_nothing_to_resume_is_said(plan: Plan) -> None:
    told: list[str] = []
    with pytest.raises(DataError):
        run(replace(plan, resume=True, plants=("x",)), watch=lambda *words: told.append(words[3]))
    assert told == [f"nothing to resume in {plan.out}; starting"]


def test_resume_with_other_settings_touches_nothing(plan: Plan) -> None:
    alone = replace(plan, pooled=False, together=False)
    run(alone, watch=quiet)  # as after a kill before the rounds: no state.db yet
    before = (plan.out / "run.json").read_text(), digest(plan.out / "plants")
    config = plan.config.model_copy(update={"training": TrainingConfig(epochs=2, head_epochs=5)})
    with pytest.raises(StateError, match=r"training.epochs was 1, is 2; use another --out"):
        run(replace(alone, config=config, resume=True), watch=quiet)
    assert ((plan.out / "run.json").read_text(), digest(plan.out / "plants")) == before
    run(replace(plan, pooled=False, resume=True), watch=quiet)


def test_hidden_folders_are_no_plants(plan: Plan, tmp_path: Path) -> None:
    data = shutil.copytree(plan.data, tmp_path / "data")
    (data / ".half" / "good").mkdir(parents=True)
    assert set(find_plants(data, wanted=(), task=plan.config.task)) == {
        path.name for path in plan.data.iterdir()
    }


def test_folders_that_are_no_plants_are_named(plan: Plan, tmp_path: Path) -> None:
    data = shutil.copytree(plan.data, tmp_path / "data")
    (data / ".hidden").mkdir()
    (data / "flat").mkdir()
    shutil.copy(next(data.glob("*/*/*.png")), data / "flat")
    told: list[str] = []
    plants = len(list(plan.data.iterdir()))
    few = plan.config.model_copy(update={"min_plants": plants + 1})
    with pytest.raises(ConfigError, match=rf"plants, {plants}, got {plants + 1}; left out: flat$"):
        run(replace(plan, data=data, config=few), watch=lambda *words: told.append(words[3]))
    assert told == ["flat: left out, --data must hold <plant>/<class>/ folders of images"]


@pytest.mark.parametrize(
    ("backbone", "method", "personal", "told"),
    [
        ("squeezenet1_1", "fedbn", False, True),
        ("squeezenet1_1", "fedper", True, True),
        ("squeezenet1_1", "fedper", False, False),
        ("mobilenet_v3_small", "fedbn", False, False),
    ],
)
def test_a_backbone_without_normalisation_is_told(
    plan: Plan, backbone: str, method: str, personal: bool, told: bool
) -> None:
    methods = MethodConfig(personal_norm=personal)
    changes = {"backbone": backbone, "method": method, "methods": methods}
    config = plan.config.model_copy(update=changes)
    with Workers(1) as workers:
        data = find_plants(plan.data, wanted=(), task=config.task)
        found = prepare(plan.out, config=config, base=plan.base, data=data, workers=workers)
    said = f"{backbone} has no normalisation layers to keep at the plants"
    assert (said in found.warnings) is told


def test_fedavg_needs_equal_classes(plan: Plan) -> None:
    config = plan.config.model_copy(update={"method": "fedavg"})
    with pytest.raises(ConfigError, match=r"classes differ.*use fedper"):
        run(replace(plan, config=config), watch=quiet)


def test_no_such_folder_and_no_plants(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        run(replace(plan, data=tmp_path / "nowhere"), watch=quiet)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="<plant>/<class>/"):
        run(replace(plan, data=tmp_path / "empty"), watch=quiet)
    with pytest.raises(DataError, match="--plants must be among"):
        run(replace(plan, plants=("plant-9",)), watch=quiet)


def test_a_plant_in_the_settings_that_is_not_there(plan: Plan) -> None:
    config = FederationConfig.model_validate(
        {**plan.config.model_dump(), "plants": {"plant-9": {}}}
    )
    with pytest.raises(ConfigError, match="plant-9"):
        run(replace(plan, config=config), watch=quiet)


def test_a_plant_that_cannot_train_does_not_end_the_run(plan: Plan) -> None:
    """Absurd steps make every loss NaN: rounds are skipped, plants keep what they have."""
    training = plan.config.training.model_copy(update={"round_learning_rate": 1e30})
    methods = MethodConfig(personal_fine_tune=False)
    config = plan.config.model_copy(update={"training": training, "methods": methods})
    results = collect(plan, run(replace(plan, config=config), watch=quiet))
    assert {entry.outcome for entry in results.rounds} == {"skipped"}
    reasons = {reply.reason for entry in results.rounds for reply in entry.replies.values()}
    assert reasons == {"training"}
    assert len(hashes(plan.out)) == 1


def test_compare_starts_every_method_from_the_same_plants(plan: Plan) -> None:
    comparison = compare(plan, ["local", "fedper", "fedbn"], watch=quiet)
    assert list(comparison.methods) == ["local", "fedper", "fedbn"]
    assert comparison.methods["local"].deployed is None
    for name in ("fedper", "fedbn"):
        results = Results.model_validate_json((plan.out / comparison.runs[name]).read_bytes())
        answers = comparison.methods[name].answers
        for plant, row in results.plants.items():
            assert row.local.value == comparison.methods["local"].plants[plant].value
            assert answers[plant].confusion == row.confusion["federated"]
            assert comparison.methods["local"].answers[plant].confusion == row.confusion["local"]
            assert answers[plant].mistakes or row.metrics["federated"]["accuracy"] == 1
    assert comparison.methods["local"].seconds["training alone"] > 0
    assert (plan.out / "report.html").stat().st_size > 10_000


def test_compare_refuses_unknown_methods(plan: Plan) -> None:
    with pytest.raises(ConfigError, match="fedsgd"):
        compare(plan, ["local", "fedsgd"], watch=quiet)


def test_onboarding_says_what_a_release_gives(plan: Plan, images: Path) -> None:
    run(replace(plan, pooled=False), watch=quiet)
    plant = sorted(images.iterdir())[0]
    rows = onboard(
        plan.config,
        base=plan.base,
        release=plan.out / "releases" / "2",
        data=plant,
        labels=[3, 500],
        seeds=1,
        out=plan.out / "onboard",
        watch=quiet,
    )
    assert rows[0].gain is not None
    assert rows[0].source is not None
    assert rows[1].gain is None
    assert "500" in rows[1].problem or "must" in rows[1].problem
    written = json.loads((plan.out / "onboard" / "onboard.json").read_text())
    assert [row["labels"] for row in written["rows"]] == [3, 500]


def test_a_missing_release_is_named(plan: Plan, images: Path) -> None:
    for number in ("0", "2", "10", ".11.part"):
        (plan.out / number).mkdir(parents=True)
        (plan.out / number / "manifest.json").touch()
    with pytest.raises(StateError, match=r"got .*/nowhere; there are 0, 2, 10$"):
        onboard(
            plan.config,
            base=plan.base,
            release=plan.out / "nowhere",
            data=sorted(images.iterdir())[0],
            labels=[3],
            seeds=1,
            out=plan.out / "onboard",
            watch=quiet,
        )


def test_damaged_state_is_one_line(plan: Plan) -> None:
    run(replace(plan, pooled=False), watch=quiet)
    shutil.rmtree(plan.out / "releases" / "2")
    (plan.out / "releases" / "1" / "backbone.safetensors").write_bytes(b"not tensors")
    with pytest.raises(StateError) as caught:
        run(replace(plan, pooled=False, resume=True), watch=quiet)
    assert "\n" not in str(caught.value)
