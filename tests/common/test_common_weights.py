"""Source weights: from files, from torchvision, and those that do not fit."""

from __future__ import annotations

import os
import re
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torchvision.models import VisionTransformer
from torchvision.models._api import BUILTIN_MODELS
from torchvision.models.vision_transformer import interpolate_embeddings
from torchvision.transforms.v2 import Normalize

from common import backbone
from common.config import FederationConfig
from common.errors import BackboneError
from common.weights import HALF, IMAGENET_MEAN, IMAGENET_STD, read_weights

SMALL = "shufflenet_v2_x0_5"


def source(folder: Path, *, weights: str, **config: Any) -> backbone.Source:
    settings = {"backbone": SMALL, "image_size": 32, "weights": weights, **config}
    return backbone.load_source(FederationConfig(**settings), base=folder)


def whole_state(name: str = SMALL, **more: Any) -> dict[str, torch.Tensor]:
    """Return the state of torchvision's own model, with a class layer for 1000 classes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(9)
        model = torchvision.models.get_model(name, weights=None, **more)
    return dict(model.state_dict())


def same(network: backbone.Network, state: Mapping[str, torch.Tensor]) -> bool:
    own = network.backbone.state_dict()
    return all(torch.equal(value, state[name]) for name, value in own.items())


def refusal(folder: Path, **config: Any) -> str:
    with pytest.raises(BackboneError) as caught:
        source(folder, **config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_real_weights_load_with_their_normalisation(real_data: Path) -> None:
    path = real_data / "weights" / "mobilenet_v2_imagenet.safetensors"
    found = source(path.parent, backbone="mobilenet_v2", weights=path.name, image_size=96)
    tensors = load_file(path)
    assert "classifier.1.weight" in tensors
    assert found.network.head.out_features == 2
    assert same(found.network, {name: value.float() for name, value in tensors.items()} | tensors)
    assert all(value.dtype == torch.float32 for value in found.network.parameters())
    assert (found.mean, found.std) == (HALF, HALF)


def test_none_is_random_by_the_seed(tmp_path: Path) -> None:
    found = source(tmp_path, weights="none", seed=4)
    assert same(found.network, backbone.build(SMALL, classes=2, seed=4).backbone.state_dict())
    assert (found.mean, found.std) == (HALF, HALF)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "deeper/w.pt"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_file_loads_whatever_its_class_layer(
    tmp_path: Path, name: str, dtype: torch.dtype
) -> None:
    state = {
        key: value.to(dtype) if value.is_floating_point() else value
        for key, value in whole_state().items()
    }
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    found = source(tmp_path, weights=name)
    assert same(found.network, {key: value.float() for key, value in state.items()})
    assert all(
        value.dtype == torch.float32
        for value in found.network.state_dict().values()
        if value.is_floating_point()
    )
    assert (found.mean, found.std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert same(
        source(Path("elsewhere"), weights=str(path)).network, found.network.backbone.state_dict()
    )


def test_a_release_is_a_source_too(tmp_path: Path) -> None:
    """Its tensors have the network's names, and no counters."""
    network = backbone.build(SMALL, classes=5, seed=8)
    released = {name: torch.tensor(value) for name, value in backbone.read_tensors(network).items()}
    save_file(released, tmp_path / "w.safetensors")
    assert same(source(tmp_path, weights="w.safetensors").network, network.backbone.state_dict())


@pytest.mark.parametrize(
    ("metadata", "config", "mean", "std"),
    [
        ({"mean": "[0.1, 0.2, 0.3]", "std": "0.4"}, {}, (0.1, 0.2, 0.3), (0.4, 0.4, 0.4)),
        ({"normalize": "mean 0.5, std 0.25"}, {}, HALF, (0.25, 0.25, 0.25)),
        ({"normalize": "mean 0.1, 0.2, 0.3, std 1, 2, 3"}, {}, (0.1, 0.2, 0.3), (1, 2, 3)),
        ({"mean": "0.1"}, {}, IMAGENET_MEAN, IMAGENET_STD),
        (None, {}, IMAGENET_MEAN, IMAGENET_STD),
        ({"mean": "0.1", "std": "1"}, {"mean": HALF, "std": HALF}, HALF, HALF),
        (None, {"mean": HALF, "std": (1.0, 2.0, 3.0)}, HALF, (1, 2, 3)),
    ],
)
def test_normalisation_is_of_the_config_else_of_the_file_else_of_imagenet(
    tmp_path: Path,
    metadata: dict[str, str] | None,
    config: dict[str, Any],
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> None:
    save_file(whole_state(), tmp_path / "w.safetensors", metadata=metadata)
    found = source(tmp_path, weights="w.safetensors", **config)
    assert (found.mean, found.std) == (mean, std)


@pytest.mark.parametrize("mean", ["[0.1, 0.2]", "half", '{"r": 1}', "null"])
def test_normalisation_that_is_no_number_is_refused(tmp_path: Path, mean: str) -> None:
    save_file(whole_state(), tmp_path / "w.safetensors", metadata={"mean": mean, "std": "1"})
    assert "must be one or three numbers, got " + mean in refusal(tmp_path, weights="w.safetensors")


def test_every_tensor_that_does_not_fit_is_named(tmp_path: Path) -> None:
    state = whole_state()
    del state["conv5.0.weight"]
    state["extra"] = torch.zeros(1)
    state["conv1.0.weight"] = torch.zeros(1, 3, 3, 3)
    state["conv1.1.bias"] = torch.zeros(24, dtype=torch.int8)
    state["conv1.1.weight"][0] = torch.nan
    torch.save(state, tmp_path / "w.pth")
    assert refusal(tmp_path, weights="w.pth") == (
        f"weights must be those of {SMALL}, got w.pth: missing conv5.0.weight; unexpected extra; "
        "misfit conv1.0.weight ((1, 3, 3, 3) for (24, 3, 3, 3)), "
        "conv1.1.bias (torch.int8 for torch.float32); not finite conv1.1.weight; "
        "set backbone to the architecture of these weights"
    )


def test_another_architecture_is_named_by_five_tensors(tmp_path: Path) -> None:
    torch.save(whole_state("squeezenet1_1"), tmp_path / "w.pth")
    said = refusal(tmp_path, weights="w.pth")
    missing, unexpected = re.findall(r"(?:missing|unexpected) (.*?) and (\d+) more", said)
    assert missing[0].split(", ")[:2] == ["conv1.0.weight", "conv1.1.weight"]
    assert len(missing[0].split(", ")) == len(unexpected[0].split(", ")) == 5
    assert int(unexpected[1]) == len(whole_state("squeezenet1_1")) - 5


class Code:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["CODE_RAN"],)


def test_a_file_with_code_is_refused_and_the_code_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODE_RAN", str(tmp_path / "ran"))
    torch.save({"conv1.0.weight": Code()}, tmp_path / "w.pth")
    assert "without code" in refusal(tmp_path, weights="w.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("content", [b"", b"hello world", b"\x80\x02}q\x00.", bytes(200)])
def test_a_file_that_holds_no_weights_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert "weights must be" in refusal(tmp_path, weights=name)


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    torch.save(whole_state(), tmp_path / "w.pth")
    save_file(whole_state(), tmp_path / "w.safetensors")
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-1000])
        assert "which is neither or damaged" in refusal(tmp_path, weights=path.name)


def test_a_checkpoint_around_the_state_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": whole_state(), "epoch": 3}, tmp_path / "w.pth")
    assert "save model.state_dict() alone" in refusal(tmp_path, weights="w.pth")


@pytest.mark.parametrize(
    ("weights", "complaint"),
    [
        ("nothing.pth", "nothing.pth: no such file; a relative path starts at the folder of"),
        ("nothing.safetensors", "nothing.safetensors: no such file"),
        ("w.bin", "IMAGENET1K_V1, DEFAULT or a file (.safetensors, .pth, .pt)"),
        ("IMAGENET1K_V9", "got 'IMAGENET1K_V9'; choose one of these"),
        ("ResNet18_Weights.IMAGENET1K_V1", f"for {SMALL}, got 'ResNet18_Weights.IMAGENET1K_V1'"),
    ],
)
def test_weights_that_are_not_there_are_refused(
    tmp_path: Path, weights: str, complaint: str
) -> None:
    assert complaint in refusal(tmp_path, weights=weights)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return torchvision's own cache of downloads, empty, with the network out of reach."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for scheme in ("http", "https"):
        monkeypatch.setenv(f"{scheme}_proxy", "http://127.0.0.1:9")
    # urllib keeps its opener, and with it the proxies that were set at its first use.
    monkeypatch.setattr(urllib.request, "_opener", None)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def downloaded(cache: Path, name: str, state: Mapping[str, torch.Tensor]) -> None:
    url = torchvision.models.get_model_weights(name).DEFAULT.url
    torch.save(dict(state), cache / url.rsplit("/", 1)[1])


def test_a_download_that_fails_is_one_line(cache: Path) -> None:
    said = refusal(cache, weights="DEFAULT")
    assert re.search(r"Connection refused from https://\S+/shufflenet", said)
    assert "set weights to its path" in said


@pytest.mark.parametrize(
    "weights", ["DEFAULT", "IMAGENET1K_V1", "ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1"]
)
def test_torchvisions_weights_come_with_their_normalisation(cache: Path, weights: str) -> None:
    state = whole_state()
    downloaded(cache, SMALL, state)
    found = source(cache, weights=weights)
    assert same(found.network, state)
    assert (found.mean, found.std) == (IMAGENET_MEAN, IMAGENET_STD)


def test_auxiliary_classifiers_are_dropped_and_transform_input_is_in_the_normalisation(
    cache: Path,
) -> None:
    state = whole_state("googlenet", aux_logits=True, init_weights=False)
    assert "aux1.fc1.weight" in state
    downloaded(cache, "googlenet", state)
    found = source(cache, backbone="googlenet", weights="DEFAULT", image_size=64)
    assert same(found.network, state)
    assert (found.mean, found.std) == (HALF, HALF)

    whole = torchvision.models.googlenet(
        weights=None, transform_input=True, aux_logits=False, init_weights=False
    )
    whole.load_state_dict({k: v for k, v in state.items() if not k.startswith("aux")})
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        theirs = whole.eval()(Normalize(IMAGENET_MEAN, IMAGENET_STD)(images))
        ours = found.network.eval().embed(Normalize(found.mean, found.std)(images))
        torch.testing.assert_close(whole.fc(ours), theirs)


def test_the_old_names_of_densenet_are_known(cache: Path) -> None:
    state = whole_state("densenet121")
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", key): value
        for key, value in state.items()
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    downloaded(cache, "densenet121", old)
    assert same(source(cache, backbone="densenet121", weights="DEFAULT").network, state)


@pytest.fixture
def tiny_vit() -> Iterator[str]:
    """Teach torchvision a vision transformer that is small enough for a test."""

    def vit_tiny(*, weights: None = None, **options: Any) -> VisionTransformer:
        return VisionTransformer(
            **{"image_size": 224, **options},
            patch_size=16,
            num_layers=2,
            num_heads=2,
            hidden_dim=8,
            mlp_dim=16,
        )

    vit_tiny.__annotations__["return"] = VisionTransformer
    vit_tiny.__module__ = "torchvision.models.vision_transformer"
    BUILTIN_MODELS["vit_tiny"] = vit_tiny
    yield "vit_tiny"
    del BUILTIN_MODELS["vit_tiny"]


def test_a_position_embedding_for_another_size_is_interpolated(
    tmp_path: Path, tiny_vit: str
) -> None:
    state = whole_state(tiny_vit, image_size=64)
    old = {
        key.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): value
        for key, value in state.items()
    }
    torch.save(old, tmp_path / "w.pth")
    found = source(tmp_path, backbone=tiny_vit, weights="w.pth", image_size=96).network
    assert found.backbone.encoder.pos_embedding.shape == (1, 1 + 6 * 6, 8)
    assert same(found, interpolate_embeddings(96, 16, state.copy()))
    assert found(torch.rand(1, 3, 96, 96)).shape == (1, 2)
    equal = source(tmp_path, backbone=tiny_vit, weights="w.pth", image_size=64).network
    assert same(equal, state)


@pytest.mark.parametrize("shape", [(1, 7, 8), (1, 17, 9), (2, 17, 8), (17, 8)])
def test_a_position_embedding_that_cannot_be_interpolated_is_named(
    tmp_path: Path, tiny_vit: str, shape: tuple[int, ...]
) -> None:
    state = whole_state(tiny_vit, image_size=64)
    state["encoder.pos_embedding"] = torch.zeros(shape)
    torch.save(state, tmp_path / "w.pth")
    said = refusal(tmp_path, backbone=tiny_vit, weights="w.pth", image_size=96)
    assert f"misfit encoder.pos_embedding ({shape} for (1, 37, 8))" in said


def test_weights_are_read_without_a_network(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2, dtype=torch.float16), "n": torch.tensor(3)}, tmp_path / "w.pt")
    found = read_weights("w.pt", backbone="resnet18", base=tmp_path)
    assert found is not None
    assert found.tensors["a"].dtype == torch.float32
    assert found.tensors["n"].dtype == torch.int64
    assert read_weights("none", backbone="resnet18", base=tmp_path) is None
