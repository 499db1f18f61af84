from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from common import architecture
from common.backbone import Part, build_for, load_source, outline_for, parts, travelling
from common.backbones.anomaly import PATCHES
from common.backbones.patches import PatchBody, find_taps
from common.config import FederationConfig
from common.errors import BackboneError
from common.files import save_tensors


def config(**rest: object) -> FederationConfig:
    return FederationConfig.model_validate(
        {"task": "image-anomaly", "backbone": "shufflenet_v2_x0_5", "image_size": 64, **rest}
    )


@pytest.mark.parametrize(
    ("name", "size", "taps", "form"),
    [
        ("mobilenet_v2", 96, ["features.6", "features.13"], "channels first"),
        ("resnet18", 96, ["layer2", "layer3"], "channels first"),
        ("swin_t", 128, ["features.3", "features.5"], "channels last"),
        ("vit_b_16", 64, [f"encoder.layers.encoder_layer_{n}" for n in (6, 9)], "tokens"),
    ],
)
def test_the_middle_stages_are_tapped(name: str, size: int, taps: list[str], form: str) -> None:
    found = find_taps(architecture.outline(name, image_size=size), image_size=size)
    assert [tap.name for tap in found] == taps
    assert {tap.form for tap in found} == {form}


def test_a_body_gives_what_the_whole_model_has_in_its_middle() -> None:
    name, size = "shufflenet_v2_x0_5", 64
    model = architecture.construct(name, image_size=size, seed=1).eval()
    taps = find_taps(architecture.outline(name, image_size=size), image_size=size)
    seen: dict[str, torch.Tensor] = {}
    for tap in taps:
        model.get_submodule(tap.name).register_forward_hook(
            lambda module, given, got, key=tap.name: seen.__setitem__(key, got)
        )
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    body = PatchBody(model, taps=taps).eval()
    with torch.no_grad():
        model(images)
        features = body(images)
    fine, coarse = (nn.functional.avg_pool2d(seen[tap.name], 3, 1, 1) for tap in taps)
    assert features.shape == (2, 8, 8, fine.shape[1] + coarse.shape[1])
    torch.testing.assert_close(features[..., : fine.shape[1]], fine.permute(0, 2, 3, 1))
    coarse = nn.functional.interpolate(coarse, size=(8, 8), mode="bilinear")
    torch.testing.assert_close(features[..., fine.shape[1] :], coarse.permute(0, 2, 3, 1))


def test_what_lies_behind_the_taps_is_gone() -> None:
    network = build_for(config(), outputs=2)
    names = [name for name, part in parts(network).items() if part is Part.BODY]
    assert any(name.startswith("backbone.trunk.stage3") for name in names)
    assert not any("stage4" in name or "conv5" in name for name in names)
    assert list(network.state_dict()) == list(outline_for(config(), outputs=2).state_dict())


def test_memory_and_scale_never_travel() -> None:
    network = build_for(config(), outputs=2)
    assert parts(network)["head.memory.patches"] is Part.OWN
    gone = travelling(network, head=True, norm=True)
    assert "head.pretext.weight" in gone
    assert not any(name.startswith(("head.memory", "head.scale")) for name in gone)


def test_weights_of_the_whole_model_or_of_a_release(tmp_path: Path) -> None:
    model = architecture.construct("shufflenet_v2_x0_5", image_size=64, seed=5)
    file = tmp_path / "whole.safetensors"
    state = {n: t.numpy() for n, t in model.state_dict().items() if t.is_floating_point()}
    save_tensors(file, state)
    whole = load_source(config(weights=str(file)), base=tmp_path)
    trunk = whole.network.backbone.state_dict()
    assert torch.equal(trunk["trunk.stage2.0.branch1.0.weight"], model.stage2[0].branch1[0].weight)
    release = tmp_path / "release.safetensors"
    kept = {f"backbone.{n}": t.numpy() for n, t in trunk.items() if t.is_floating_point()}
    save_tensors(release, kept)
    again = load_source(config(weights=str(release)), base=tmp_path).network.backbone.state_dict()
    assert all(torch.equal(again[name], trunk[name]) for name in kept_names(trunk))


def kept_names(state: dict[str, torch.Tensor]) -> list[str]:
    return [name for name, tensor in state.items() if tensor.is_floating_point()]


def test_a_release_of_another_backbone_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "release.safetensors"
    save_tensors(file, {"backbone.trunk.conv1.0.weight": torch.zeros(2, 3, 3, 3).numpy()})
    body = PATCHES.construct(config(), seed=0).module
    with pytest.raises(BackboneError, match=r"trunk\.\S+ must have shape .* use the backbone"):
        PATCHES.fill(config(weights=str(file)), body, base=tmp_path)


def test_images_without_room_for_a_map_are_refused() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3 * 32 * 32, 4)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.layer(images.flatten(1))

    with pytest.raises(BackboneError, match="maps of features, got none in Flat"):
        find_taps(Flat().to("meta"), image_size=32)
