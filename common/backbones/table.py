"""The family of tables: a personal stem for a plant's own columns, a trunk that all share.

Plants measure different things, so what turns columns into features is the plant's own: each stem
holds the scale and the quantiles of its columns, embeds its categories, and gives what the trunk
takes. Two trunks, both after Gorishniy et al. 2021, "Revisiting Deep Learning Models for Tabular
Data", https://arxiv.org/abs/2106.11959: ``resnet_mlp``, residual blocks of linear layers, and
``ft_transformer``, attention over one token a column. Numbers enter the first one cut into pieces
by quantiles, after Gorishniy et al. 2022, "On Embeddings for Numerical Features in Tabular Deep
Learning", https://arxiv.org/abs/2203.05556. Layer norm takes the place of batch norm: it has no
statistics that a plant would leave in the trunk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.backbones.family import Body, Plain
from common.config import FederationConfig
from common.errors import BackboneError

#: A value further from the mean than so many deviations counts as that far.
FAR = 6.0


@dataclass(frozen=True, kw_only=True)
class Number:
    """A column of numbers, as the plant's training rows have it.

    Attributes
    ----------
    mean, spread : of the values that are there; spread is above 0.
    edges : quantiles from the least to the largest value, at least two, ascending.
    """

    name: str
    mean: float
    spread: float
    edges: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Category:
    """A column of names; what is none of the levels counts as missing."""

    name: str
    levels: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What lies in the columns of a plant's inputs: numbers first, then codes of categories.

    NaN stands for what is missing, in both.
    """

    numbers: tuple[Number, ...]
    categories: tuple[Category, ...]


class Scaled(nn.Module):
    """Numbers as deviations from the mean, and their place among the quantiles."""

    mean: Tensor
    spread: Tensor
    edges: Tensor

    def __init__(self, numbers: tuple[Number, ...]) -> None:
        super().__init__()
        # Float buffers: they are stored with the personal part, and never travel.
        self.register_buffer("mean", torch.tensor([one.mean for one in numbers]))
        self.register_buffer("spread", torch.tensor([one.spread for one in numbers]))
        longest = max((len(one.edges) for one in numbers), default=2)
        rows = [one.edges + one.edges[-1:] * (longest - len(one.edges)) for one in numbers]
        self.register_buffer("edges", torch.tensor(rows).reshape(len(numbers), longest))

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return deviations and whether missing, (batch, n), and pieces, (batch, n, bins).

        A piece is 1 where the value lies beyond it, 0 where it lies before it, and the share of
        the piece between. A missing value has zeros everywhere.
        """
        missing = values.isnan()
        filled = torch.where(missing, self.mean, values)
        deviations = ((filled - self.mean) / self.spread).clamp(-FAR, FAR)
        low, high = self.edges[:, :-1], self.edges[:, 1:]
        share = (filled[..., None] - low) / (high - low).clamp_min(1e-30)
        pieces = share.clamp(0.0, 1.0) * (high > low) * ~missing[..., None]
        return deviations, missing.float(), pieces


def _codes(inputs: Tensor, first: int) -> Tensor:
    """Return categories as indices, int64; 0 is what is missing."""
    return torch.nan_to_num(inputs[:, first:] + 1.0, nan=0.0).long()


class FlatStem(nn.Module):
    """All columns side by side, through one linear layer."""

    def __init__(self, columns: Columns, *, width: int, bins: int) -> None:
        super().__init__()
        self.scaled = Scaled(columns.numbers)
        self.pieces = bins > 0
        wide = [min(16, len(one.levels) // 2 + 2) for one in columns.categories]
        self.embeddings = nn.ModuleList(
            nn.Embedding(len(one.levels) + 1, size)
            for one, size in zip(columns.categories, wide, strict=True)
        )
        each = 2 + (self.scaled.edges.shape[1] - 1 if self.pieces else 0)
        self.linear = nn.Linear(each * len(columns.numbers) + sum(wide), width)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return float32 (batch, width) of raw columns (batch, columns)."""
        count = len(self.scaled.mean)
        deviations, missing, pieces = self.scaled(inputs[:, :count])
        parts = [deviations, missing, *([pieces.flatten(1)] if self.pieces else [])]
        codes = _codes(inputs, count)
        parts += [embed(codes[:, place]) for place, embed in enumerate(self.embeddings)]
        mixed: Tensor = self.linear(torch.cat(parts, dim=1))
        return mixed


class TokenStem(nn.Module):
    """One token a column: its value times a direction of its own, plus a place of its own."""

    def __init__(self, columns: Columns, *, width: int) -> None:
        super().__init__()
        self.scaled = Scaled(columns.numbers)
        count, bound = len(columns.numbers), width**-0.5
        self.directions = nn.Parameter(torch.empty(3, count, width).uniform_(-bound, bound))
        self.places = nn.Parameter(torch.empty(count, width).uniform_(-bound, bound))
        self.embeddings = nn.ModuleList(
            nn.Embedding(len(one.levels) + 1, width) for one in columns.categories
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Return float32 (batch, columns, width) of raw columns (batch, columns)."""
        count = len(self.scaled.mean)
        deviations, missing, pieces = self.scaled(inputs[:, :count])
        rank = (pieces.mean(2) - 0.5) * (1 - missing) * 12**0.5
        told = torch.stack([deviations, rank, missing])
        tokens = [torch.einsum("kbn,knw->bnw", told, self.directions) + self.places]
        codes = _codes(inputs, count)
        tokens += [embed(codes[:, place])[:, None] for place, embed in enumerate(self.embeddings)]
        return torch.cat(tokens, dim=1)


class Block(nn.Module):
    """A residual block of two linear layers."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first = nn.Linear(width, 2 * width)
        self.second = nn.Linear(2 * width, width)
        self.dropout = dropout

    def forward(self, features: Tensor) -> Tensor:
        inner = F.dropout(F.relu(self.first(self.norm(features))), self.dropout, self.training)
        return features + F.dropout(self.second(inner), self.dropout, self.training)


class ResNetMLP(nn.Module):
    """Residual blocks, then a norm; (batch, width) in and out."""

    def __init__(self, *, width: int, blocks: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block(width, dropout) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width)

    def forward(self, features: Tensor) -> Tensor:
        return F.relu(self.norm(self.blocks(features)))


class FTTransformer(nn.Module):
    """Attention over the columns' tokens and one of its own, whose state is the answer."""

    def __init__(self, *, width: int, blocks: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.empty(width).uniform_(-(width**-0.5), width**-0.5))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width,
                heads,
                dim_feedforward=2 * width,
                dropout=dropout,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(blocks)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return float32 (batch, width) of tokens (batch, columns, width), in any order."""
        state = torch.cat([self.token.expand(len(tokens), 1, -1), tokens], dim=1)
        for block in self.blocks:
            state = block(state)
        return F.relu(self.norm(state[:, 0]))


def _resnet_mlp(config: FederationConfig) -> Body:
    table = config.table
    module = ResNetMLP(width=table.width, blocks=table.blocks, dropout=table.dropout)
    return Body(module=module, features=table.width)


def _ft_transformer(config: FederationConfig) -> Body:
    table = config.table
    if table.width % table.heads:
        raise BackboneError(
            f"table.width must be a multiple of table.heads, {table.heads}, got {table.width}; "
            "change one of them"
        )
    module = FTTransformer(
        width=table.width, blocks=table.blocks, heads=table.heads, dropout=table.dropout
    )
    return Body(module=module, features=table.width)


class TableFamily(Plain):
    """Trunks for tables, with a stem from a plant's `Columns`."""

    def stem(self, config: FederationConfig, columns: Any) -> nn.Module:
        if columns is None:
            return nn.Identity()
        if config.backbone == "ft_transformer":
            return TokenStem(columns, width=config.table.width)
        return FlatStem(columns, width=config.table.width, bins=config.table.bins)


TABLE = TableFamily("tables", {"resnet_mlp": _resnet_mlp, "ft_transformer": _ft_transformer})
