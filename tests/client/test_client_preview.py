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
    assert found.size == found.sent == len(reply.payload)
    assert Schema({one.name: one.shape for one in found.tensors}).digest == reply.schema
    assert found.arrives == release.vector.nbytes
    assert found.size + sum(found.kept.values()) == preview_of_everything(config)
    assert (Part.HEAD in found.kept) == (config.method != "fedavg")


@pytest.mark.parametrize(
    ("update", "said"),
    [
        ({"form": "fp16"}, "2 bytes"),
        ({"form": "int8"}, "scale for each tensor"),
        ({"form": "top_k", "share": 0.05}, "largest 0.05 of the values, in fp16; the rest is kept"),
        ({"form": "low_rank", "error_feedback": False}, "factors of 4 columns"),
        ({"form": "coordinates", "values": "int8"}, "at places that all plants share, in int8"),
    ],
    ids=lambda update: update["form"] if isinstance(update, dict) else "",
)
def test_it_shows_what_a_form_leaves_of_it(
    update: dict[str, Any],
    said: str,
    small_config: FederationConfig,
    changed: Callable[..., FederationConfig],
    plant_of: Callable[..., Plant],
    release_of: Callable[..., Release],
    order_for: Callable[..., Order],
) -> None:
    config = changed(small_config, update=update, methods={"local_first": False})
    release = release_of(config)
    reply = plant_of("ash").answer(order_for(config, release), release)
    assert reply.payload is not None
    found = preview(config, classes=2)
    assert found.sent == len(reply.payload) < found.size
    assert said in found.form
    assert ("rest is kept" in found.form) == (update["form"] in ("top_k", "coordinates"))
    assert found.facts()["bytes_sent"] == found.sent


def test_it_shows_what_masks_make_of_it(
    small_config: FederationConfig, changed: Callable[..., FederationConfig]
) -> None:
    masked = {"min_plants": 6, "secure_aggregation": {"enabled": True, "bits": 8}}
    whole = preview(changed(small_config, **masked), classes=2)
    assert whole.form == "every value in fixed point of 8 bits under masks"
    # Eleven bits with room for the sum of six, five of them in a word of 64.
    assert whole.sent == pytest.approx(whole.size / 4 / 5 * 8, rel=1e-3)
    update = {"form": "coordinates", "share": 0.3125, "values": "fp32"}
    part = preview(changed(small_config, update=update, **masked), classes=2)
    assert part.sent == pytest.approx(whole.size / 8, rel=1e-3)


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
