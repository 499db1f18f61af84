"""Hugging Face encoders as backbones: trained whole, or by low-rank adapters on a frozen base.

Only safetensors are read, and no code that a model brings is run. A text's features are the mean
over its tokens. With ``tune = "lora"`` (https://arxiv.org/abs/2106.09685, by `peft`) the base is no
part of the network's state: it cannot be trained, sent or stored, and comes from the plant's own
copy, which must have the federation's digest (`common.agreed`). What travels is the adapters.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch
from peft import LoraConfig, inject_adapter_in_model
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel
from transformers.utils import logging

from common.agreed import SETTINGS, encoder_folder
from common.backbones.family import Body
from common.config.text import TextSection
from common.errors import BackboneError

# Progress over weights that are here in a second, and notes on layers that we leave out.
logging.disable_progress_bar()
logging.set_verbosity_error()

#: What transformers raises when a folder holds something else than a model that it knows.
_ERRORS = (OSError, ValueError, KeyError, RuntimeError, TypeError, SafetensorError)


def build(text: TextSection) -> Body:
    """Build an encoder: random weights where they travel, else adapters on its own weights.

    Raises
    ------
    ConfigError
        If the encoder is not here.
    BackboneError
        If it is no encoder of texts.
    """
    folder = encoder_folder(text.encoder)
    settings = _settings(folder)
    whole = text.tune == "whole"
    meta = torch.empty(0).device.type == "meta"
    model = _random(settings, folder) if whole or meta else _pretrained(folder)
    encoder = Encoder(model, pad=settings.pad_token_id)
    module: nn.Module = encoder if whole else Adapted(encoder, rank=text.rank)
    return Body(module=module, features=int(settings.hidden_size))


def fill(text: TextSection, body: nn.Module) -> None:
    """Give a whole encoder its own weights.

    Raises
    ------
    ConfigError, BackboneError
        As `build`.
    """
    model = _pretrained(encoder_folder(text.encoder))
    assert isinstance(body, Encoder), "adapters bring their base"
    body.model.load_state_dict(model.state_dict())


class Encoder(nn.Module):
    """Tokens to features, the mean over a text's tokens."""

    def __init__(self, model: Any, *, pad: int) -> None:
        super().__init__()
        # A pooler has weights of its own that nothing here trains.
        if getattr(model, "pooler", None) is not None:
            model.pooler = None
        self.model = model
        self.pad = pad

    def forward(self, ids: Tensor) -> Tensor:
        """Return features, shape (texts, features).

        Parameters
        ----------
        ids : token numbers plus one, shape (texts, tokens); 0 is none.
        """
        there = ids > 0
        tokens = torch.where(there, ids - 1, self.pad)
        states: Tensor = self.model(input_ids=tokens, attention_mask=there.long()).last_hidden_state
        seen = there[..., None].to(states.dtype)
        return (states * seen).sum(1) / seen.sum(1).clamp_min(1)


class Adapted(nn.Module):
    """A frozen encoder with adapters; only they are parameters and state of this module.

    Attributes
    ----------
    adapters : the pairs of small matrices, by the layer that they adapt.
    """

    def __init__(self, encoder: Encoder, *, rank: int) -> None:
        super().__init__()
        encoder.requires_grad_(False)
        settings = LoraConfig(
            r=rank, lora_alpha=2 * rank, lora_dropout=0.1, target_modules="all-linear", bias="none"
        )
        inject_adapter_in_model(settings, encoder.model)
        # In a list, the base is no submodule: state_dict and parameters know nothing of it.
        self._base = [encoder]
        self.adapters = nn.ModuleDict(
            {
                name.replace(".", "/"): module
                for name, module in encoder.named_modules()
                if name.endswith(("lora_A.default", "lora_B.default"))
            }
        )

    def forward(self, ids: Tensor) -> Tensor:
        features: Tensor = self._base[0](ids)
        return features

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001  torch's own
        self._base[0].train(mode)
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:  # noqa: FBT001
        self._base[0]._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


def _settings(folder: Path) -> Any:
    try:
        settings = AutoConfig.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    except _ERRORS as error:
        raise BackboneError(
            f"text.encoder must be a model that transformers knows, got {folder / SETTINGS}: "
            f"{_first_line(error)}; choose another model"
        ) from error
    if getattr(settings, "pad_token_id", None) is None or not hasattr(settings, "hidden_size"):
        raise BackboneError(
            f"text.encoder must be an encoder with a padding token, got {settings.model_type} in "
            f"{folder}; choose one like BERT, RoBERTa, MiniLM or DistilBERT"
        )
    return settings


def _random(settings: Any, folder: Path) -> nn.Module:
    try:
        model: nn.Module = AutoModel.from_config(settings, trust_remote_code=False)
    except _ERRORS as error:
        raise _no_encoder(folder, error) from error
    return model.float()


def _pretrained(folder: Path) -> nn.Module:
    try:
        model: nn.Module = AutoModel.from_pretrained(
            folder,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            dtype=torch.float32,
        )
    except _ERRORS as error:
        raise _no_encoder(folder, error) from error
    return model


def _no_encoder(folder: Path, error: Exception) -> BackboneError:
    return BackboneError(
        f"text.encoder must be a whole encoder in safetensors, got {folder}: {_first_line(error)}; "
        "download it again or choose another"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
