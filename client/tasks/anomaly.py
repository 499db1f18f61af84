"""Only good parts: a plant that has many good parts and hardly a defective one.

The shared backbone learns from good parts alone, by telling them from ones with a piece of them
moved (`client.anomaly.cutpaste`); so every method in rounds works as it does for classes. What
inspects parts is the plant's own memory of good patches on that backbone
(`common.backbones.memory`), with a threshold that is calibrated on good parts
(`client.anomaly.threshold`). Defective parts, where a plant has some, are for the test.

**What the no-harm rule compares by.** Without a defective part there is no AUROC. So defects are
made up on good parts that nothing learned from (`client.anomaly.synthetic`), and two models are
compared by their AUROC on these, with the standard error of DeLong, DeLong and Clarke-Pearson 1988
(https://doi.org/10.2307/2531595). A made-up defect and the good part that it is on are taken as
independent; they are not, and the true error is the smaller one where a strange part is strange in
both forms.

Made-up defects choose between states of one training, and no more: on real plants their word on a
release had nothing to do with what real defects said (docs/results/anomaly.md). So a plant adopts a
release only where its own defective parts judge, ``anomaly.validation_defects`` of them; without,
it keeps what it has, and its engineer may still put a release in place (``transferline-plant
personal``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from client.anomaly.cutpaste import KINDS, cut_paste
from client.anomaly.split import Sets, Wanted, split_good
from client.anomaly.synthetic import damage
from client.anomaly.threshold import CONFIDENCE, Threshold
from client.tasks import cache as kept
from client.tasks.data import PlantData, Progress, Skipped
from client.tasks.folder import Found, check_good, find, read_groups
from client.tasks.images import ImageTask
from client.tasks.metrics import Prediction
from client.tasks.ranks import placements
from client.tasks.split import keys
from client.tasks.transforms import Augment
from common.config import FederationConfig, PlantConfig
from common.errors import ConfigError
from common.tasks import AUROC, Measure

Array = npt.NDArray[Any]

#: Of every plant, whatever its folders are called: a head that travels is the same everywhere.
CLASSES = ("good", "defect")


#: Parts that the head which learns is fitted on: their patches lie in memory all at once.
MOST_FITTED = 64


class Moved:
    """Each image three times: as it is, with a piece moved, with a scar; then augmented.

    At most ``most`` images of a batch are taken. The order is that of `KINDS`, all images of one
    kind after those of the other, which is how `AnomalyTask.loss` knows them.
    """

    def __init__(self, augment: Augment, *, most: int | None = None) -> None:
        self.augment = augment
        self.most = most

    def __call__(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        batch = batch[: self.most]
        kinds = torch.arange(len(KINDS)).repeat_interleave(len(batch))
        images = cut_paste(batch.repeat(len(KINDS), 1, 1, 1), kinds, generator=generator)
        return self.augment(images, generator)


@dataclass(frozen=True, kw_only=True)
class AnomalyTask(ImageTask):
    """Good parts as the rest of a plant sees them (`client.tasks.Task`).

    Attributes
    ----------
    validation_defects : real defective parts that judge new models.
    """

    validation_defects: int = 0

    @classmethod
    def of(cls, config: FederationConfig, settings: PlantConfig) -> AnomalyTask:
        images = ImageTask.of(config, settings)
        return cls(
            selection=images.selection,
            mean=images.mean,
            std=images.std,
            augment=images.augment,
            label_smoothing=images.label_smoothing,
            false_reject_budget=images.false_reject_budget,
            validation_defects=settings.anomaly.validation_defects,
        )

    @property
    def measure(self) -> Measure:
        return AUROC

    def load(
        self, folder: Path, *, cache: Path | None = None, progress: Progress | None = None
    ) -> PlantData:
        chosen = self.selection
        classes, found = find(folder, classes=chosen.classes, fewest=1)
        if not chosen.good:
            raise ConfigError(
                f"good must name the class of good parts for image-anomaly, got none for {folder}; "
                f"set it to one of {list(classes)}"
            )
        check_good(chosen.good, classes=classes, folder=folder)
        pixels = kept.read(
            folder,
            classes=classes,
            found=found,
            size=chosen.image_size,
            cache=cache,
            progress=progress,
        )
        return self._assemble(folder, classes, found, pixels)

    def _assemble(
        self,
        folder: Path,
        classes: Sequence[str],
        found: Sequence[Found],
        pixels: kept.Pixels,
    ) -> PlantData:
        usable = [index for index, why in enumerate(pixels.why) if not why]
        files = [found[index].file for index in usable]
        contents = [pixels.digests[index] for index in usable]
        sets = self._split(
            folder, classes, [found[index].label for index in usable], files, contents
        )
        seed = self.selection.seed
        table = _Table(pixels, usable=usable, files=files)
        train = table.add(sets.train, 0)
        held = table.judges(sets.compared, sets.judging, seed=seed)
        test = table.judges(sets.test, sets.defective, seed=seed + 1)
        calibration = table.add(sets.calibration, 0)
        inputs, targets, names = table.all()
        return PlantData(
            classes=CLASSES,
            good=CLASSES[0],
            inputs=inputs,
            targets=targets,
            names=names,
            train=train,
            validation=held,
            test=test,
            folds=((train, held),),
            fingerprint=self._fingerprint([names[i] for i in calibration.tolist()]),
            skipped=_skipped(found, pixels),
            notes=self._notes(sets),
            extra=calibration,
        )

    def _split(
        self,
        folder: Path,
        classes: Sequence[str],
        labels: Sequence[int],
        files: Sequence[str],
        contents: Sequence[str],
    ) -> Sets:
        chosen = self.selection
        return split_good(
            labels,
            keys(read_groups(folder, files=files), contents, seed=chosen.seed),
            good=classes.index(chosen.good),
            wanted=Wanted(
                budget=self.false_reject_budget,
                good=chosen.labels_per_class,
                test=chosen.test_per_class,
                defects=self.validation_defects,
            ),
            where=str(folder / chosen.good),
        )

    def _fingerprint(self, calibration: Sequence[str]) -> str:
        text = f"{self.false_reject_budget}/{self.selection.seed}/{list(calibration)}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _notes(self, sets: Sets) -> tuple[str, ...]:
        parts = len(sets.calibration)
        line = Threshold(value=0.0, parts=parts, budget=self.false_reject_budget)
        notes = [
            f"threshold from {parts} good parts: of those to come {line.expected_rate:.1%} are "
            f"rejected in the mean, at most {line.highest_rate:.1%} with {CONFIDENCE:.0%} "
            "confidence, as long as they are like these",
            f"new models are judged by {len(sets.judging)} real defective parts"
            if sets.judging
            else f"new models are judged by defects made up on {len(sets.compared)} good parts",
        ]
        if not sets.defective:
            notes.append(
                "no defective part is left for the test: its defects are made up on good parts, "
                "and say little about real ones"
            )
        if sets.left_out:
            notes.append(
                f"{len(sets.left_out)} defective parts share a group with good parts that are "
                "learned from, and are left out"
            )
        return tuple(notes)

    def training_transform(self) -> Moved:  # type: ignore[override]
        return Moved(super().training_transform())

    def head_transform(self) -> Moved:
        return Moved(Augment(0.0, self.mean, self.std), most=MOST_FITTED)

    def weights(self, data: PlantData, indices: Tensor) -> Tensor | None:
        return None

    def loss(
        self, outputs: Tensor, targets: Tensor, *, weights: Tensor | None, data: PlantData
    ) -> Tensor:
        """Return the loss of telling apart what `Moved` made; ``targets`` are all good parts."""
        kinds = torch.arange(len(KINDS), device=outputs.device).repeat_interleave(len(targets))
        return F.cross_entropy(outputs, kinds, label_smoothing=self.label_smoothing)

    def decode(self, outputs: Tensor, *, data: PlantData) -> Tensor:
        """Return the probabilities of good and defective, shape (n, 2)."""
        said = outputs.softmax(1)
        # Summed, not one minus the first: small probabilities must still rank.
        return torch.cat([said[:, :1], said[:, 1:].sum(1, keepdim=True)], dim=1)

    def quick_scores(
        self, predicted: Tensor, targets: Tensor, *, data: PlantData
    ) -> dict[str, float]:
        """AUROC, and the loss; in rounds of the head that learns, later of the memory."""
        truth = targets.numpy()
        true = predicted.gather(1, targets[:, None]).clamp_min(1e-12).log()
        found = placements(predicted[:, 1].double().numpy(), truth)
        return {"auroc": float(found[truth == 1].mean()), "loss": float(-true.double().mean())}

    def worth(self, predicted: Array, targets: Array, *, data: PlantData) -> Array:
        """Return values whose mean in each class is the AUROC, spread as its error is.

        A part's placement is the share of the other class that it is on the right side of. The
        mean of the placements of either class is the AUROC, and DeLong's variance of it is the
        sum of both means' variances. The rule takes the mean of two strata, which would halve the
        error: so placements are moved to twice their distance from the mean.
        """
        placed = placements(predicted[:, 1].astype(np.float64), targets)
        area = placed[targets == 1].mean()
        return np.asarray(area + 2 * (placed - area))

    def gained(self, gain: str) -> str:
        return f"has {gain} more AUROC on real defects"

    def doubt(self) -> str:
        if self.validation_defects:
            return ""
        return (
            "it was judged by made-up defects, which cannot vouch for a release; let real ones "
            "judge (anomaly.validation_defects in plant.toml)"
        )

    def scores(self, prediction: Prediction, *, data: PlantData) -> dict[str, Any]:
        """Return those of two classes, and what the plant's own threshold lets through.

        ``escape_rate`` is at the threshold that would reject the budget of the test's good parts;
        ``escaped`` and ``false_rejects`` are at the one that was calibrated without them.
        """
        found = super().scores(prediction, data=data)
        rejected = prediction.predicted[:, 1] > 0.5
        truth = prediction.truth
        return {
            **found,
            "false_rejects": float(rejected[truth == 0].mean()),
            "escaped": float((~rejected[truth == 1]).mean()),
        }

    def schema(self, data: PlantData) -> Mapping[str, Any]:
        return {"task": "image-anomaly", "image_size": self.selection.image_size}

    def restrict(self, predicted: Tensor, *, pooled: PlantData, plant: PlantData) -> Tensor:
        return predicted


class _Table:
    """Images, targets and names that are put together piece by piece.

    Parameters
    ----------
    usable : of each part, its place among the pixels.
    files : of each part.
    """

    def __init__(self, pixels: kept.Pixels, *, usable: Sequence[int], files: Sequence[str]) -> None:
        self._pixels, self._usable, self._files = pixels, usable, files
        self._images: list[Tensor] = []
        self._targets: list[Tensor] = []
        self._names: list[str] = []

    def add(self, parts: Sequence[int], target: int) -> Tensor:
        """Add parts and return the indices of their examples."""
        return self._put(self._read(parts), [self._files[part] for part in parts], target)

    def judges(self, good: Sequence[int], defective: Sequence[int], *, seed: int) -> Tensor:
        """Add good parts and defective ones; without any, defects made up on the good ones."""
        first = self.add(good, 0)
        if defective:
            return torch.cat([first, self.add(defective, 1)])
        names = [f"{self._files[part]} (made-up defect)" for part in good]
        return torch.cat([first, self._put(damage(self._read(good), seed=seed), names, 1)])

    def _read(self, parts: Sequence[int]) -> Tensor:
        rows = self._pixels.rows(torch.tensor([self._usable[p] for p in parts], dtype=torch.int64))
        assert rows is not None, "images changed in memory"
        return rows

    def _put(self, images: Tensor, names: Sequence[str], target: int) -> Tensor:
        start = len(self._names)
        self._images.append(images)
        self._targets.append(torch.full((len(images),), target))
        self._names += names
        return torch.arange(start, start + len(images))

    def all(self) -> tuple[Tensor, Tensor, tuple[str, ...]]:
        return torch.cat(self._images), torch.cat(self._targets), tuple(self._names)


def _skipped(found: Sequence[Found], pixels: kept.Pixels) -> tuple[Skipped, ...]:
    """Return the files that could not be read, and why."""
    both = zip(found, pixels.why, strict=True)
    return tuple(Skipped(file=item.file, why=why) for item, why in both if why)
