from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from common.config import FederationConfig, load_federation, load_plant, template
from common.errors import ConfigError
from common.tasks import KINDS, TaskName, foreign_keys


def load(folder: Path, text: str) -> FederationConfig:
    file = folder / "federation.toml"
    file.write_text(text)
    return load_federation(file)


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, "") == FederationConfig()


def test_the_template_gives_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, template()) == FederationConfig()


def test_every_line_of_the_template_can_be_switched_on(tmp_path: Path) -> None:
    text = "\n".join(
        line.removeprefix("# ")
        if line.startswith(("# mean", "# std", "# labels", "# test"))
        else line
        for line in template().splitlines()
    )
    read = load(tmp_path, text)
    assert read.mean is not None
    assert read.std is not None
    assert read.labels_per_class is not None
    assert read.test_per_class is not None


def test_a_whole_file(tmp_path: Path) -> None:
    read = load(
        tmp_path,
        """
        backbone = "resnet18"
        weights = "none"
        mean = [0.5, 0.5, 0.5]
        std = [0.2, 0.2, 0.2]
        method = "fedavg"
        classes = ["good", "scratch"]
        labels_per_class = 5
        [training]
        learning_rate = 1
        [plants.steel]
        good = "good"
        """,
    )
    assert read.classes == ("good", "scratch")
    assert read.training.learning_rate == 1.0
    assert read.plants["steel"].good == "good"


def test_a_config_survives_json(tmp_path: Path) -> None:
    config = load(
        tmp_path, "mean=[0.5,0.5,0.5]\nstd=[1,1,1]\nclasses=['a','b']\n[plants.p]\ngood='a'"
    )
    assert FederationConfig.model_validate(json.loads(config.model_dump_json())) == config


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("rounds = -3", "rounds must be a whole number of at least 0, got -3"),
        ("backbone = ''", "backbone must be text of 1 or more characters"),
        ("mean = [0.5, 0.5, 0.5]", "std must be given together with mean, got none"),
        ("std = [0.5, 0.5, 0.5]", "mean must be given together with std, got none"),
        ("mean=[0.5,0.5,0.5]\nstd=[0,1,1]", "std must be a list of 3 numbers above 0"),
        ("classes = ['a']", "classes must be at least two classes, got ['a']"),
        ("classes = ['a', 'b', 'a']", "classes must be distinct names, got 'a' twice"),
        ("round_deadline = inf", "round_deadline must be a number above 0"),
        ("[training]\nlearning_rate = nan", "training.learning_rate must be a number above 0"),
        (
            "task = 'tabular'\n[table.shared]\ntemp = 0.2",
            "table.shared.temp must be a list of numbers, got 0.2",
        ),
        ("method = 'local'", "method must be one of fedavg, fedprox, fedper"),
        (
            "[plants.steel]\nclasses = ['a', 'b']\ngood = 'c'",
            "plants.steel.good must be one of classes ['a', 'b'], got 'c'",
        ),
        (
            "method='fedavg'\n[plants.a]\nclasses=['x','y']\n[plants.b]\nclasses=['x','z']",
            "plants.b.classes must be ['x', 'y'] as elsewhere, because fedavg shares the head",
        ),
        (
            "method='fedprox'\nclasses=['x','y']\n[plants.b]\nclasses=['x','z']",
            "plants.b.classes must be ['x', 'y'] as elsewhere, because fedprox shares the head",
        ),
    ],
)
def test_mistakes(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, text)
    assert f"federation.toml: {complaint}" in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_other_classes_are_fine_where_heads_stay_at_home(tmp_path: Path) -> None:
    text = "[plants.a]\nclasses=['x','y']\n[plants.b]\nclasses=['x','z']"
    assert load(tmp_path, f"method='fedper'\n{text}").plants.keys() == {"a", "b"}


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such file; write one with `transferline-sim init`"):
        load_federation(tmp_path / "federation.toml")


def test_values_are_frozen() -> None:
    with pytest.raises(ValidationError):
        FederationConfig().rounds = 3  # type: ignore[misc]


def test_a_plant_must_say_who_it_is(tmp_path: Path) -> None:
    file = tmp_path / "plant.toml"
    file.write_text("seed = 1")
    with pytest.raises(ConfigError) as error:
        load_plant(file)
    assert str(error.value).splitlines() == [
        f"{file}: name must be given: text of 1 to 64 characters",
        f"{file}: data must be given: text of 1 or more characters",
    ]


def test_the_template_is_toml_without_surprises() -> None:
    assert set(tomllib.loads(template())) <= set(FederationConfig.model_fields)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"min_plants": 2}, "min_plants must be at least 3 with secure_aggregation.enabled, got 2"),
        ({"update": {"form": "top_k"}}, "update.form must be fp32, or coordinates"),
        ({"update": {"form": "coordinates"}}, "update.values = fp32"),
        ({"server": {"rule": "median", "faulty": 1}}, "server.rule must be mean or norm_bound"),
        ({"server": {"rule": "norm_bound"}}, "server.rule must be mean or norm_bound"),
        ({"secure_aggregation": {"enabled": True, "bits": 33}}, "bits"),
    ],
)
def test_what_cannot_be_summed_unseen_is_refused_with_the_reason(
    changes: dict[str, Any], complaint: str
) -> None:
    fields = {"min_plants": 3, "secure_aggregation": {"enabled": True}} | changes
    with pytest.raises(ValidationError, match=complaint):
        FederationConfig.model_validate(fields)


def test_what_can_be_summed_unseen_is_taken() -> None:
    for changes in (
        {},
        {"update": {"form": "coordinates", "values": "fp32"}},
        {"server": {"rule": "norm_bound", "radius": 1.0}},
    ):
        fields = {"min_plants": 3, "secure_aggregation": {"enabled": True}} | changes
        assert FederationConfig.model_validate(fields).secure_aggregation.enabled


@pytest.mark.parametrize("task", KINDS)
def test_the_template_of_a_task_gives_its_defaults_and_nothing_of_others(
    tmp_path: Path, task: TaskName
) -> None:
    settings = FederationConfig.model_validate({"task": task})
    text = template(settings)
    assert load(tmp_path, text) == settings
    for key in foreign_keys(task):
        assert f"[{key}]" not in text
        assert f"NAME.{key}]" not in text
        assert f"\n{key} =" not in text


def test_steps_begin_with_what_suits_the_backbone() -> None:
    def step(**given: Any) -> float:
        begun = FederationConfig.model_validate({"task": "text-classification", **given})
        return begun.training.learning_rate

    whole = step(backbone="encoder")
    assert FederationConfig().training.learning_rate == 3e-4
    assert step() == step(backbone="text_transformer") > 5 * whole
    assert step(backbone="encoder", text={"tune": "lora"}) > 5 * whole
    assert step(training={"learning_rate": 1e-5}) == 1e-5
    assert step(training={"epochs": 3}) == step()


@pytest.mark.parametrize("task", [task for task, kind in KINDS.items() if not kind.images])
def test_networks_that_start_from_random_weights_take_larger_steps(task: TaskName) -> None:
    pretrained = FederationConfig().training
    begun = FederationConfig.model_validate({"task": task})
    assert begun.weights == "none"
    for name in ("learning_rate", "round_learning_rate", "head_learning_rate"):
        assert getattr(begun.training, name) >= 2 * getattr(pretrained, name)
