"""The family of texts: two small networks trained from scratch, and any Hugging Face encoder.

The small ones read words as sets of pieces (`client.tasks.tokens`): a word's vector is the sum of
its pieces' vectors (https://arxiv.org/abs/1607.04606). ``text_cnn`` looks at one, two and three
words at a time (https://arxiv.org/abs/1408.5882), ``text_transformer`` at all of them
(https://arxiv.org/abs/1706.03762). On short texts and few labels the first one learns more.
``encoder`` is a pretrained model from a folder (`common.backbones.encoder`).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.agreed import settle
from common.backbones.family import Body, Channels, Plain
from common.config import FederationConfig

ENCODER = "encoder"

#: Words that the CNN's filters look at, and filters of each.
SPANS = (1, 2, 3)
FILTERS = 96
LAYERS = 2
HEADS = 4
DROPOUT = 0.3
#: Spread of the pieces' vectors at the start; a word is the sum of some ten of them.
SPREAD = 0.1


class Words(nn.Module):
    """Pieces to word vectors.

    A word's vector is the sum of its pieces' vectors over the root of their number, so that long
    words are as long as short ones.
    """

    def __init__(self, *, pieces: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(pieces, width, padding_idx=0)
        with torch.no_grad():
            nn.init.normal_(self.table.weight, std=SPREAD)
            self.table.weight[0] = 0

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return vectors, shape (texts, words, width), and which of them are words.

        Parameters
        ----------
        ids : shape (texts, words, pieces); 0 is no piece, and no word.
        """
        there = ids > 0
        count = there.sum(-1, keepdim=True)
        # The first row is no piece, and stays so whatever is added to it on its way.
        vectors = (self.table(ids) * there[..., None]).sum(-2) / count.clamp_min(1).sqrt()
        return vectors, count[..., 0] > 0


class TextCnn(nn.Module):
    """The largest answer of each filter anywhere in the text."""

    def __init__(self, *, pieces: int, width: int) -> None:
        super().__init__()
        self.words = Words(pieces=pieces, width=width)
        self.filters = nn.ModuleList(
            nn.Conv1d(width, FILTERS, span, padding=span // 2) for span in SPANS
        )
        self.dropout = nn.Dropout(DROPOUT)
        self.features = FILTERS * len(SPANS)

    def forward(self, ids: Tensor) -> Tensor:
        vectors, there = self.words(ids)
        vectors = self.dropout(vectors).transpose(1, 2)
        length = vectors.shape[-1]
        answers = [F.relu(one(vectors))[..., :length] for one in self.filters]
        seen = there[:, None].to(vectors.dtype)
        features: Tensor = self.dropout(torch.cat([(one * seen).amax(-1) for one in answers], 1))
        return features


class TextTransformer(nn.Module):
    """Words that look at each other; the mean and the largest of what they become."""

    def __init__(self, *, pieces: int, width: int, length: int) -> None:
        super().__init__()
        self.words = Words(pieces=pieces, width=width)
        self.places = nn.Parameter(torch.randn(length, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, HEADS, 2 * width, 0.1, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(DROPOUT)
        self.features = 2 * width

    def forward(self, ids: Tensor) -> Tensor:
        vectors, there = self.words(ids)
        inputs = self.dropout(vectors) + self.places[: vectors.shape[1]]
        found = self.norm(self.layers(inputs, src_key_padding_mask=~there))
        seen = there[..., None]
        mean = (found * seen).sum(1) / seen.sum(1).clamp_min(1)
        largest = found.masked_fill(~seen, torch.finfo(found.dtype).min).amax(1)
        features: Tensor = self.dropout(torch.cat([mean, largest], 1))
        return features


def _cnn(config: FederationConfig) -> Body:
    module = TextCnn(pieces=config.text.buckets, width=config.text.width)
    return Body(module=module, features=module.features)


def _transformer(config: FederationConfig) -> Body:
    text = config.text
    module = TextTransformer(pieces=text.buckets, width=text.width, length=text.length)
    return Body(module=module, features=module.features)


def _encoder(config: FederationConfig) -> Body:
    from common.backbones import encoder  # noqa: PLC0415  transformers and peft are an extra

    return encoder.build(config.text)


class TextFamily(Plain):
    """The small networks by their tables; an encoder brings its own weights."""

    def settle(self, config: FederationConfig, *, base: Path) -> FederationConfig:
        return settle(config, base=base)

    def fill(
        self, config: FederationConfig, body: nn.Module, *, base: Path
    ) -> tuple[Channels, Channels] | None:
        if config.backbone != ENCODER or config.weights != "DEFAULT":
            return super().fill(config, body, base=base)
        if config.text.tune == "whole":
            from common.backbones import encoder  # noqa: PLC0415  as above

            encoder.fill(config.text, body)
        return None


TEXT = TextFamily("texts", {"text_cnn": _cnn, "text_transformer": _transformer, ENCODER: _encoder})
