"""Decoded images on disk, so that a plant's folder is decoded once and not at every start.

One safetensors file holds all usable images of a folder at one size; every split of the folder
(any seed, any number of labels) reads its rows from there, and only these. The file is good for
exactly the listing that it was made from: names, sizes and times of modification. If anything
changed, or the file is damaged, the folder is decoded again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from client.tasks.data import Progress
from client.tasks.folder import Decoded, Found, read_images
from common.errors import StateError
from common.files import save_tensors

VERSION = 1  # of the file, and of how images are decoded

logger = logging.getLogger(__name__)


class Pixels:
    """Decoded images of a listing, in memory or mapped from the cache.

    Attributes
    ----------
    digests : SHA-256 of each file's content, as hex.
    why : "" or the reason why a file is not usable.
    """

    def __init__(
        self, images: Tensor, *, digests: Sequence[str], why: Sequence[str], checks: Tensor
    ) -> None:
        self.digests = tuple(digests)
        self.why = tuple(why)
        self._images = images
        self._checks = checks

    @classmethod
    def of(cls, decoded: Decoded) -> Pixels:
        checks = np.array([zlib.crc32(image) for image in decoded.images], dtype=np.int64)
        return cls(
            torch.from_numpy(decoded.images),
            digests=decoded.digests,
            why=decoded.why,
            checks=torch.from_numpy(checks),
        )

    def rows(self, indices: Tensor) -> Tensor | None:
        """Copy images, uint8 (len(indices), 3, S, S); None if one of them is damaged."""
        images = self._images[indices]
        checks = [zlib.crc32(image) for image in images.numpy()]
        return images if checks == self._checks[indices].tolist() else None

    @property
    def whole(self) -> bool:
        """Whether no image is damaged."""
        return self.rows(torch.arange(len(self._images))) is not None

    def save(self, path: Path, *, listing: str) -> None:
        """Keep for the next time; a folder that cannot be written costs time, nothing else."""
        index = json.dumps({"digests": self.digests, "why": self.why})
        tensors = {"images": self._images.numpy(), "checks": self._checks.numpy()}
        try:
            save_tensors(path, tensors, {"index": index, "check": _check(listing, index)})
        except StateError as error:
            logger.warning("Images are not cached: %s", error)

    @classmethod
    def load(cls, path: Path, *, listing: str) -> Pixels | None:
        """Map what was kept for the same listing; None if there is none or it is damaged."""
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                index = metadata["index"]
                if metadata["check"] != _check(listing, index):
                    return None
                images, checks = file.get_tensor("images"), file.get_tensor("checks")
        except (OSError, SafetensorError, KeyError, ValueError):
            return None
        fields = json.loads(index)
        return cls(images, digests=fields["digests"], why=fields["why"], checks=checks)


def read(
    folder: Path,
    *,
    classes: Sequence[str],
    found: Sequence[Found],
    size: int,
    cache: Path | None,
    progress: Progress | None = None,
) -> Pixels:
    """Return all images of a folder, from the cache where they are kept whole, else decoded.

    Parameters
    ----------
    cache : folder in which decoded images are kept; None: nowhere.
    progress : called with (files done, files in all) while files are decoded.
    """
    path = None if cache is None else place(cache, folder=folder, classes=classes, size=size)
    names = listing(found)
    known = Pixels.load(path, listing=names) if path else None
    if known is not None and known.whole:
        return known
    files = [item.file for item in found]
    pixels = Pixels.of(read_images(folder, files=files, size=size, progress=progress))
    # A file that could not be read now may be readable at the next start.
    if path and all(pixels.digests):
        pixels.save(path, listing=names)
    return pixels


def place(cache: Path, *, folder: Path, classes: Sequence[str], size: int) -> Path:
    """Return the file in which a folder's images of one size are kept."""
    key = json.dumps([VERSION, str(folder.resolve()), list(classes), size])
    return cache / f"images-{hashlib.sha256(key.encode()).hexdigest()[:24]}.safetensors"


def listing(found: Sequence[Found]) -> str:
    """Return what must be the same for kept images to be good."""
    return json.dumps([[item.file, item.label, item.size, item.modified] for item in found])


def _check(listing: str, index: str) -> str:
    return hashlib.sha256(f"{listing}\n{index}".encode()).hexdigest()
