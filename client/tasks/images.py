"""Image classification: a folder of images a class becomes training, validation and test data.

All images in use are decoded once, at the size that the network sees, and kept as one uint8
tensor: some thousand images of 96 pixels are some ten megabytes, and no epoch waits for a disk.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from client.tasks import cache as kept
from client.tasks.classes import Classes
from client.tasks.data import PlantData, Progress, Skipped, Unlabelled
from client.tasks.folder import (
    UNLABELLED,
    Found,
    check_good,
    find,
    image_files,
    other_files,
    read_groups,
    read_images,
    unlabelled,
)
from client.tasks.meaning import Meaning
from client.tasks.split import Key, Quota, Split, groups_of, keys, split
from client.tasks.transforms import Augment, Normalise
from common.config import FederationConfig, PlantConfig
from common.errors import ConfigError, DataError
from common.sharing import SELF_SUPERVISED

#: A test of fewer images a class says little, and is noted.
FEW_TEST_IMAGES = 10
#: Strength of the changes between two views of an image, of that in training.
VIEWS = 3.0


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
    unlabelled : whether to read images that nobody has labelled too.
    """

    classes: tuple[str, ...] = ()
    good: str = ""
    labels_per_class: int | None = None
    test_per_class: int | None = None
    image_size: int = 96
    seed: int = 0
    unlabelled: bool = False


def load_images(
    folder: Path,
    *,
    selection: Selection,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> PlantData:
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
    listed = classes
    if selection.unlabelled:
        found += unlabelled(folder)
        listed = (*classes, UNLABELLED)
    path = None
    if cache is not None:
        path = kept.place(cache, folder=folder, classes=listed, size=selection.image_size)
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
) -> PlantData | None:
    """Split the usable images and copy those in use; None if a kept one is damaged."""
    readable = [index for index, why in enumerate(pixels.why) if not why]
    usable = [index for index in readable if found[index].label >= 0]
    skipped = tuple(
        Skipped(file=item.file, why=why) for item, why in zip(found, pixels.why, strict=True) if why
    )
    labels = [found[index].label for index in usable]
    _check_usable(folder, classes, labels, skipped)
    files = [found[index].file for index in usable]
    contents = [pixels.digests[index] for index in usable]
    ranks = keys(read_groups(folder, files=files), contents, seed=selection.seed)
    parts = split(
        labels,
        ranks,
        classes=classes,
        quota=Quota(
            seed=selection.seed, labels=selection.labels_per_class, test=selection.test_per_class
        ),
        where=str(folder),
    )
    used = sorted({*parts.train.tolist(), *parts.validation.tolist(), *parts.test.tolist()})
    free = [index for index in readable if found[index].label < 0]
    if selection.unlabelled:
        free += [usable[index] for index in _beyond(parts, ranks)]
    images = pixels.rows(torch.tensor([usable[index] for index in used] + free))
    if images is None:
        return None
    position = torch.full((len(usable),), -1)
    position[torch.tensor(used)] = torch.arange(len(used))
    folds = tuple(
        (position[torch.from_numpy(train)], position[torch.from_numpy(held)])
        for train, held in parts.folds
    )
    groups = groups_of([ranks[index] for index in used])
    free_ones = torch.full((len(free),), -1)
    return PlantData(
        classes=classes,
        good=selection.good,
        inputs=images,
        targets=torch.tensor([labels[index] for index in used] + [-1] * len(free)),
        names=(*(files[index] for index in used), *(found[index].file for index in free)),
        unlabelled=torch.arange(len(used), len(used) + len(free)),
        train=folds[0][0],
        validation=folds[0][1],
        test=position[torch.from_numpy(parts.test)],
        folds=folds,
        groups=None if groups is None else torch.cat([torch.from_numpy(groups), free_ones]),
        skipped=skipped,
        notes=(
            *_notes(parts, classes=classes, wanted=selection.labels_per_class),
            *_conflicts(files, labels, contents),
            *other_files(folder, classes=classes),
        ),
    )


def _beyond(parts: Split, ranks: Sequence[Key]) -> list[int]:
    """Return images whose labels are beyond the quotas, and that share no group with held ones."""
    held = {ranks[index][0] for index in (*parts.validation, *parts.test)}
    used = {*parts.train.tolist(), *parts.validation.tolist(), *parts.test.tolist()}
    return [i for i, rank in enumerate(ranks) if i not in used and rank[0] not in held]


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
class ImageTask(Classes):
    """Images of classes, as the rest of a plant sees them (`client.tasks.Task`).

    Attributes
    ----------
    selection : which images to use.
    mean, std : input normalisation a channel.
    augment : strength of the augmentation; 0 turns it off.
    """

    layout: ClassVar[str] = "<plant>/<class>/ folders of images"

    selection: Selection
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    augment: float = 1.0

    @classmethod
    def of(cls, config: FederationConfig, settings: PlantConfig) -> ImageTask:
        if config.mean is None or config.std is None:
            raise ConfigError("mean and std must be set before training; take those of the weights")
        return cls(
            selection=Selection(
                classes=settings.classes,
                good=settings.good,
                labels_per_class=settings.labels_per_class,
                test_per_class=settings.test_per_class,
                image_size=config.image_size,
                seed=settings.seed,
                unlabelled=config.method in SELF_SUPERVISED,
            ),
            mean=config.mean,
            std=config.std,
            augment=config.training.augment,
            label_smoothing=config.training.label_smoothing,
            false_reject_budget=config.false_reject_budget,
        )

    @staticmethod
    def is_plant(folder: Path) -> bool:
        return folder.is_dir() and any(child.is_dir() for child in folder.iterdir())

    def load(
        self, folder: Path, *, cache: Path | None = None, progress: Progress | None = None
    ) -> PlantData:
        return load_images(folder, selection=self.selection, cache=cache, progress=progress)

    def read(self, place: Path, *, like: Meaning, progress: Progress | None = None) -> Unlabelled:
        folder, files = image_files(place)
        size = self.selection.image_size
        decoded = read_images(folder, files=files, size=size, progress=progress)
        usable = [index for index, why in enumerate(decoded.why) if not why]
        skipped = [
            Skipped(file=file, why=why) for file, why in zip(files, decoded.why, strict=True) if why
        ]
        if not usable:
            first = skipped[0]
            raise DataError(
                f"{place} must hold an image that can be read, got none; {first.file}: {first.why}"
            )
        return Unlabelled(
            inputs=torch.from_numpy(decoded.images[usable]),
            names=tuple(files[index] for index in usable),
            skipped=tuple(skipped),
        )

    def training_transform(self) -> Augment:
        return Augment(self.augment, self.mean, self.std)

    def views(self) -> Augment:
        """Return what makes a view of an image: changes strong enough that content must be seen."""
        return Augment(VIEWS * self.augment, self.mean, self.std)

    def evaluation_transform(self) -> Normalise:
        return Normalise(self.mean, self.std)

    def schema(self, data: PlantData) -> Mapping[str, Any]:
        """Say what kind of data this is, without what is in it: no names, no counts of images."""
        return {
            "task": "image-classification",
            "image_size": self.selection.image_size,
            "classes": len(data.classes),
        }
