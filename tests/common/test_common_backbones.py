"""Families of backbones: what is shared, what is personal, and that it depends on nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from common.backbone import Part, build_for, load_source, outline_for, parts, stages, travelling
from common.backbone import read_tensors as read
from common.backbones.table import Category, Columns, Number
from common.config import FederationConfig
from common.errors import BackboneError
from common.files import save_tensors
from common.source import start

TRUNKS = ("resnet_mlp", "ft_transformer")
HEAT = Number(name="heat", mean=200.0, spread=10.0, edges=(180.0, 195.0, 205.0, 220.0))
WET = Category(name="wet", levels=("no", "yes"))
COLUMNS = Columns(numbers=(HEAT,), categories=(WET,))
WIDER = Columns(numbers=(HEAT, HEAT), categories=(WET, WET))


def config(backbone: str = "resnet_mlp", **values: Any) -> FederationConfig:
    table = {"width": 16, "blocks": 2, "heads": 4, "dropout": 0.0}
    return FederationConfig.model_validate(
        {"task": "tabular", "backbone": backbone, "table": table} | values
    )


@pytest.mark.parametrize("trunk", TRUNKS)
@pytest.mark.parametrize(
    "columns",
    [COLUMNS, Columns(numbers=(HEAT,), categories=()), Columns(numbers=(), categories=(WET, WET))],
)
def test_a_network_takes_missing_values_and_is_finite(trunk: str, columns: Columns) -> None:
    network = build_for(config(trunk), outputs=2, columns=columns).eval()
    count = len(columns.numbers) + len(columns.categories)
    inputs = torch.tensor([[1.0] * count, [torch.nan] * count, [1e30] + [0.0] * (count - 1)])
    if not columns.numbers:
        inputs[2, 0] = 1.0
    outputs = network(inputs)
    assert outputs.shape == (3, 2)
    assert outputs.isfinite().all()
    assert not torch.allclose(outputs[0], outputs[1])


@pytest.mark.parametrize("trunk", TRUNKS)
def test_the_trunk_is_the_same_at_every_plant(trunk: str) -> None:
    one = read(build_for(config(trunk), outputs=1, columns=COLUMNS))
    other = read(build_for(config(trunk), outputs=3, columns=WIDER))
    centre = start(config(trunk), base=Path())
    for name, value in centre.release.schema.unflatten(centre.release.vector).items():
        assert name.startswith("backbone.")
        assert (one[name] == value).all()
        assert (other[name] == value).all()


@pytest.mark.parametrize("trunk", TRUNKS)
def test_the_stem_never_travels(trunk: str) -> None:
    network = build_for(config(trunk), outputs=1, columns=COLUMNS)
    known = parts(network)
    stems = {name for name, part in known.items() if part is Part.STEM}
    assert stems == {name for name in known if name.startswith("stem.")}
    assert any("norm" in name for name, part in known.items() if part is Part.NORM)
    for head in (True, False):
        for norm in (True, False):
            assert not travelling(network, head=head, norm=norm) & stems
    assert {n for stage in stages(network) for n in stage.parameters} == {
        name for name, _ in network.named_parameters() if name.startswith("backbone.")
    }


@pytest.mark.parametrize("trunk", TRUNKS)
def test_an_outline_has_the_same_tensors(trunk: str) -> None:
    built = build_for(config(trunk), outputs=1, columns=COLUMNS)
    drawn = outline_for(config(trunk), outputs=1, columns=COLUMNS)
    assert {n: t.shape for n, t in drawn.state_dict().items()} == {
        n: t.shape for n, t in built.state_dict().items()
    }
    assert all(tensor.is_meta for tensor in drawn.state_dict().values())


def test_pieces_are_the_share_of_each_that_lies_below() -> None:
    network = build_for(config(), outputs=1, columns=COLUMNS)
    scaled: Any = network.stem.scaled
    deviations, missing, pieces = scaled(torch.tensor([[200.0], [170.0], [torch.nan]]))
    assert deviations[:, 0].tolist() == [0.0, -3.0, 0.0]
    assert missing[:, 0].tolist() == [0.0, 0.0, 1.0]
    assert pieces[:, 0].tolist() == [[1.0, 0.5, 0.0], [0.0] * 3, [0.0] * 3]


def test_a_constant_quantile_adds_nothing() -> None:
    tied = Number(name="x", mean=0.0, spread=1.0, edges=(0.0, 1.0))
    both = Columns(numbers=(HEAT, tied), categories=())
    scaled: Any = build_for(config(), outputs=1, columns=both).stem.scaled
    pieces = scaled(torch.tensor([[200.0, 0.5]]))[2]
    assert pieces[0, 1].tolist() == [0.5, 0.0, 0.0]


def test_weights_of_a_trunk_come_from_a_release(tmp_path: Path) -> None:
    trained = read(build_for(config(), outputs=1, seed=5))
    body = {name: value for name, value in trained.items() if name.startswith("backbone.")}
    save_tensors(tmp_path / "backbone.safetensors", body)
    found = load_source(config(weights="backbone.safetensors"), base=tmp_path)
    assert found.mean is None
    assert all((read(found.network)[name] == value).all() for name, value in body.items())
    narrow = {"width": 8, "blocks": 2, "heads": 4, "dropout": 0.0}
    with pytest.raises(BackboneError, match=r"must have shape \(8,\), it has \(16,\)"):
        load_source(config(weights="backbone.safetensors", table=narrow), base=tmp_path)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"backbone": "resnet18"}, "backbone for tables must be one of resnet_mlp, ft_transformer"),
        ({"weights": "DEFAULT"}, "must be none or a .safetensors file, got 'DEFAULT'"),
        ({"weights": "no.safetensors"}, "weights must be readable: .*no.safetensors"),
        (
            {"backbone": "ft_transformer", "table": {"width": 10, "heads": 4}},
            "width must be a multiple of table.heads, 4, got 10",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path: Path, values: dict[str, Any], told: str) -> None:
    with pytest.raises(BackboneError, match=told):
        load_source(config(**values), base=tmp_path)


SHARED = {"heat": [180.0, 200.0, 220.0], "wet": ["no", "yes"]}


@pytest.mark.parametrize("trunk", TRUNKS)
@pytest.mark.parametrize("columns", [COLUMNS, Columns(numbers=(), categories=())])
def test_shared_columns_enter_by_a_layer_that_travels(trunk: str, columns: Columns) -> None:
    table = {"width": 16, "blocks": 1, "heads": 4, "dropout": 0.0, "shared": SHARED}
    chosen = config(trunk, table=table)
    network = build_for(chosen, outputs=1, columns=columns).eval()
    fronts = {name for name in parts(network) if name.startswith("backbone.front.")}
    assert fronts
    assert fronts <= travelling(network, head=False, norm=True)
    assert not any("edges" in name or "spread" in name for name in fronts)  # they never change
    centre = start(chosen, base=Path()).release.schema.unflatten(
        start(chosen, base=Path()).release.vector
    )
    assert all((read(network)[name] == value).all() for name, value in centre.items())
    own = len(columns.numbers) + len(columns.categories)
    inputs = torch.tensor([[200.0, 1.0, *[0.0] * own], [230.0, torch.nan, *[0.0] * own]])
    outputs = network(inputs)
    assert outputs.isfinite().all()
    assert not torch.allclose(outputs[0], outputs[1])


@pytest.mark.parametrize("wrong", [[3.0, 1.0], ["a"], ["a", "a"], ["a", 1.0], [1.0]])
def test_shared_columns_are_ranges_or_names(wrong: Any) -> None:
    with pytest.raises(ValueError, match="must be a range"):
        config(table={"shared": {"heat": wrong}})


@pytest.mark.parametrize("trunk", TRUNKS)
def test_a_name_that_training_did_not_hold_adds_nothing(trunk: str) -> None:
    network = build_for(config(trunk), outputs=1, columns=COLUMNS)
    found = {n: t for n, t in network.state_dict().items() if "embeddings" in n}
    assert [tensor.shape[0] for tensor in found.values()] == [3]
    for tensor in found.values():
        assert not tensor[0].any()
        assert tensor[1:].all()
