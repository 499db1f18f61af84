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
from statistics import fmean, pstdev
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
    """What lies in a plant's own columns: numbers first, then codes of categories.

    In a plant's inputs the shared columns (``table.shared``) come before them, in the order of
    federation.toml. NaN stands for what is missing, everywhere.
    """

    numbers: tuple[Number, ...]
    categories: tuple[Category, ...]


class Scaled(nn.Module):
    """Numbers as deviations from the mean, and their place among the quantiles."""

    mean: Tensor
    spread: Tensor
    edges: Tensor

    def __init__(self, numbers: tuple[Number, ...], *, kept: bool) -> None:
        super().__init__()
        # Of a plant's own columns they are kept with its personal part; of shared ones they follow
        # from the configuration, and must not travel where noise would be added to them.
        mean = torch.tensor([one.mean for one in numbers])
        spread = torch.tensor([one.spread for one in numbers])
        self.register_buffer("mean", mean, persistent=kept)
        self.register_buffer("spread", spread, persistent=kept)
        longest = max((len(one.edges) for one in numbers), default=2)
        rows = [one.edges + one.edges[-1:] * (longest - len(one.edges)) for one in numbers]
        edges = torch.tensor(rows).reshape(len(numbers), longest)
        self.register_buffer("edges", edges, persistent=kept)

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


def _embedding(category: Category, width: int) -> nn.Embedding:
    """Return vectors of the levels; that of what is missing is 0 until training holds some."""
    embedding = nn.Embedding(len(category.levels) + 1, width)
    nn.init.zeros_(embedding.weight[0])
    return embedding


class FlatStem(nn.Module):
    """All columns side by side, through one linear layer."""

    def __init__(self, columns: Columns, *, width: int, bins: int, kept: bool = True) -> None:
        super().__init__()
        self.scaled = Scaled(columns.numbers, kept=kept)
        self.pieces = bins > 0
        wide = [min(16, len(one.levels) // 2 + 2) for one in columns.categories]
        self.embeddings = nn.ModuleList(
            _embedding(one, size) for one, size in zip(columns.categories, wide, strict=True)
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

    def __init__(self, columns: Columns, *, width: int, kept: bool = True) -> None:
        super().__init__()
        self.scaled = Scaled(columns.numbers, kept=kept)
        count, bound = len(columns.numbers), width**-0.5
        self.directions = nn.Parameter(torch.empty(3, count, width).uniform_(-bound, bound))
        self.places = nn.Parameter(torch.empty(count, width).uniform_(-bound, bound))
        self.embeddings = nn.ModuleList(_embedding(one, width) for one in columns.categories)

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


class Beside(nn.Module):
    """A stem where columns are shared: these pass, the plant's own go through its stem."""

    def __init__(self, own: nn.Module | None, places: Tensor, *, shared: int) -> None:
        super().__init__()
        self.own = own
        self.register_buffer("places", places, persistent=False)
        self.shared = shared

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        shared = inputs[:, : self.shared][:, self.get_buffer("places")]
        return shared, None if self.own is None else self.own(inputs[:, self.shared :])


class Fronted(nn.Module):
    """A trunk with an input layer of its own for shared columns, beside what plants' stems give."""

    def __init__(self, front: nn.Module, trunk: nn.Module) -> None:
        super().__init__()
        self.front = front
        self.trunk = trunk

    def forward(self, columns: tuple[Tensor, Tensor | None]) -> Tensor:
        shared, own = columns
        state = self.front(shared)
        if own is not None:
            state = torch.cat([state, own], dim=1) if state.dim() == 3 else state + own
        features: Tensor = self.trunk(state)
        return features


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


def shared_columns(config: FederationConfig) -> Columns:
    """Return the shared columns as if a plant had equally many values in each piece."""
    numbers: list[Number] = []
    categories: list[Category] = []
    for name, told in config.table.shared.items():
        if isinstance(told[0], str):
            categories.append(Category(name=name, levels=tuple(str(one) for one in told)))
            continue
        edges = [float(one) for one in told]
        if len(edges) == 2:
            pieces, (low, high) = max(1, config.table.bins), edges
            edges = [low + (high - low) * piece / pieces for piece in range(pieces + 1)]
        mean, spread = fmean(edges), pstdev(edges)
        numbers.append(Number(name=name, mean=mean, spread=spread, edges=tuple(edges)))
    return Columns(numbers=tuple(numbers), categories=tuple(categories))


def _input_layer(config: FederationConfig, columns: Columns, *, kept: bool) -> nn.Module:
    if config.backbone == "ft_transformer":
        return TokenStem(columns, width=config.table.width, kept=kept)
    return FlatStem(columns, width=config.table.width, bins=config.table.bins, kept=kept)


def _with_front(config: FederationConfig, trunk: nn.Module) -> Body:
    if config.table.shared:
        trunk = Fronted(_input_layer(config, shared_columns(config), kept=False), trunk)
    return Body(module=trunk, features=config.table.width)


def _resnet_mlp(config: FederationConfig) -> Body:
    table = config.table
    module = ResNetMLP(width=table.width, blocks=table.blocks, dropout=table.dropout)
    return _with_front(config, module)


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
    return _with_front(config, module)


def _places(config: FederationConfig) -> Tensor:
    """Say where the shared columns lie in the inputs: numbers before categories."""
    known = list(config.table.shared)
    columns = shared_columns(config)
    names = [one.name for one in columns.numbers] + [one.name for one in columns.categories]
    return torch.tensor([known.index(name) for name in names])


class TableFamily(Plain):
    """Trunks for tables, with a stem from a plant's `Columns`."""

    def stem(self, config: FederationConfig, columns: Any) -> nn.Module:
        if columns is None:
            return nn.Identity()
        empty = not columns.numbers and not columns.categories
        own = None if empty else _input_layer(config, columns, kept=True)
        if not config.table.shared:
            assert own is not None, "a plant must have columns to learn from"
            return own
        return Beside(own, _places(config), shared=len(config.table.shared))


TABLE = TableFamily("tables", {"resnet_mlp": _resnet_mlp, "ft_transformer": _ft_transformer})
