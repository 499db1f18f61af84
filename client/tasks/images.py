"""Image classification: a folder of images a class becomes training, validation and test data.

All images in use are decoded once, at the size that the network sees, and kept as one uint8
tensor: some thousand images of 96 pixels are some ten megabytes, and no epoch waits for a disk.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from client.tasks import cache as kept
from client.tasks.folder import (
    Found,
    Progress,
    Skipped,
    check_good,
    find,
    read_groups,
    read_images,
)
from client.tasks.metrics import Prediction, scores
from client.tasks.split import Quota, Split, keys, split
from client.tasks.transforms import Augment, Normalise
from common.errors import DataError

#: A test of fewer images a class says little, and is noted.
FEW_TEST_IMAGES = 10
#: An image of a rare class counts for at most so many of an average one.
MOST_WEIGHT = 10.0


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which images of a folder to use, and how.

    Attributes
    ----------
    classes : class folders, in the order of the head's outputs; empty: all, sorted by name.
    good : the class of good parts, or "".
    labels_per_class : training and validation images a class together; None: all but the test.
    test_per_class : at most this many test images a class; None: no limit.
    image_size : side of the square images, pixels.
    seed : of the split.
    """

    classes: tuple[str, ...] = ()
    good: str = ""
    labels_per_class: int | None = None
    test_per_class: int | None = None
    image_size: int = 96
    seed: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageData:
    """A plant's images in use, with their split.

    Attributes
    ----------
    images : uint8, shape (N, 3, S, S), contiguous.
    labels : int64, shape (N,), indices into ``classes``.
    files : names relative to the plant's folder.
    train, validation, test : int64 indices into the images.
    folds : pairs (training, validation) over all labelled images, the first of which is (train,
        validation); one pair unless there are fewer than ten labels a class.
    skipped : files that could not be used.
    notes : what a reader of the results should know, one line each.
    """

    classes: tuple[str, ...]
    good: str
    images: Tensor
    labels: Tensor
    files: tuple[str, ...]
    train: Tensor
    validation: Tensor
    test: Tensor
    folds: tuple[tuple[Tensor, Tensor], ...]
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """Number of images in each set."""
        return {name: len(getattr(self, name)) for name in ("train", "validation", "test")}

    def class_weights(self, indices: Tensor) -> Tensor:
        """Weigh classes against imbalance.

        Inverse to their frequency among ``indices``, capped, and such that the images' mean
        weight is 1, so that the loss keeps its scale.

        Returns
        -------
        float32, shape (classes,), on the device of the labels.
        """
        counts = torch.bincount(self.labels[indices], minlength=len(self.classes)).float()
        weights = counts.sum() / (len(self.classes) * counts.clamp_min(1.0))
        weights = weights.clamp_max(MOST_WEIGHT)
        return weights * (counts.sum() / (weights * counts).sum())

    def to(self, device: torch.device | str) -> ImageData:
        """Return the same data with all tensors on a device."""
        return replace(
            self,
            images=self.images.to(device),
            labels=self.labels.to(device),
            train=self.train.to(device),
            validation=self.validation.to(device),
            test=self.test.to(device),
            folds=tuple((train.to(device), held.to(device)) for train, held in self.folds),
        )


def load_images(
    folder: Path,
    *,
    selection: Selection,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> ImageData:
    """Find, read, check and split a plant's images.

    Parameters
    ----------
    folder : ROOT/<plant>, with a folder a class.
    cache : folder in which decoded images are kept; None: nowhere.
    progress : called with (files done, files in all) while files are decoded; not called when
        they come from the cache.

    Raises
    ------
    DataError
        If the folder, a class or the manifest of groups is not fit for use.
    ConfigError
        If ``selection.good`` is not one of the classes.
    """
    classes, found = find(folder, classes=selection.classes)
    check_good(selection.good, classes=classes, folder=folder)
    path = None
    if cache is not None:
        path = kept.place(cache, folder=folder, classes=classes, size=selection.image_size)
    listing = kept.listing(found)
    pixels = kept.Pixels.load(path, listing=listing) if path else None
    data = _assemble(folder, classes, found, pixels, selection) if pixels else None
    if data is None:
        names = [item.file for item in found]
        decoded = read_images(folder, files=names, size=selection.image_size, progress=progress)
        pixels = kept.Pixels.of(decoded)
        # A file that could not be read now may be readable at the next start.
        if path and all(pixels.digests):
            pixels.save(path, listing=listing)
        data = _assemble(folder, classes, found, pixels, selection)
    assert data is not None, "images changed in memory"
    return data


def _assemble(
    folder: Path,
    classes: tuple[str, ...],
    found: Sequence[Found],
    pixels: kept.Pixels,
    selection: Selection,
) -> ImageData | None:
    """Split the usable images and copy those in use; None if a kept one is damaged."""
    usable = [index for index, why in enumerate(pixels.why) if not why]
    skipped = tuple(
        Skipped(file=item.file, why=why) for item, why in zip(found, pixels.why, strict=True) if why
    )
    labels = [found[index].label for index in usable]
    _check_usable(folder, classes, labels, skipped)
    files = [found[index].file for index in usable]
    contents = [pixels.digests[index] for index in usable]
    parts = split(
        labels,
        keys(read_groups(folder, files=files), contents, seed=selection.seed),
        classes=classes,
        quota=Quota(
            seed=selection.seed, labels=selection.labels_per_class, test=selection.test_per_class
        ),
        where=str(folder),
    )
    used = sorted({*parts.train.tolist(), *parts.validation.tolist(), *parts.test.tolist()})
    images = pixels.rows(torch.tensor([usable[index] for index in used]))
    if images is None:
        return None
    position = torch.full((len(usable),), -1)
    position[torch.tensor(used)] = torch.arange(len(used))
    folds = tuple(
        (position[torch.from_numpy(train)], position[torch.from_numpy(held)])
        for train, held in parts.folds
    )
    return ImageData(
        classes=classes,
        good=selection.good,
        images=images,
        labels=torch.tensor([labels[index] for index in used]),
        files=tuple(files[index] for index in used),
        train=folds[0][0],
        validation=folds[0][1],
        test=position[torch.from_numpy(parts.test)],
        folds=folds,
        skipped=skipped,
        notes=(
            *_notes(parts, classes=classes, wanted=selection.labels_per_class),
            *_conflicts(files, labels, contents),
        ),
    )


def _check_usable(
    folder: Path, classes: Sequence[str], labels: Sequence[int], skipped: Sequence[Skipped]
) -> None:
    for label, name in enumerate(classes):
        if label not in labels:
            first = next(item for item in skipped if item.file.startswith(f"{name}/"))
            raise DataError(
                f"class folder {folder / name} must hold usable images, got none ({first.file}: "
                f"{first.why}); replace the files or leave the class out with `classes`"
            )


def _notes(parts: Split, *, classes: Sequence[str], wanted: int | None) -> list[str]:
    notes = []
    for name, labelled, left in zip(classes, parts.labelled, parts.testable, strict=True):
        if wanted is not None and labelled < wanted:
            notes.append(
                f"class {name} has {labelled} of {wanted} labels: its images are in few groups"
            )
        if left < FEW_TEST_IMAGES:
            notes.append(f"class {name} leaves {left} test image{'s' if left > 1 else ''}")
    return notes


def _conflicts(files: Sequence[str], labels: Sequence[int], contents: Sequence[str]) -> list[str]:
    same: dict[str, list[int]] = defaultdict(list)
    for index, content in enumerate(contents):
        same[content].append(index)
    return [
        f"the same image is in different classes: {', '.join(files[index] for index in copies)}"
        for copies in same.values()
        if len({labels[index] for index in copies}) > 1
    ]


@dataclass(frozen=True, kw_only=True)
class ImageTask:
    """The image task as the rest of a plant sees it (`client.tasks.Task`).

    Attributes
    ----------
    selection : which images to use.
    mean, std : input normalisation a channel.
    augment : strength of the augmentation; 0 turns it off.
    false_reject_budget : share of good parts that may be rejected; for the escape rate.
    """

    selection: Selection
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    augment: float = 1.0
    false_reject_budget: float = 0.05

    def load(
        self, folder: Path, *, cache: Path | None = None, progress: Progress | None = None
    ) -> ImageData:
        return load_images(folder, selection=self.selection, cache=cache, progress=progress)

    def training_transform(self) -> Augment:
        return Augment(self.augment, self.mean, self.std)

    def evaluation_transform(self) -> Normalise:
        return Normalise(self.mean, self.std)

    def scores(self, prediction: Prediction, *, data: ImageData) -> dict[str, Any]:
        return scores(
            prediction.probabilities,
            prediction.truth,
            classes=data.classes,
            good=data.good,
            false_reject_budget=self.false_reject_budget,
        )

    def schema(self, data: ImageData) -> Mapping[str, Any]:
        """Say what kind of data this is, without what is in it: no names, no counts of images."""
        return {
            "task": "image-classification",
            "image_size": self.selection.image_size,
            "classes": len(data.classes),
        }
