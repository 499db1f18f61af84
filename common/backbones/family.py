"""The seam of the backbones: what a family must bring, and what most families are made of."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from common.config import FederationConfig
from common.errors import BackboneError, StateError
from common.files import load_tensors

Channels = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Body:
    """A backbone without its head.

    Attributes
    ----------
    module : takes what the task's transform gives (after the stem, where there is one).
    features : width of what it gives, shape (batch, features) or (batch, ..., features).
    """

    module: nn.Module
    features: int


@runtime_checkable
class FittedHead(Protocol):
    """A head that fits itself to features, instead of being trained by gradients."""

    def fit(self, features: Tensor, targets: Tensor, *, seed: int) -> None:
        """Fit in place; features are as the backbone gives them, on its device."""
        ...


class Own(nn.Module):
    """Tensors of a head that a plant makes of its own data; they never travel.

    Whatever the method lets travel: a memory of good parts would give them away.
    """


class Family(Protocol):
    """Backbones of one kind of input.

    A body depends on the federation's settings and the seed alone, never on a plant's data, so
    that every plant has the same tensors. The caller has seeded torch before ``stem`` and ``head``.
    """

    def construct(self, config: FederationConfig, *, seed: int) -> Body:
        """Build a backbone with random weights, and leave torch's random state as it was.

        Raises
        ------
        BackboneError
            If the name is unknown, or settings do not fit it.
        """
        ...

    def settle(self, config: FederationConfig, *, base: Path) -> FederationConfig:
        """Return settings that say all that every plant must have the same, before the first round.

        Paths become whole, and files are named by their digests.

        Parameters
        ----------
        base : folder that relative paths start from.

        Raises
        ------
        ConfigError
            If a file that the settings name cannot be had.
        """
        ...

    def outline(self, config: FederationConfig) -> Body:
        """Return what `construct` does on the meta device, for names and shapes only."""
        ...

    def stem(self, config: FederationConfig, columns: Any) -> nn.Module:
        """Return a plant's personal stem, from `client.tasks.meaning.Meaning.columns`.

        ``columns`` is None at the centre, and where a family has no stems: then it is identity.
        """
        ...

    def head(self, config: FederationConfig, *, features: int, outputs: int) -> nn.Module:
        """Return a head, which must not depend on anything but its widths and settings."""
        ...

    def fill(
        self, config: FederationConfig, body: nn.Module, *, base: Path
    ) -> tuple[Channels, Channels] | None:
        """Copy the weights that the configuration names into a body.

        Parameters
        ----------
        base : folder that a relative path of weights starts from.

        Returns
        -------
        Mean and deviation of a channel, of images; None for all else.

        Raises
        ------
        BackboneError
            If they cannot be had, or do not fit.
        """
        ...


#: Builds a backbone from the federation's settings.
Builder = Callable[[FederationConfig], Body]


class Plain:
    """A family of modules of our own: a table of builders, a linear head, no stem.

    Weights are ``none``, or a safetensors file by this program (a release's
    ``backbone.safetensors``, say).

    Parameters
    ----------
    kind : word for messages, as in "a backbone for series".
    """

    def __init__(self, kind: str, builders: Mapping[str, Builder]) -> None:
        self.kind = kind
        self.builders = builders

    def settle(self, config: FederationConfig, *, base: Path) -> FederationConfig:
        return config

    def construct(self, config: FederationConfig, *, seed: int) -> Body:
        builder = self._builder(config.backbone)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return builder(config)

    def outline(self, config: FederationConfig) -> Body:
        builder = self._builder(config.backbone)
        with torch.device("meta"):
            return builder(config)

    def stem(self, config: FederationConfig, columns: Any) -> nn.Module:
        return nn.Identity()

    def head(self, config: FederationConfig, *, features: int, outputs: int) -> nn.Module:
        return nn.Linear(features, outputs)

    def fill(
        self, config: FederationConfig, body: nn.Module, *, base: Path
    ) -> tuple[Channels, Channels] | None:
        if config.weights == "none":
            return None
        if not config.weights.endswith(".safetensors"):
            raise BackboneError(
                f"weights of a backbone for {self.kind} must be none or a .safetensors file, got "
                f"{config.weights!r}; set weights to none"
            )
        path = base / Path(config.weights).expanduser()
        try:
            given = load_tensors(path)[0]
        except StateError as error:
            raise BackboneError(f"weights must be readable: {error}") from error
        given = {name.removeprefix("backbone."): value for name, value in given.items()}
        own = {n: t for n, t in body.state_dict().items() if t.is_floating_point()}
        for name, tensor in own.items():
            if name not in given or given[name].shape != tuple(tensor.shape):
                got = given[name].shape if name in given else "none"
                raise BackboneError(
                    f"weights must be those of {config.backbone}, got {config.weights}: {name} "
                    f"must have shape {tuple(tensor.shape)}, it has {got}; use the settings that "
                    "they were trained with"
                )
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(torch.from_numpy(given[name].copy()))
        return None

    def _builder(self, name: str) -> Builder:
        if name not in self.builders:
            close = difflib.get_close_matches(name.lower(), self.builders, n=3)
            raise BackboneError(
                f"backbone for {self.kind} must be one of {', '.join(self.builders)}, got "
                f"{name!r}; try {' or '.join(close or list(self.builders))}"
            )
        return self.builders[name]
