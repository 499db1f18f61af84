from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from common.backbone import (
    build_for,
    has_norm,
    load_source,
    outline_for,
    parts,
    read_tensors,
    travelling,
)
from common.config import FederationConfig
from common.errors import BackboneError, ConfigError
from common.files import save_tensors

BACKBONES = ("text_cnn", "text_transformer")


def settings(backbone: str = "text_cnn", **text: Any) -> FederationConfig:
    return FederationConfig.model_validate(
        {
            "task": "text-classification",
            "backbone": backbone,
            "text": {"buckets": 256, "width": 16, "length": 8, **text},
        }
    )


def texts(count: int = 3) -> torch.Tensor:
    ids = torch.randint(1, 256, (count, 5, 4), generator=torch.Generator().manual_seed(0))
    ids[0, 2:] = 0
    ids[1, :, 2:] = 0
    return ids


@pytest.mark.parametrize("backbone", BACKBONES)
def test_what_is_empty_changes_nothing(backbone: str) -> None:
    network = build_for(settings(backbone), outputs=4).eval()
    ids = texts()
    wider = torch.nn.functional.pad(ids, (0, 3, 0, 3))
    with torch.no_grad():
        torch.testing.assert_close(network(ids), network(wider))
        alone = network(ids[:1, :2])
        torch.testing.assert_close(network(ids)[:1], alone)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_noise_on_the_empty_row_changes_nothing(backbone: str) -> None:
    network = build_for(settings(backbone), outputs=4).eval()
    with torch.no_grad():
        before = network(texts())
        network.get_parameter("backbone.words.table.weight")[0] += 5.0
        torch.testing.assert_close(network(texts()), before)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_parameter_learns_and_the_same_at_every_plant(backbone: str) -> None:
    network = build_for(settings(backbone), outputs=4, seed=3)
    network(texts()).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    other = build_for(settings(backbone), outputs=7, seed=3)
    mine, theirs = read_tensors(network), read_tensors(other)
    for name in travelling(network, head=False, norm=True):
        assert (mine[name] == theirs[name]).all()
    assert list(parts(outline_for(settings(backbone), outputs=4))) == list(mine)


def test_only_the_transformer_has_normalisation() -> None:
    assert [has_norm(build_for(settings(name), outputs=2)) for name in BACKBONES] == [False, True]


def test_order_matters_to_both() -> None:
    ids = texts()[:1, :2]
    for backbone in BACKBONES:
        network = build_for(settings(backbone), outputs=4).eval()
        with torch.no_grad():
            assert not torch.allclose(network(ids), network(ids.flip(1)), atol=1e-6)


def test_an_unknown_backbone_is_told() -> None:
    with pytest.raises(BackboneError, match="text_cnn, text_transformer, encoder, got 'text_cn'"):
        build_for(settings("text_cn"), outputs=2)


def test_a_release_starts_another_federation(tmp_path: Path) -> None:
    network = build_for(settings(), outputs=3, seed=5)
    save_tensors(tmp_path / "backbone.safetensors", read_tensors(network), {})
    config = settings().model_copy(update={"weights": "backbone.safetensors"})
    found = read_tensors(load_source(config, base=tmp_path).network)
    name = "backbone.words.table.weight"
    assert (found[name] == read_tensors(network)[name]).all()


def test_a_vocabulary_says_how_many_pieces_there_are(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[UNK]\noil\nleak\n")
    source = load_source(settings(vocabulary="vocab.txt"), base=tmp_path)
    assert source.network.get_parameter("backbone.words.table.weight").shape == (4, 16)
    assert len(source.config.text.digest) == 64
    assert source.config.text.vocabulary == str(tmp_path / "vocab.txt")
    (tmp_path / "vocab.txt").write_text("[UNK]\noil\n")
    with pytest.raises(ConfigError, match=r"text\.vocabulary must be the federation's"):
        load_source(source.config, base=tmp_path)
    with pytest.raises(ConfigError, match=r"readable, got .*none\.txt"):
        load_source(settings(vocabulary="none.txt"), base=tmp_path)
