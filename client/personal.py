"""What stays at the plant: numbered versions of tensors, and which of them inspects parts now.

A version is a folder ``personal/<n>`` with the tensors and a manifest. It is written under another
name and renamed, so that it is there whole or not at all; versions only ever get added, and old
ones of finished rounds are pruned. ``deployed.json`` names the version that the line uses.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from common.errors import StateError
from common.files import (
    load_tensors,
    read_json,
    save_tensors,
    sync_folder,
    unwritable,
    write_json,
)

Arrays = dict[str, npt.NDArray[np.float32]]

#: Name under which a whole model's evidence lies beside its tensors.
EVIDENCE = "evidence"

#: Versions of rounds that are kept; models that were candidates for deployment are all kept.
ROUNDS_KEPT = 5


@dataclass(frozen=True, kw_only=True)
class Version:
    """The manifest of one version.

    Attributes
    ----------
    number : its place in the store, from 1.
    kind : ``round`` (the personal part after a round), or the name of a whole model:
        ``head_only``, ``local``, ``federated``.
    basis : what it was made from; an equal basis means equal content (resume).
    scores : on the validation split.
    """

    number: int
    kind: str
    run: str
    round: int
    basis: str
    scores: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """Which version inspects parts, and why."""

    version: int
    source: str
    why: str


class PersonalStore:
    """The versions of one plant."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def versions(self) -> list[Version]:
        """Every whole version, oldest first."""
        numbers = sorted(int(p.name) for p in self.folder.glob("[0-9]*") if p.name.isdigit())
        return [self._manifest(number) for number in numbers]

    def add(
        self,
        tensors: Mapping[str, npt.NDArray[Any]],
        *,
        kind: str,
        run: str,
        round: int,
        basis: str,
        scores: Mapping[str, float],
    ) -> Version:
        """Store tensors as the next version.

        Raises
        ------
        StateError
            If the folder cannot be written; the versions before are untouched.
        """
        known = self.versions()
        number = known[-1].number + 1 if known else 1
        version = Version(
            number=number, kind=kind, run=run, round=round, basis=basis, scores=dict(scores)
        )
        part, place = self.folder / f".{number}.part", self.folder / str(number)
        try:
            shutil.rmtree(part, ignore_errors=True)
            save_tensors(part / "personal.safetensors", tensors)
            write_json(part / "manifest.json", asdict(version))
            os.replace(part, place)
            sync_folder(self.folder)
        except OSError as error:
            raise unwritable(place, error) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
        self._prune([*known, version])
        return version

    def load(self, version: Version) -> Arrays:
        """Read a version's tensors; StateError if they are damaged."""
        return load_tensors(self.folder / str(version.number) / "personal.safetensors")[0]

    def find(self, *, kind: str, basis: str) -> Version | None:
        """The newest version of a kind that was made from ``basis``."""
        fits = [v for v in self.versions() if v.kind == kind and v.basis == basis]
        return fits[-1] if fits else None

    def before(self, *, run: str, round: int) -> Version | None:
        """The personal part with which a round starts: that of the last round before it."""
        fits = [v for v in self.versions() if v.kind == "round" and v.run == run]
        fits = [v for v in fits if v.round < round]
        return max(fits, key=lambda v: (v.round, v.number), default=None)

    def deployed(self) -> Deployment | None:
        """What inspects parts now; None before the first model."""
        path = self.folder / "deployed.json"
        return Deployment(**read_json(path)) if path.exists() else None

    def deploy(self, version: Version, *, why: str) -> None:
        """Make a version the one that inspects parts."""
        entry = Deployment(version=version.number, source=version.kind, why=why)
        write_json(self.folder / "deployed.json", asdict(entry))

    def version(self, number: int) -> Version:
        """The manifest of a version; StateError if it is not there."""
        return self._manifest(number)

    def model(self, number: int) -> Arrays:
        """Tensors of a whole model, by name."""
        tensors = self.load(self._manifest(number))
        tensors.pop(EVIDENCE, None)
        return tensors

    def evidence(self, version: Version) -> npt.NDArray[np.float32]:
        """A whole model's probabilities for images that it was not trained on."""
        return self.load(version)[EVIDENCE]

    def _manifest(self, number: int) -> Version:
        path = self.folder / str(number) / "manifest.json"
        try:
            return Version(**read_json(path))
        except TypeError as error:
            raise StateError(f"{path} is damaged: {error}; restore it from a backup") from error

    def _prune(self, versions: list[Version]) -> None:
        rounds = [v for v in versions if v.kind == "round"]
        for old in rounds[:-ROUNDS_KEPT]:
            shutil.rmtree(self.folder / str(old.number), ignore_errors=True)
