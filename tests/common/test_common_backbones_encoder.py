from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers", reason="the extra text is not installed")
pytest.importorskip("peft", reason="the extra text is not installed")

from transformers import BertModel

from client.tasks.subwords import Subwords
from common.agreed import encoder_folder
from common.backbone import (
    Part,
    build_for,
    load_source,
    outline_for,
    parts,
    read_tensors,
    travelling,
)
from common.config import FederationConfig
from common.errors import BackboneError, ConfigError
from tests.tiny_encoder import make_encoder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("encoder"))


def settings(encoder: Path, **text: Any) -> FederationConfig:
    return FederationConfig.model_validate(
        {
            "task": "text-classification",
            "backbone": "encoder",
            "text": {"encoder": str(encoder), "rank": 2, **text},
        }
    )


def ids(encoder: Path) -> torch.Tensor:
    texts = ["pump leaks", "cab door", "oil leaks pump oil"]
    return torch.from_numpy(Subwords.read(encoder, length=8)(texts))


def test_a_whole_encoder_has_its_own_weights(encoder: Path) -> None:
    source = load_source(settings(encoder), base=Path())
    theirs = BertModel.from_pretrained(encoder)
    mine = source.network.backbone.get_submodule("model").state_dict()
    for name, value in mine.items():
        torch.testing.assert_close(value, theirs.state_dict()[name])
    assert not any("pooler" in name for name in mine)
    assert Part.NORM in parts(source.network).values()


def test_features_are_the_mean_over_the_tokens(encoder: Path) -> None:
    network = load_source(settings(encoder), base=Path()).network.eval()
    theirs = BertModel.from_pretrained(encoder).eval()
    with torch.no_grad():
        expected = theirs(input_ids=torch.tensor([[2, 4, 5, 3]])).last_hidden_state.mean(1)
        torch.testing.assert_close(network.embed(ids(encoder))[:1], expected)


def test_of_an_adapted_encoder_only_adapters_exist(encoder: Path) -> None:
    source = load_source(settings(encoder, tune="lora"), base=Path())
    names = list(source.network.state_dict())
    assert all("lora" in name or name.startswith("head.") for name in names)
    assert list(parts(outline_for(source.config, outputs=2))) == list(parts(source.network))
    whole = load_source(settings(encoder), base=Path())
    size = {tune: sum(v.size for n, v in read_tensors(one.network).items() if "head" not in n)
            for tune, one in (("lora", source), ("whole", whole))}  # fmt: skip
    assert size["lora"] < size["whole"] / 3
    assert travelling(source.network, head=False, norm=True) == {
        name for name in names if "lora" in name
    }


def test_new_adapters_change_nothing_and_trained_ones_do(encoder: Path) -> None:
    whole = load_source(settings(encoder), base=Path()).network.eval()
    network = load_source(settings(encoder, tune="lora"), base=Path()).network
    before = {name: value.clone() for name, value in _base(network).state_dict().items()}
    batch = ids(encoder)
    with torch.no_grad():
        torch.testing.assert_close(network.eval().embed(batch), whole.embed(batch))
    moving = [p for p in network.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(moving, lr=0.1)
    network.train()
    for _ in range(3):
        optimiser.zero_grad()
        network(batch).square().sum().backward()
        optimiser.step()
    with torch.no_grad():
        assert not torch.allclose(network.eval().embed(batch), whole.embed(batch), atol=1e-3)
    for name, value in _base(network).state_dict().items():
        assert "lora" in name or (value == before[name]).all()


def _base(network: torch.nn.Module) -> torch.nn.Module:
    hidden: list[torch.nn.Module] = network.get_submodule("backbone")._base  # type: ignore[assignment]
    return hidden[0]


def test_the_hidden_base_follows_mode_and_type(encoder: Path) -> None:
    network = load_source(settings(encoder, tune="lora"), base=Path()).network
    base = _base(network)
    network.train()
    assert all(module.training for module in base.modules())
    network.eval()
    assert not any(module.training for module in base.modules())
    network.double()
    assert {parameter.dtype for parameter in base.parameters()} == {torch.float64}
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float64}


def test_a_base_that_is_not_the_federations_is_told(encoder: Path, tmp_path: Path) -> None:
    mine = make_encoder(tmp_path / "mine", seed=1)
    lora = load_source(settings(encoder, tune="lora"), base=Path()).config
    other = lora.text.model_copy(update={"encoder": str(mine)})
    with pytest.raises(ConfigError, match=r"text\.encoder must be the federation's.*mine") as said:
        load_source(lora.model_copy(update={"text": other}), base=Path())
    assert "\n" not in str(said.value)
    # A whole encoder's weights come with the release: only its tokeniser and settings count.
    whole = load_source(settings(encoder), base=Path()).config
    other = whole.text.model_copy(update={"encoder": str(mine)})
    load_source(whole.model_copy(update={"text": other}), base=Path())


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model.safetensors"])
def test_an_encoder_without_a_file_is_told(encoder: Path, tmp_path: Path, missing: str) -> None:
    folder = Path(shutil.copytree(encoder, tmp_path / "part"))
    (folder / missing).unlink()
    (folder / "pytorch_model.bin").write_bytes(b"pickled weights are not read")
    suffix = missing.removeprefix("model")
    with pytest.raises(ConfigError, match=rf"without \*?{suffix}"):
        load_source(settings(folder), base=Path())


def test_code_that_a_model_brings_is_not_run(encoder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(encoder, tmp_path / "hostile"))
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.C", "AutoModel": "mine.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(BackboneError, match="a model that transformers knows"):
        load_source(settings(folder), base=Path())
    assert not (tmp_path / "ran").exists()


def test_damaged_weights_are_told(encoder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(encoder, tmp_path / "cut"))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(BackboneError, match="a whole encoder in safetensors") as said:
        load_source(settings(folder), base=Path())
    assert "\n" not in str(said.value)


def test_a_model_that_is_not_here_is_not_fetched_by_an_order() -> None:
    with pytest.raises(ConfigError, match=r"here or can be fetched, got 'nobody/nothing-of-it'"):
        encoder_folder("nobody/nothing-of-it")
    with pytest.raises(ConfigError, match="must name a folder or a Hugging Face model"):
        build_for(settings(Path()).model_copy(update={
            "text": settings(Path()).text.model_copy(update={"encoder": ""})
        }), outputs=2)  # fmt: skip


def test_tokens_are_those_of_the_encoder_plus_one(encoder: Path) -> None:
    assert ids(encoder)[0].tolist() == [3, 5, 6, 4, 0, 0, 0, 0]
    long = Subwords.read(encoder, length=4)(["pump leaks oil cab door"])
    assert long.shape == (1, 4)
