"""Work orders: short texts of classes, read from csv files.

Texts with the same words are one group of the split: an order that is written the same way every
week must not be in training and test at once. A class with few different texts cannot be split
three ways; such classes become one, ``other``, so that every order still gets an answer.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from client.tasks.classes import Classes
from client.tasks.data import PlantData, Progress, Unlabelled
from client.tasks.meaning import Meaning
from client.tasks.split import Quota, Split, groups_of, keys, split
from client.tasks.texts import Row, read_rows, text_files
from client.tasks.tokens import Hashing, Tokeniser, Vocabulary, normalised
from common.agreed import ENCODER, at_plant, check, encoder_folder
from common.config import FederationConfig, PlantConfig
from common.config.text import TextSection
from common.errors import ConfigError, DataError

#: The class of all classes that are too rare for one of their own.
OTHER = "other"
#: Share of a text's words that training leaves out, at strength 1.
LEFT_OUT = 0.1
#: A test of fewer texts a class says little, and is noted.
FEW_TEST_TEXTS = 10


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Rows in use with their classes.

    Attributes
    ----------
    labels : index into ``classes`` of each row.
    """

    rows: tuple[Row, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TextTask(Classes):
    """Work orders, as the rest of a plant sees them (`client.tasks.Task`).

    Attributes
    ----------
    config : of the federation, with the plant's own columns and files.
    settings : of the plant.
    """

    config: FederationConfig
    settings: PlantConfig

    layout: ClassVar[str] = "<plant>/ folders with .csv files"

    @classmethod
    def of(cls, config: FederationConfig, settings: PlantConfig) -> TextTask:
        return cls(
            config=at_plant(config, settings),
            settings=settings,
            label_smoothing=config.training.label_smoothing,
            false_reject_budget=config.false_reject_budget,
        )

    @staticmethod
    def is_plant(folder: Path) -> bool:
        return folder.is_dir() and bool(text_files(folder))

    @property
    def text(self) -> TextSection:
        return self.config.text

    def load(
        self, folder: Path, *, cache: Path | None = None, progress: Progress | None = None
    ) -> PlantData:
        """Read, check and split a plant's texts; ``cache`` is not needed.

        Raises
        ------
        DataError
            If the folder, a file or a class is not fit for use.
        ConfigError
            If the vocabulary or the encoder is not the federation's.
        """
        tokenise = self.tokeniser()
        rows, skipped = read_rows(folder, text=self.text.text, label=self.text.label)
        found = choose(rows, least=self.text.least, classes=self.settings.classes, where=folder)
        if self.settings.good and self.settings.good not in found.classes:
            raise ConfigError(
                f"good must be one of the classes of {folder}, {list(found.classes)}, got "
                f"{self.settings.good!r}"
            )
        texts = [row.text for row in found.rows]
        words = [normalised(text) for text in texts]
        settings = self.settings
        ranks = keys([None] * len(words), words, seed=settings.seed)
        groups = groups_of(ranks)
        parts = split(
            found.labels,
            ranks,
            classes=found.classes,
            quota=Quota(
                seed=settings.seed,
                labels=settings.labels_per_class,
                test=settings.test_per_class,
            ),
            where=str(folder),
        )
        if progress is not None:
            progress(len(rows), len(rows))
        train, validation = parts.folds[0]
        return PlantData(
            inputs=torch.from_numpy(tokenise(texts)).int(),
            targets=torch.tensor(found.labels),
            names=tuple(row.name for row in found.rows),
            train=torch.from_numpy(train),
            validation=torch.from_numpy(validation),
            test=torch.from_numpy(parts.test),
            folds=tuple((torch.from_numpy(a), torch.from_numpy(b)) for a, b in parts.folds),
            groups=None if groups is None else torch.from_numpy(groups),
            classes=found.classes,
            good=settings.good,
            fingerprint=hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16],
            skipped=tuple(skipped),
            notes=(*found.notes, *_notes(parts, found.classes), *_conflicts(found, words)),
            texts=tuple(texts),
        )

    def read(self, place: Path, *, like: Meaning, progress: Progress | None = None) -> Unlabelled:
        rows, skipped = read_rows(place, text=self.text.text, label="")
        texts = [row.text for row in rows]
        return Unlabelled(
            inputs=torch.from_numpy(self.tokeniser()(texts)).int(),
            names=tuple(row.name for row in rows),
            skipped=tuple(skipped),
        )

    def tokeniser(self) -> Tokeniser:
        """Return what all plants have agreed on.

        Raises
        ------
        ConfigError
            If a file that it needs is missing, or is not the federation's.
        """
        check(self.config)
        text = self.text
        if self.config.backbone == ENCODER:
            from client.tasks.subwords import Subwords  # noqa: PLC0415  the extra text

            return Subwords.read(encoder_folder(text.encoder), length=text.length)
        if text.vocabulary:
            return Vocabulary.read(Path(text.vocabulary), length=text.length)
        return Hashing(buckets=text.buckets, length=text.length)

    def training_transform(self) -> Callable[[Tensor, torch.Generator], Tensor]:
        if self.config.backbone == ENCODER:
            return lambda batch, generator: trimmed(batch)
        share = min(0.5, LEFT_OUT * self.config.training.augment)
        return lambda batch, generator: trimmed(without_words(batch, share, generator))

    def evaluation_transform(self) -> Callable[[Tensor], Tensor]:
        return trimmed

    def schema(self, data: PlantData) -> Mapping[str, Any]:
        """Say what kind of data this is, without what is in it."""
        return {"task": "text-classification", "classes": len(data.classes)}


def choose(
    rows: Sequence[Row], *, least: int, classes: Sequence[str] = (), where: Path
) -> Labelled:
    """Decide which rows to use, as which class.

    Parameters
    ----------
    least : different texts that a class must have for one of its own.
    classes : the only classes to use, in this order; empty: all, with rare ones as ``other``.

    Raises
    ------
    DataError
        If a class that was asked for is not there, or fewer than two are left.
    """
    texts: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        texts[row.label].add(normalised(row.text))
    if missing := [name for name in classes if name not in texts and name != OTHER]:
        raise DataError(
            f"{where} must hold rows of the classes asked for, {missing} missing; found "
            f"{sorted(texts)}"
        )
    if classes:
        named = {label: label if label in classes else OTHER for label in texts}
    else:
        named = {label: label if len(known) >= least else OTHER for label, known in texts.items()}
    together = set().union(*(texts[label] for label, name in named.items() if name == OTHER))
    keep_other = OTHER in classes if classes else len(together) >= least
    names = tuple(classes) or tuple(sorted({n for n in named.values() if n != OTHER or keep_other}))
    used = [row for row in rows if named[row.label] in names]
    if len(names) < 2:
        raise DataError(
            f"{where} must hold at least two classes of {least} different texts, got "
            f"{list(names)} of {len(texts)} labels; add texts, or lower text.least"
        )
    return Labelled(
        rows=tuple(used),
        labels=tuple(names.index(named[row.label]) for row in used),
        classes=names,
        notes=tuple(_rare_notes(rows, named=named, kept=keep_other)),
    )


def _rare_notes(rows: Sequence[Row], *, named: Mapping[str, str], kept: bool) -> list[str]:
    rare = sorted(label for label, name in named.items() if name == OTHER and label != OTHER)
    if not rare:
        return []
    count = sum(named[row.label] == OTHER for row in rows)
    shown = ", ".join(rare[:5]) + (f" and {len(rare) - 5} more" if len(rare) > 5 else "")
    if kept:
        return [f"{count} texts of {len(rare)} rare labels are the class {OTHER}: {shown}"]
    return [f"{count} texts of {len(rare)} labels are left out, too few to learn: {shown}"]


def trimmed(batch: Tensor) -> Tensor:
    """Cut off what is empty in all texts of a batch, and make the numbers int64.

    Parameters
    ----------
    batch : shape (texts, words, pieces) or (texts, tokens); 0 is none.
    """
    there = batch > 0
    for axis in range(1, batch.dim()):
        others = tuple(other for other in range(batch.dim()) if other != axis)
        used = there.any(dim=others).nonzero()
        batch = batch.narrow(axis, 0, int(used[-1]) + 1 if len(used) else 1)
        there = there.narrow(axis, 0, batch.shape[axis])
    return batch.long()


def without_words(batch: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Leave out some words of each text, never the first.

    Parameters
    ----------
    batch : shape (texts, words, pieces).
    share : of the words that go.
    generator : on the CPU.
    """
    stays = torch.rand(batch.shape[:2], generator=generator) >= share
    stays[:, 0] = True
    return batch * stays[..., None].to(batch.device)


def _notes(parts: Split, classes: Sequence[str]) -> list[str]:
    return [
        f"class {name} leaves {left} test text{'s' if left > 1 else ''}"
        for name, left in zip(classes, parts.testable, strict=True)
        if left < FEW_TEST_TEXTS
    ]


def _conflicts(found: Labelled, words: Sequence[str]) -> list[str]:
    """Count texts with several labels; no model can be right about all of them."""
    labels: dict[str, set[int]] = defaultdict(set)
    for label, text in zip(found.labels, words, strict=True):
        labels[text].add(label)
    count = sum(len(labels[text]) > 1 for text in words)
    return [f"{count} texts have the words of one with another label"] if count else []
