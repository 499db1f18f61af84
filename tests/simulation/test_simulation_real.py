"""The main job on real images: solar cells and tiles, ImageNet weights."""

from pathlib import Path

import pytest

from common.config import FederationConfig, PlantSection, TrainingConfig
from simulation.collect import collect
from simulation.run import Plan, run


@pytest.mark.slow
def test_real_plants_learn_together(real_data: Path, tmp_path: Path) -> None:
    cells = PlantSection(classes=("functional", "defective"), good="functional")
    config = FederationConfig(
        weights=str((real_data / "weights" / "mobilenet_v2_imagenet.safetensors").resolve()),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        image_size=64,
        rounds=1,
        labels_per_class=10,
        test_per_class=60,
        local_steps=0,
        training=TrainingConfig(epochs=2),
        plants={"elpv_mono": cells, "elpv_poly": cells},
    )
    plan = Plan(
        config=config,
        base=tmp_path,
        data=real_data / "images",
        out=tmp_path / "out",
        plants=("elpv_mono", "elpv_poly", "magnetic_tile"),
        pooled=False,
    )
    results = collect(plan, run(plan, watch=lambda *_: None))
    assert [entry.outcome for entry in results.rounds] == ["committed"]
    # Frozen ImageNet features alone tell more than chance: 1/2, 1/2, 1/6.
    assert results.mean.head_only.low > 0.4
    assert results.plants["elpv_mono"].metrics["local"]["escape_rate"] is not None
    assert results.plants["magnetic_tile"].metrics["local"]["escape_rate"] is None
    for plant in results.plants.values():
        assert plant.deployed.source in ("local", "federated")
        assert plant.deployed.why
