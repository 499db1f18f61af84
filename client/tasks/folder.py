"""A plant's images on disk: ROOT/<plant>/<class>/**/*.{jpg,jpeg,png,bmp,tif,tiff}.

Finds the files, reads them, and turns each into square 8-bit RGB. A class folder may have folders
in it, by day or by shift. A file that is empty, cut off or not an image is reported by name with
its reason; nothing is guessed or padded. Only the four formats' decoders are tried, so that a
file's content cannot reach any other.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import os
import struct
import threading
import warnings
import zlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from client.tasks.data import Progress
from common.errors import ConfigError, DataError

Pixels = npt.NDArray[np.uint8]

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
FORMATS = ("JPEG", "PNG", "BMP", "TIFF")
MANIFEST = "manifest.csv.gz"
#: A folder beside those of the classes, of images that nobody has labelled.
UNLABELLED = "unlabelled"

#: What Pillow's decoders raise on damaged files, besides OSError.
_DAMAGE = (
    SyntaxError, ValueError, TypeError, IndexError, KeyError, EOFError, OverflowError,
    MemoryError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip

#: `warnings.catch_warnings` is not safe in several threads at once.
_warnings = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class Found:
    """One image file.

    Attributes
    ----------
    file : path relative to the plant's folder, with forward slashes.
    label : index into the classes, -1 for none.
    size : bytes.
    modified : nanoseconds since 1970.
    """

    file: str
    label: int
    size: int
    modified: int


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """The files of a listing, read.

    Attributes
    ----------
    images : uint8, shape (files, 3, size, size); zeros where ``why`` is not empty.
    digests : SHA-256 of each file's bytes as hex, "" where the bytes could not be read.
    why : "" or the reason why a file is not usable.
    """

    images: Pixels
    digests: tuple[str, ...]
    why: tuple[str, ...]


def find(
    folder: Path, *, classes: Sequence[str] = (), fewest: int = 2
) -> tuple[tuple[str, ...], list[Found]]:
    """List a plant's image files, sorted by class and name.

    Parameters
    ----------
    folder : the plant's folder.
    classes : class folders to use, in this order; empty means all of them, sorted by name.
    fewest : classes that there must be, one or two.

    Returns
    -------
    class names, and the files. Hidden files and folders are passed over.

    Raises
    ------
    DataError
        If the folder is missing or unreadable, a class is missing or has no image file, or
        there are fewer than ``fewest`` classes.
    """
    present = _class_folders(folder)
    if missing := [name for name in classes if name not in present]:
        raise DataError(
            f"data folder {folder} must hold the classes asked for, {missing} missing; "
            f"found {present}"
        )
    names = tuple(dict.fromkeys(classes)) or tuple(present)
    if len(names) < fewest:
        raise DataError(
            f"data folder {folder} must hold at least {'two classes' if fewest > 1 else 'a class'}"
            f", got {list(names)}; put images into one folder a class"
        )
    found: list[Found] = []
    for label, name in enumerate(names):
        files = _image_files(folder, name, label=label)
        if not files:
            raise DataError(
                f"class folder {folder / name} must hold image files ({' '.join(SUFFIXES)}), "
                "got none; add some, remove the folder, or name the other classes in `classes`"
            )
        found += files
    return names, found


def unlabelled(folder: Path) -> list[Found]:
    """List the images of a plant that nobody has labelled; their label is -1."""
    if not (folder / UNLABELLED).is_dir():
        return []
    return _image_files(folder, UNLABELLED, label=-1)


def image_files(place: Path) -> tuple[Path, list[str]]:
    """List images to judge: a file, or all in a folder and below it; hidden ones are passed over.

    Returns
    -------
    the folder that names are relative to, and the names, sorted.

    Raises
    ------
    DataError
        If there is none.
    """
    if place.is_file():
        return place.parent, [place.name]
    if not place.is_dir():
        raise DataError(f"images must exist, got {place}; check the path")
    found = (path for path in place.rglob("*") if path.name.lower().endswith(SUFFIXES))
    names = [path.relative_to(place) for path in found if path.is_file()]
    shown = sorted(name.as_posix() for name in names if not any(p[0] == "." for p in name.parts))
    if not shown:
        raise DataError(f"folder {place} must hold image files ({' '.join(SUFFIXES)}), got none")
    return place, shown


def _class_folders(folder: Path) -> list[str]:
    try:
        return sorted(
            entry.name
            for entry in os.scandir(folder)
            if entry.is_dir() and not entry.name.startswith(".") and entry.name != UNLABELLED
        )
    except FileNotFoundError as error:
        raise DataError(f"data folder must exist, got {folder}; check the path") from error
    except OSError as error:
        raise DataError(f"data folder {folder} cannot be read: {error.strerror}") from error


def _image_files(folder: Path, name: str, *, label: int) -> list[Found]:
    files: list[Found] = []
    waiting = [name]
    while waiting:
        place = waiting.pop()
        try:
            for entry in os.scandir(folder / place):
                file = f"{place}/{entry.name}"
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(file)
                elif entry.name.lower().endswith(SUFFIXES) and entry.is_file():
                    stat = entry.stat()
                    files.append(
                        Found(
                            file=file,
                            label=label,
                            size=stat.st_size,
                            modified=stat.st_mtime_ns,
                        )
                    )
        except OSError as error:
            raise DataError(
                f"class folder {folder / place} cannot be read: {error.strerror}"
            ) from error
    return sorted(files, key=lambda found: found.file)


def other_files(folder: Path, *, classes: Sequence[str]) -> list[str]:
    """Say of each class how many files are passed over because of their suffix."""
    said = []
    for name in classes:
        suffixes = Counter(
            path.suffix.lower() or "none"
            for path in (folder / name).rglob("*")
            if path.is_file()
            and not path.name.lower().endswith(SUFFIXES)
            and not any(part[0] == "." for part in path.relative_to(folder).parts)
        )
        if suffixes:
            kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(suffixes.items()))
            said.append(f"class {name} has files of other kinds, passed over: {kinds}")
    return said


def read_groups(folder: Path, *, files: Sequence[str]) -> list[str | None]:
    """Look up the group of each file in ``manifest.csv.gz`` of the folder or of its parent.

    The manifest has the columns ``file`` (relative to the manifest's folder) and ``group``.

    Returns
    -------
    a group name for each file, or None where no manifest names one.

    Raises
    ------
    DataError
        If there is a manifest that cannot be read, or that lacks one of the two columns.
    """
    folder = folder.resolve() if ".." in folder.parts else folder.absolute()
    for place, prefix in ((folder, ""), (folder.parent, f"{folder.name}/")):
        if (place / MANIFEST).is_file():
            groups = _read_manifest(place / MANIFEST)
            return [groups.get(prefix + file) for file in files]
    return [None] * len(files)


def _read_manifest(path: Path) -> dict[str, str]:
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as text:
            rows = csv.DictReader(text)
            columns = rows.fieldnames or []
            if not {"file", "group"} <= set(columns):
                raise DataError(f"{path} must have the columns file and group, got {columns}")
            return {row["file"]: row["group"] for row in rows if row["group"]}
    except (OSError, EOFError, ValueError, csv.Error, zlib.error) as error:
        raise DataError(
            f"{path} must be a gzip-compressed CSV file in UTF-8 ({error}); mend or remove it"
        ) from error


def decode(data: bytes, *, size: int) -> Pixels:
    """Decode an image file into square RGB.

    EXIF orientation is applied. Palette, CMYK, grey and transparent images become RGB. 16-bit
    grey keeps its full range (65535 becomes 255), except that an image whose brightest pixel is
    at most 4095 is taken for 12-bit (4095 becomes 255). A large JPEG is read at reduced
    resolution, never below twice ``size``.

    Returns
    -------
    uint8, shape (3, size, size), resized with anti-aliasing.

    Raises
    ------
    DataError
        If the data is empty, cut off, or not an image of the four formats; the message is the
        bare reason.
    """
    if not data:
        raise DataError("empty file")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            image.draft(None, (2 * size, 2 * size))
            image.load()
            upright = ImageOps.exif_transpose(image)
            square = _to_rgb(upright).resize((size, size), Image.Resampling.BILINEAR)
    except UnidentifiedImageError as error:
        raise DataError("not a JPEG, PNG, BMP or TIFF image") from error
    except (OSError, *_DAMAGE) as error:
        raise DataError(f"damaged image: {str(error) or type(error).__name__}") from error
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


def _to_rgb(image: Image.Image) -> Image.Image:
    if not (image.mode.startswith("I") or image.mode == "F"):
        return image.convert("RGB")
    values = np.asarray(image)
    top = values.max()
    if image.mode == "F" or values.min() < 0 or top > 65535:
        raise DataError("pixels must be 8-bit or 16-bit; save it as one of these")
    full = 4095.0 if top <= 4095 else 65535.0
    return Image.fromarray(np.rint(values * (255.0 / full)).astype(np.uint8)).convert("RGB")


def read_images(
    folder: Path, *, files: Sequence[str], size: int, progress: Progress | None = None
) -> Decoded:
    """Read and decode files with one thread a core.

    Parameters
    ----------
    progress : called with (files done, files in all) after each file.
    """
    images = np.zeros((len(files), 3, size, size), dtype=np.uint8)

    def read(index: int) -> tuple[str, str]:
        try:
            data = (folder / files[index]).read_bytes()
        except OSError as error:
            return "", f"cannot be read: {error.strerror}"
        try:
            images[index] = decode(data, size=size)
            why = ""
        except DataError as error:
            why = str(error)
        return hashlib.sha256(data).hexdigest(), why

    results = []
    with _warnings, warnings.catch_warnings():
        # Pillow warns about odd metadata of images that it then reads well.
        warnings.simplefilter("ignore")
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            for result in pool.map(read, range(len(files))):
                results.append(result)
                if progress:
                    progress(len(results), len(files))
    digests, why = zip(*results, strict=True) if results else ((), ())
    return Decoded(images=images, digests=tuple(digests), why=tuple(why))


def check_good(good: str, *, classes: Sequence[str], folder: Path) -> None:
    """Refuse a class of good parts that the plant does not have.

    Raises
    ------
    ConfigError
        If ``good`` is neither empty nor one of the classes.
    """
    if good and good not in classes:
        raise ConfigError(
            f"good must be one of the classes {list(classes)} of {folder}, got {good!r}"
        )
