"""A simulation with noise: epsilon of every plant in results and report."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.desk.spending import Spending
from common.config import FederationConfig
from common.privacy import Cost, epsilon
from simulation.collect import collect
from simulation.factory import write_plants
from simulation.report import write_report
from simulation.run import Plan, run


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    write_plants(root, plants=3, images_per_class=10, size=32)
    return root


def plan_of(images: Path, out: Path, **tables: dict[str, object]) -> Plan:
    config = FederationConfig.model_validate(
        {
            "backbone": "squeezenet1_1",
            "weights": "none",
            "image_size": 32,
            "rounds": 2,
            "local_epochs": 1,
            "local_steps": 0,
            "min_plants": 3,
            "device": "cpu",
            "training": {"epochs": 1, "head_epochs": 5},
            **tables,
        }
    )
    return Plan(config=config, base=images, data=images, out=out, pooled=False)


def test_epsilon_is_in_results_and_report(images: Path, tmp_path: Path) -> None:
    plan = plan_of(
        images,
        tmp_path / "out",
        privacy={"unit": "record", "noise_multiplier": 2.0, "steps": 3, "delta": 1e-4},
    )
    warnings: list[str] = []
    results = collect(plan, run(plan, watch=lambda phase, *rest: warnings.append(str(rest[-1]))))
    wanted = epsilon([Cost(noise_multiplier=2.0, sample_rate=0.2, steps=6)], delta=1e-4)
    for plant in results.plants.values():
        assert plant.privacy is not None
        assert plant.privacy.epsilon == pytest.approx(wanted.value)
        assert plant.privacy.epsilon_rdp == pytest.approx(wanted.rdp)
        assert (plant.privacy.unit, plant.privacy.rounds) == ("record", 2)
        assert plant.privacy.delta == 1e-4
    assert any("privacy.unit record: in rounds" in warning for warning in warnings)
    write_report(results, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "What it cost in privacy" in page
    assert f'<td class="number">{wanted.value:.2f}</td>' in page
    assert "one training image" in page
    # Scores stay at the plants.
    assert not any(reply.scores for entry in results.rounds for reply in entry.replies.values())


def test_the_secure_sum_carries_the_noise(images: Path, tmp_path: Path) -> None:
    """Parts of the noise at each plant, on the grid of the sum; nothing is cut off."""
    plan = plan_of(
        images,
        tmp_path / "out",
        privacy={"unit": "plant", "noise_multiplier": 0.5, "clip": 0.1},
        secure_aggregation={"enabled": True, "bits": 20, "bound": 0.6},
        server={"max_update_norm": 1e4},
    )
    seeds = run(plan, watch=lambda *args: None)
    results = collect(plan, seeds)
    assert [entry.outcome for entry in results.rounds if entry.replies][:2] == ["committed"] * 2
    for name in results.plants:
        # Of three plants one honest one is certain, so its part of the noise is the whole.
        charges = Spending(seeds[0].prepared.folder(name)).charges()
        assert [charge.cost.noise_multiplier for charge in charges] == [0.5, 0.5]


def test_without_noise_nothing_is_said(images: Path, tmp_path: Path) -> None:
    plan = plan_of(images, tmp_path / "out")
    results = collect(plan, run(plan, watch=lambda *args: None))
    assert all(plant.privacy is None for plant in results.plants.values())
    write_report(results, tmp_path / "report.html")
    assert "in privacy" not in (tmp_path / "report.html").read_text()
