"""What would leave the plant is what does leave it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client.console.preview import BESIDE, classes_of, preview
from client.plant import Plant
from common.backbone import Part
from common.config import FederationConfig, MethodConfig, PlantConfig
from common.errors import BackboneError
from common.orders import Order, Outcome, Release, Reply
from common.update import Schema


@pytest.mark.parametrize(
    "fields",
    [
        {"method": "fedper"},
        {"method": "fedbn"},
        {"method": "fedavg", "classes": ("dark", "light")},
        {"method": "ditto", "methods": MethodConfig(personal_norm=True)},
    ],
    ids=lambda fields: fields["method"],
)
def test_it_shows_the_very_update(
    fields: dict[str, Any],
    small_config: FederationConfig,
    plant_of: Callable[..., Plant],
    release_of: Callable[..., Release],
    order_for: Callable[..., Order],
) -> None:
    config = small_config.model_copy(update=fields)
    release = release_of(config)
    reply = plant_of("ash").answer(order_for(config, release), release)
    assert reply.outcome is Outcome.DONE
    assert reply.payload is not None

    found = preview(config, classes=2)
    assert found.size == len(reply.payload)
    assert Schema({one.name: one.shape for one in found.tensors}).digest == reply.schema
    assert found.arrives == release.vector.nbytes
    assert found.size + sum(found.kept.values()) == preview_of_everything(config)
    assert (Part.HEAD in found.kept) == (config.method != "fedavg")


def preview_of_everything(config: FederationConfig) -> int:
    shared = config.model_copy(
        update={"method": "fedavg", "classes": ("dark", "light"), "methods": MethodConfig()}
    )
    return preview(shared, classes=2).size


def test_a_head_that_travels_is_for_the_federations_classes(small_config: FederationConfig) -> None:
    shared = small_config.model_copy(update={"method": "fedavg", "classes": ("a", "b", "c")})
    found = {one.name: one.shape for one in preview(shared, classes=2).tensors}
    assert found["head.bias"] == (3,)


def test_every_field_of_a_reply_is_explained() -> None:
    assert set(Reply.__dataclass_fields__) == set(BESIDE)


def test_facts_are_for_scripts(small_config: FederationConfig) -> None:
    facts = preview(small_config, classes=3).facts()
    first = facts["tensors"][0]
    assert first == {
        "name": "backbone.conv1.0.weight",
        "shape": (24, 3, 3, 3),
        "part": "body",
        "dtype": "float32",
        "bytes": 2592,
    }
    assert facts["bytes"] == sum(one["bytes"] for one in facts["tensors"])
    assert facts["bytes_that_stay"] == {"head": 4 * (1024 * 3 + 3)}
    assert facts["protection"][0].startswith("validate (max norm 100): Refuse")
    assert facts["readable_by_the_centre"] is True


def test_a_backbone_that_there_is_not(small_config: FederationConfig) -> None:
    with pytest.raises(BackboneError, match="backbone must be a torchvision"):
        preview(small_config.model_copy(update={"backbone": "resnet1"}), classes=2)


def test_classes_without_reading_an_image(tmp_path: Path) -> None:
    settings = PlantConfig(name="ash", data="data")
    assert classes_of(tmp_path, settings) == 2
    for name in ("a", "b", "c", ".hidden"):
        (tmp_path / "data" / name).mkdir(parents=True)
    assert classes_of(tmp_path, settings) == 3
    chosen = settings.model_copy(update={"classes": ("a", "b")})
    assert classes_of(tmp_path, chosen) == 2
