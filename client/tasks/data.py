"""A plant's data in use, whatever it is of: what a task makes of a folder.

One tensor of inputs, one of targets, and who is for what. All examples lie in memory, as they
were read: `Task.training_transform` and the network's stem make them fit for the backbone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from client.tasks.meaning import Meaning, fields_of

#: Called with (files or rows done, how many in all) while data is read.
Progress = Callable[[int, int], None]

#: An example of a rare class counts for at most so many of an average one.
MOST_WEIGHT = 10.0


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A file or a row that is not used, and why."""

    file: str
    why: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Unlabelled:
    """Examples that a model is to judge: read as the plant's own, but nobody knows the truth.

    Attributes
    ----------
    inputs, names, skipped : as in `PlantData`.
    notes : where they lie outside what the model knows, one line each.
    """

    inputs: Tensor
    names: tuple[str, ...]
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()

    def under(self, meaning: Meaning) -> PlantData:
        """Return them as the data of a model of this meaning, in none of its sets."""
        none = torch.empty(0, dtype=torch.int64)
        return PlantData(
            **fields_of(meaning),
            inputs=self.inputs,
            targets=none,
            names=self.names,
            train=none,
            validation=none,
            test=none,
            folds=(),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class PlantData(Meaning):
    """A plant's examples in use, with their split, and what a model of them means.

    Attributes
    ----------
    inputs : shape (N, ...), any dtype; one tensor, in which a task puts what it needs.
    targets : for classes int64, shape (N,), indices into ``classes``; for numbers float32, shape
        (N, outputs), in the units of the plant.
    names : what a reader would look up an example by: a file relative to the plant's folder, a
        row, the end of a window.
    train, validation, test : int64 indices into the examples.
    folds : pairs (training, validation) over all labelled examples, the first of which is (train,
        validation); one pair unless there are fewer than ten labels a class;
        always one of series.
    groups : examples of one group are not independent (windows of one engine), int64, shape (N,);
        None: all are. Intervals are drawn by group.
    fingerprint : of everything else that changes what a model learns from the same names and
        targets: settings of the task at this plant, content of the inputs.
    typical : median of each named input, for a look at units; it stays at the plant.
    rate : samples a second that series were recorded at, where none is agreed on; 0: unknown.
    unlabelled : indices of examples that nobody has labelled, whose targets are -1; none unless a
        method learns from them.
    skipped : files or rows that could not be used.
    notes : what a reader of the results should know, one line each.
    texts : what the examples say, where they are texts; never leaves the plant.
    extra : whatever else a task wants to find again in its own methods.
    """

    inputs: Tensor
    targets: Tensor
    names: tuple[str, ...]
    train: Tensor
    validation: Tensor
    test: Tensor
    folds: tuple[tuple[Tensor, Tensor], ...]
    groups: Tensor | None = None
    fingerprint: str = ""
    typical: Mapping[str, float] = field(default_factory=dict)
    rate: float = 0.0
    unlabelled: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    extra: Any = None

    @property
    def counts(self) -> dict[str, int]:
        """Number of examples in each set."""
        return {name: len(getattr(self, name)) for name in ("train", "validation", "test")}

    def class_weights(self, indices: Tensor) -> Tensor:
        """Weigh classes against imbalance.

        Inverse to their frequency among ``indices``, capped, and such that the examples' mean
        weight is 1, so that the loss keeps its scale.

        Returns
        -------
        float32, shape (classes,), on the device of the targets.
        """
        counts = torch.bincount(self.targets[indices], minlength=len(self.classes)).float()
        weights = counts.sum() / (len(self.classes) * counts.clamp_min(1.0))
        weights = weights.clamp_max(MOST_WEIGHT)
        return weights * (counts.sum() / (weights * counts).sum())

    def to(self, device: torch.device | str) -> PlantData:
        """Return the same data with all tensors on a device."""
        return replace(
            self,
            inputs=self.inputs.to(device),
            targets=self.targets.to(device),
            train=self.train.to(device),
            validation=self.validation.to(device),
            test=self.test.to(device),
            unlabelled=self.unlabelled.to(device),
            folds=tuple((train.to(device), held.to(device)) for train, held in self.folds),
            centre=None if self.centre is None else self.centre.to(device),
            spread=None if self.spread is None else self.spread.to(device),
        )
