"""Every kind of torchvision model, split into a backbone and a head."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from common import architecture, backbone
from common.backbone import Network, Part
from common.errors import BackboneError, ConfigError, UpdateError
from common.update import Schema

CLASSES = 3

#: Features, number of stages, and whether there is normalisation.
MODELS = {
    "resnet18": (512, 6, True),
    "resnet50": (2048, 6, True),
    "vgg11_bn": (4096, 18, True),
    "inception_v3": (2048, 16, True),
    "mobilenet_v2": (1280, 19, True),
    "mobilenet_v3_small": (1024, 14, True),
    "efficientnet_b0": (1280, 9, True),
    "convnext_tiny": (768, 9, True),
    "densenet121": (1024, 10, True),
    "regnet_y_400mf": (440, 5, True),
    "shufflenet_v2_x1_0": (1024, 5, True),
    "squeezenet1_1": (512, 9, False),
    "vit_b_16": (768, 14, True),
}


def size(name: str) -> int:
    return 96 if name == "inception_v3" else 64


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> tuple[str, Network]:
    name = request.param
    return name, backbone.build(name, classes=CLASSES, image_size=size(name)).eval()


@pytest.fixture(scope="module")
def small() -> Network:
    return backbone.build("shufflenet_v2_x0_5", classes=2, image_size=32)


def test_it_maps_images_to_scores_through_its_stages_in_order(model: tuple[str, Network]) -> None:
    name, network = model
    width, count, _ = MODELS[name]
    stages = backbone.stages(network)
    passed: list[str] = []
    hooks = [
        network.backbone.get_submodule(stage.name).register_forward_pre_hook(
            lambda *_, name=stage.name: passed.append(name)
        )
        for stage in stages
    ]
    images = torch.rand(2, 3, size(name), size(name), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = network.embed(images)
    for hook in hooks:
        hook.remove()
    assert features.shape == (2, width)
    assert width == network.features
    assert network.head(features).shape == (2, CLASSES)
    assert features.isfinite().all()
    assert not torch.equal(features[0], features[1])
    assert list(dict.fromkeys(passed)) == [stage.name for stage in stages]
    assert len(stages) == count


def test_every_parameter_of_the_backbone_is_in_one_stage(model: tuple[str, Network]) -> None:
    _, network = model
    staged = [name for stage in backbone.stages(network) for name in stage.parameters]
    assert sorted(staged) == sorted(
        name for name, _ in network.named_parameters() if name.startswith("backbone.")
    )
    assert all(stage.parameters for stage in backbone.stages(network))


def test_a_tensor_is_what_the_type_of_its_module_says(model: tuple[str, Network]) -> None:
    name, network = model
    parts = backbone.parts(network)
    state = network.state_dict()
    assert {key for key, part in parts.items() if part is Part.HEAD} == {"head.weight", "head.bias"}
    norm = {
        f"{prefix}.{key}"
        for prefix, module in network.named_modules()
        if "Norm" in type(module).__name__ and not list(module.children())
        for key in module.state_dict()
        if key != "num_batches_tracked"
    }
    assert {key for key, part in parts.items() if part is Part.NORM} == norm
    assert backbone.has_norm(network) == bool(backbone.norm_layers(network)) == MODELS[name][2]
    assert set(state) - set(parts) == {
        key for key, value in state.items() if not value.is_floating_point()
    }
    assert {key for key, _ in network.named_parameters()} <= set(parts)


def test_tensors_survive_reading_and_writing(model: tuple[str, Network]) -> None:
    _, network = model
    before = backbone.read_tensors(network)
    assert all(value.dtype == np.float32 for value in before.values())
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.zero_()
    backbone.write_tensors(network, before)
    after = backbone.read_tensors(network)
    assert Schema.of(after).digest == Schema.of(before).digest
    assert list(after) == list(before) == list(backbone.parts(network))
    assert all(np.array_equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "googlenet"])
def test_it_is_the_torchvision_model_with_the_class_layer_put_back(name: str) -> None:
    network = backbone.build(name, classes=CLASSES, image_size=64, seed=3).eval()
    more = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    whole = torchvision.models.get_model(name, weights=None, num_classes=CLASSES, **more).eval()
    layer = architecture.layout(name, image_size=64).class_layer
    head = {f"{layer}.{key}": value for key, value in network.head.state_dict().items()}
    whole.load_state_dict({**network.backbone.state_dict(), **head})
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(network(images), whole(images))


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("mobilenet_v2", [f"features.{place}" for place in range(19)]),
        ("resnet18", ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4"]),
        ("alexnet", [*(f"features.{i}" for i in (0, 3, 6, 8, 10)), "classifier.1", "classifier.4"]),
    ],
)
def test_stages_have_the_names_a_reader_of_the_paper_expects(name: str, names: list[str]) -> None:
    network = backbone.build(name, classes=2, image_size=64)
    assert [stage.name for stage in backbone.stages(network)] == names
    assert backbone.stage_index(network, names[2]) == 2
    assert backbone.stage_index(network, "") == 0


def test_tokens_and_position_embeddings_are_in_the_stage_before_them() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.position = nn.Parameter(torch.zeros(1))
            self.layers = nn.Sequential(*(nn.Linear(4, 4) for _ in range(6)))

    class Transformer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.zeros(1))
            self.patches = nn.Linear(2, 4)
            self.mix = nn.Linear(4, 4)
            self.encoder = Encoder()

    network = Network(Transformer(), features=4, classes=2)
    own = {
        stage.name: {name for name in stage.parameters if f".{stage.name}." not in name}
        for stage in backbone.stages(network)
    }
    assert own == {
        "patches": {"backbone.token"},
        "mix": {"backbone.encoder.position"},
        **{f"encoder.layers.{place}": set() for place in range(6)},
    }


def test_an_unknown_stage_is_answered_with_those_there_are() -> None:
    network = backbone.build("resnet18", classes=2, image_size=32)
    with pytest.raises(ConfigError, match=r"got 'layer9'; choose one of conv1, bn1, layer1, "):
        backbone.stage_index(network, "layer9")


@pytest.mark.parametrize(
    ("name", "image_size", "complaint"),
    [
        ("resnet19", 64, "got 'resnet19'; try resnet18 or "),
        ("ResNet18", 64, "got 'ResNet18'; try resnet18 or "),
        ("fcn_resnet50", 64, "must be a torchvision classification model, got 'fcn_resnet50'"),
        ("quantized_resnet18", 64, "try resnet18"),
        ("", 64, "must be a torchvision classification model, got ''"),
        ("inception_v3", 64, "image_size must be one that inception_v3 takes, got 64; 96 works"),
        ("vit_b_16", 100, "image_size must be one that vit_b_16 takes, got 100; 96 works"),
        ("maxvit_t", 200, "image_size must be one that maxvit_t takes, got 200; 224 works"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_line(
    name: str, image_size: int, complaint: str
) -> None:
    with pytest.raises(BackboneError) as caught:
        backbone.build(name, classes=2, image_size=image_size)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_classes_are_refused() -> None:
    with pytest.raises(BackboneError, match="classes must be at least 1, got 0"):
        backbone.build("resnet18", classes=0)


def test_random_weights_follow_the_seed_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    one = backbone.read_tensors(backbone.build("resnet18", classes=2, image_size=32, seed=5))
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(2)
    same = backbone.read_tensors(backbone.build("resnet18", classes=2, image_size=96, seed=5))
    other = backbone.read_tensors(backbone.build("resnet18", classes=2, image_size=32, seed=6))
    wider = backbone.read_tensors(backbone.build("resnet18", classes=7, image_size=32, seed=5))
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert not np.array_equal(one["backbone.conv1.weight"], other["backbone.conv1.weight"])
    assert all(np.array_equal(one[name], wider[name]) for name in one if "backbone" in name)


def test_a_forward_pass_in_training_mode_gives_scores_too() -> None:
    """The auxiliary classifiers of googlenet and inception_v3 are gone."""
    network = backbone.build("googlenet", classes=2, image_size=32).train()
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 2)


def test_what_travels_is_chosen_by_part(small: Network) -> None:
    parts = backbone.parts(small)
    body = {name for name, part in parts.items() if part is Part.BODY}
    norm = {name for name, part in parts.items() if part is Part.NORM}
    head = {"head.weight", "head.bias"}
    assert body
    assert norm
    assert backbone.travelling(small, head=False, norm=False) == body
    assert backbone.travelling(small, head=False, norm=True) == body | norm
    assert backbone.travelling(small, head=True, norm=False) == body | head
    assert backbone.travelling(small, head=True, norm=True) == set(parts)


def test_every_kind_of_normalisation_is_known_by_type() -> None:
    layers = {
        "a": nn.BatchNorm2d(4),
        "b": nn.GroupNorm(2, 4),
        "c": nn.LayerNorm(4),
        "d": nn.RMSNorm(4),
        "e": torchvision.ops.misc.FrozenBatchNorm2d(4),
        "f": nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
        "norm": nn.Linear(4, 4),
        "bn1": nn.LocalResponseNorm(2),
    }
    network = Network(nn.Sequential(), features=4, classes=2)
    for name, layer in layers.items():
        network.backbone.add_module(name, layer)
    norm = {name for name, part in backbone.parts(network).items() if part is Part.NORM}
    assert {name.split(".")[1] for name in norm} == set("abcdef")
    assert "backbone.a.running_var" in norm
    assert "backbone.a.num_batches_tracked" not in backbone.parts(network)
    assert backbone.norm_layers(network) == tuple(layers[name] for name in "abcdef")


@given(data=st.data())
def test_a_subset_is_written_and_nothing_else_moves(small: Network, data: st.DataObject) -> None:
    before = backbone.read_tensors(small)
    names = data.draw(st.sets(st.sampled_from(sorted(before)), max_size=5))
    shift = np.float32(data.draw(st.floats(-2, 2, width=32)))
    backbone.write_tensors(small, {name: before[name] + shift for name in names})
    after = backbone.read_tensors(small)
    for name, value in before.items():
        assert np.array_equal(after[name], value + shift if name in names else value)


def test_reading_copies_and_writing_takes_read_only_arrays(small: Network) -> None:
    tensors = backbone.read_tensors(small)
    tensors["head.bias"][:] = 7
    assert not np.any(backbone.read_tensors(small)["head.bias"] == 7)
    tensors["head.bias"].flags.writeable = False
    backbone.write_tensors(small, {"head.bias": tensors["head.bias"]})
    assert np.all(backbone.read_tensors(small)["head.bias"] == 7)


@pytest.mark.parametrize(
    ("name", "shape", "complaint"),
    [
        ("backbone.nothing", (2,), "tensor name must be one of the network's"),
        ("backbone.conv1.1.num_batches_tracked", (), "tensor name must be one of the network's"),
        ("head.bias", (1,), r"tensor head.bias must have shape \(2,\), got \(1,\)"),
    ],
)
def test_a_tensor_that_does_not_fit_leaves_the_network_as_it_was(
    small: Network, name: str, shape: tuple[int, ...], complaint: str
) -> None:
    before = backbone.read_tensors(small)
    with pytest.raises(UpdateError, match=complaint):
        backbone.write_tensors(
            small,
            {"head.weight": before["head.weight"] + 1, name: np.ones(shape, dtype=np.float32)},
        )
    after = backbone.read_tensors(small)
    assert all(np.array_equal(after[key], before[key]) for key in before)


def test_an_outline_has_the_same_tensors_and_no_memory(model: tuple[str, Network]) -> None:
    name, network = model
    drawn = backbone.outline(name, classes=CLASSES, image_size=size(name))
    assert backbone.parts(drawn) == backbone.parts(network)
    real = network.state_dict()
    for key, tensor in drawn.state_dict().items():
        assert (tensor.shape, tensor.dtype) == (real[key].shape, real[key].dtype)
    assert all(parameter.is_meta for parameter in drawn.parameters())
