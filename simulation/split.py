"""Cuts one product's images into plants, to see how much plants of the same kind help.

Each plant gets its share of the classes (`simulation.shares`) and, if asked for, its own camera
(`simulation.camera`). Images of one group or of the same content stay together.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from client.tasks.data import Skipped
from client.tasks.folder import FORMATS, MANIFEST, decode, find, read_groups
from client.tasks.split import keys
from common.errors import ConfigError, DataError
from common.files import unwritable
from common.terminal import progress
from simulation.camera import camera_of, photograph
from simulation.shares import Part, assign, parse_labels, quotas

#: A plant has at least so many images of a class, or none: enough for labels and a test.
MINIMUM = 12
#: Side of the pictures that a camera takes, at most.
LARGEST = 512
ORIENTATION = 0x0112  # of EXIF


@dataclass(frozen=True, kw_only=True)
class Cut:
    """What was written.

    Attributes
    ----------
    folders : of the plants.
    counts : images a class, by plant; a class that a plant does not have is not named.
    left_out : images of classes that would have had too few images at their plant.
    skipped : files that a camera could not read.
    """

    folders: tuple[Path, ...]
    counts: Mapping[str, Mapping[str, int]]
    left_out: int
    skipped: tuple[Skipped, ...]


def split_product(
    data: Path,
    out: Path,
    *,
    plants: int,
    labels: str = "iid",
    cameras: bool = False,
    seed: int = 0,
    minimum: int = MINIMUM,
) -> Cut:
    """Cut the class folders of one product into OUT/plant-1/<class>/*, OUT/plant-2/...

    Without cameras files are copied as they are; with them they are written as JPEG, quality 95.
    OUT/manifest.csv.gz names class, group and source of each.

    Parameters
    ----------
    labels : ``iid`` or ``dirichlet:ALPHA``.
    minimum : images of a class that a plant must have, if it has the class at all.

    Raises
    ------
    ConfigError
        If a number or ``labels`` is out of range.
    DataError
        If the folder is missing, holds too little for so many plants, or OUT holds something.
    StateError
        If OUT cannot be written.
    """
    alpha = parse_labels(labels)
    if plants < 1:
        raise ConfigError(f"plants must be a whole number of at least 1, got {plants}")
    if minimum < 1:
        raise ConfigError(f"minimum must be a whole number of at least 1, got {minimum}")
    if seed < 0:
        raise ConfigError(f"seed must be a whole number of at least 0, got {seed}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} must be a new or empty folder; remove it or choose another")
    classes, parts = _read(data, seed=seed)
    totals = [sum(part.label == label for part in parts) for label in range(len(classes))]
    rng = np.random.default_rng([seed, plants])
    wanted = quotas(totals, plants=plants, alpha=alpha, minimum=minimum, rng=rng)
    shares = assign(parts, wanted, minimum=minimum)
    for number, share in enumerate(shares, start=1):
        if len({part.label for part in share}) < 2:
            raise DataError(
                f"plant-{number} must get at least two classes, got less from {data} with "
                f"{plants} plants; use fewer plants or another seed"
            )
    return _write(data, out, classes=classes, shares=shares, cameras=cameras, seed=seed)


def _read(data: Path, *, seed: int) -> tuple[tuple[str, ...], list[Part]]:
    """List the product's images; the group's rank is a seeded hash, so the order is random."""
    classes, found = find(data)
    files = [one.file for one in found]
    try:
        contents = [hashlib.sha256((data / file).read_bytes()).hexdigest() for file in files]
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}") from error
    ranks = keys(read_groups(data, files=files), contents, seed=seed)
    parts = [
        (rank, Part(file=one.file, label=one.label, group=rank[0][:16]))
        for rank, one in zip(ranks, found, strict=True)
    ]
    return classes, [part for _, part in sorted(parts, key=lambda pair: (pair[0], pair[1].file))]


def _write(
    data: Path,
    out: Path,
    *,
    classes: Sequence[str],
    shares: Sequence[Sequence[Part]],
    cameras: bool,
    seed: int,
) -> Cut:
    """Write everything beside OUT, then move it into place, so that OUT is whole or not there."""
    staged = out.with_name(f".{out.name}.part")
    rows: list[dict[str, str]] = []
    skipped: list[Skipped] = []
    try:
        shutil.rmtree(staged, ignore_errors=True)
        with progress("splitting", total=sum(map(len, shares))) as advance:
            for index, share in enumerate(shares):
                plant = f"plant-{index + 1}"
                for part in sorted(share, key=lambda part: part.file):
                    target = staged / plant / part.file
                    target.parent.mkdir(parents=True, exist_ok=True)
                    try:
                        if cameras:
                            target = _take(data / part.file, target, plant=index, seed=seed)
                        else:
                            shutil.copyfile(data / part.file, target)
                    except DataError as error:
                        skipped.append(Skipped(file=part.file, why=str(error)))
                    else:
                        rows.append(
                            {
                                "file": target.relative_to(staged).as_posix(),
                                "class": classes[part.label],
                                "group": part.group,
                                "source": part.file,
                            }
                        )
                    advance(plant)
        (staged / MANIFEST).write_bytes(_manifest(rows))
        os.replace(staged, out)
    except OSError as error:
        raise unwritable(out, error) from error
    counts = Counter((row["file"].split("/")[0], row["class"]) for row in rows)
    plants = [f"plant-{index + 1}" for index in range(len(shares))]
    return Cut(
        folders=tuple(out / plant for plant in plants),
        counts={p: {c: counts[p, c] for c in classes if counts[p, c]} for p in plants},
        left_out=len(find(data)[1]) - sum(map(len, shares)),
        skipped=tuple(skipped),
    )


def _take(source: Path, target: Path, *, plant: int, seed: int) -> Path:
    """Photograph a file with the plant's camera and return where the picture lies.

    Raises
    ------
    DataError
        With the bare reason, if the file is no image.
    """
    content = source.read_bytes()
    image = _open(content)
    token = int.from_bytes(hashlib.sha256(content).digest()[:8], "big")
    rng = np.random.default_rng([seed, plant, token])
    picture = photograph(image, camera_of(plant, seed=seed), rng=rng)
    target = target.with_suffix(".jpg")
    if target.exists():  # a.png beside a.bmp
        target = target.with_name(f"{source.name}.jpg")
    Image.fromarray(picture).save(target, quality=95)
    return target


def _open(content: bytes) -> npt.NDArray[np.uint8]:
    """Decode as the plants will do, but keep the shape; uint8 (height, width, 3)."""
    width, height = _size(content)
    longer = max(width, height)
    side = min(LARGEST, longer)
    square = Image.fromarray(decode(content, size=side).transpose(1, 2, 0))
    shape = (max(8, width * side // longer), max(8, height * side // longer))
    return np.asarray(square.resize(shape, Image.Resampling.BOX))


def _size(content: bytes) -> tuple[int, int]:
    """Return width and height as the image is meant to be seen; any, if it is no image."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            lying = image.getexif().get(ORIENTATION, 1) >= 5
            return (image.height, image.width) if lying else image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return LARGEST, LARGEST  # `decode` says what is wrong with it


def _manifest(rows: Sequence[Mapping[str, str]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ["file", "class", "group", "source"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return gzip.compress(text.getvalue().encode(), mtime=0)
