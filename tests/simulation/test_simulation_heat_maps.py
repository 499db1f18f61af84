"""Pictures of plants with good parts alone."""

from __future__ import annotations

import base64
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import torch

from client.plant import Plant
from common.backbone import load_source
from common.config import FederationConfig, PlantConfig
from common.source import first_release
from simulation.factory import write_plants
from simulation.heat_maps import Parts, anomaly_pictures, seen, sheet
from simulation.histogram import MIDDLE, histogram
from simulation.scene import Picture, Scene

SVG = "{http://www.w3.org/2000/svg}"


def drawn(picture: Picture) -> ET.Element:
    coded = picture.picture.removeprefix("data:image/svg+xml;base64,")
    return ET.fromstring(base64.b64decode(coded))


def texts(svg: ET.Element) -> list[str]:
    return [str(one.text) for one in svg.iter(f"{SVG}text")]


def test_good_parts_grow_upwards_and_defective_ones_down() -> None:
    svg = ET.fromstring(histogram(np.array([0.5, 0.9, 1.1]), np.array([0.8, 2.0, 99.0, 3.0])))
    bars = [(one.get("class"), float(str(one.get("y")))) for one in svg.iter(f"{SVG}rect")]
    assert {y < MIDDLE for kind, y in bars if kind == "good"} == {True}
    assert {y == MIDDLE for kind, y in bars if kind == "bad"} == {True}
    assert "good: 1 of 3 rejected" in texts(svg)
    assert "defective: 1 of 4 pass" in texts(svg)


def test_a_sheet_shows_each_part_with_its_heat() -> None:
    heats = torch.zeros(2, 16, 16)
    heats[1, 4, 4] = 3.0
    parts = Parts(
        images=torch.full((2, 3, 16, 16), 128, dtype=torch.uint8),
        heats=heats,
        scores=np.array([0.4, 3.0]),
        bad=np.array([False, True]),
    )
    svg = ET.fromstring(sheet(parts, [1, 0]))
    pictures = [one.get("href") for one in svg.iter(f"{SVG}image")]
    assert len(pictures) == 4
    assert len(set(pictures)) == 2  # the cold part looks like itself, and like the other one
    assert texts(svg) == ["defective, rejected", "3.00", "good, passes", "0.40"]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Return a made-up plant that remembers its good parts."""
    root = tmp_path_factory.mktemp("heat")
    (folder,) = write_plants(root / "data", plants=1, images_per_class=8, good_images=70, size=32)
    config = FederationConfig.model_validate(
        {
            "task": "image-anomaly",
            "backbone": "shufflenet_v2_x0_5",
            "weights": "none",
            "image_size": 32,
            "device": "cpu",
            "anomaly": {"memory": 40},
        }
    )
    source = load_source(config, base=root)
    settings = PlantConfig(name="a", data=str(folder), good="good", device="cpu")
    plant = Plant.create(root / "a", settings)
    release = first_release(source.network, source.config)
    version = plant.train_alone("local", source=release, config=source.config)
    said = plant.test(version.number, config=source.config)
    return Scene(
        plant=plant,
        config=source.config,
        version=version.number,
        predictions={"deployed": said},
    )


def test_scores_are_those_that_the_model_decides_by(scene: Scene) -> None:
    parts, said = seen(scene), scene.predictions["deployed"]
    assert parts.heats.shape == (len(parts.scores), 32, 32)
    assert (parts.bad == (said.truth == 1)).all()
    assert ((parts.scores > 1) == (said.predicted[:, 1] > 0.5)).all()


def test_a_plant_gets_scores_suspects_and_what_passes(scene: Scene) -> None:
    first, suspects, *passed = anomaly_pictures(scene)
    parts = seen(scene)
    assert f"{parts.scores.max():.2f}" in texts(drawn(suspects))
    missed = int((parts.bad & (parts.scores <= 1)).sum())
    assert f"defective: {missed} of {int(parts.bad.sum())} pass" in texts(drawn(first))
    assert len(passed) == (missed > 0)
    for one in passed:
        assert set(texts(drawn(one))[::2]) == {"defective, passes"}
