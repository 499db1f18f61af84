"""What stays at the plant: numbered versions of tensors, and which of them inspects parts now.

A version is a folder ``personal/<n>`` with the tensors and a manifest. It is written under another
name and renamed, and renamed back before it is removed, so that it is there whole or not at all;
versions never change, and those of old rounds are pruned. ``deployed.json`` names the version that
the line uses.

Covered: a file that has rotted is never used, its manifest holds its digest. The personal part of a
round is then that of the round before; a whole model is an error, and a person's to put back.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

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

log = logging.getLogger(__name__)

Arrays = dict[str, npt.NDArray[np.float32]]
T = TypeVar("T")

#: Name under which a whole model's evidence lies beside its tensors.
EVIDENCE = "evidence"

#: Kind of a version that is no whole model: the personal part after a round.
ROUND = "round"

TENSORS = "personal.safetensors"  #: of a version

#: Rounds whose versions are kept; models that were candidates for deployment are all kept.
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
    judged : of a whole model, digest of the labelled images that its evidence is about.
    config : of a whole model, the federation's settings that it was made by, JSON: what it needs
        to be built and fed again.
    meaning : what its inputs and outputs stand for, JSON (`client.tasks.meaning`).
    content : SHA-256 of the tensors' file; like ``config`` and ``meaning`` "" where an older
        program wrote it.
    unit : of a round, whom the noise hid in it (`common.config.PrivacyConfig.unit`); "" of a whole
        model, and where an older program wrote it.
    """

    number: int
    kind: str
    run: str
    round: int
    basis: str
    scores: Mapping[str, float]
    judged: str = ""
    config: str = ""
    meaning: str = ""
    content: str = ""
    unit: str = ""


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
        """Return every whole version, oldest first.

        Raises
        ------
        StateError
            If a manifest is damaged.
        """
        numbers = sorted(int(p.name) for p in self.folder.glob("[0-9]*") if p.name.isdigit())
        return [self.version(number) for number in numbers]

    def add(
        self,
        tensors: Mapping[str, npt.NDArray[Any]],
        *,
        kind: str,
        run: str,
        round: int,  # noqa: A002  the domain's word
        basis: str,
        scores: Mapping[str, float],
        **made: str,
    ) -> Version:
        """Store tensors as the next version; the fields are those of `Version`.

        Parameters
        ----------
        made : ``meaning`` and, of a whole model, ``judged`` and ``config``; of a round ``unit``.

        Raises
        ------
        StateError
            If the folder cannot be written; the versions before are untouched.
        """
        known = self.versions()
        number = known[-1].number + 1 if known else 1
        version = Version(
            number=number,
            kind=kind,
            run=run,
            round=round,
            basis=basis,
            scores=dict(scores),
            **made,
        )
        part, place = self._part(number), self.folder / str(number)
        try:
            shutil.rmtree(part, ignore_errors=True)
            save_tensors(part / TENSORS, tensors)
            version = replace(version, content=_digest(part / TENSORS))
            write_json(part / "manifest.json", asdict(version))
            os.replace(part, place)
            sync_folder(self.folder)
            self._prune([*known, version])
        except OSError as error:
            raise unwritable(place, error) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return version

    def load(self, version: Version) -> Arrays:
        """Read a version's tensors.

        Raises
        ------
        StateError
            If they are damaged.
        """
        path = self.folder / str(version.number) / TENSORS
        if version.content and path.exists() and _digest(path) != version.content:
            raise StateError(
                f"{path} is damaged: it is not what its manifest says; restore it from a backup, "
                "or deploy another version with `transferline-plant personal`"
            )
        return load_tensors(path)[0]

    def find(self, *, kind: str, basis: str) -> Version | None:
        """Return the newest version of a kind that was made from ``basis``."""
        fits = [v for v in self.versions() if v.kind == kind and v.basis == basis]
        return fits[-1] if fits else None

    def before(
        self,
        *,
        run: str,
        round: int,  # noqa: A002  the domain's word
        meaning: str,
        unit: str | None = None,
    ) -> Version | None:
        """Return the personal part with which a round starts: that of the last round before it.

        One that is damaged is passed over, with a warning: each round makes a new one. So is one
        of another meaning: a head goes on for the classes that it was made for, and no others.

        Parameters
        ----------
        unit : only of rounds in which noise hid this; None for all.
        """
        past = [v for v in self.versions() if v.kind == ROUND and v.run == run and v.round < round]
        fits = [version for version in past if version.meaning == meaning]
        if past and not fits:
            log.warning(
                "the data's classes, columns or scales are others than in the rounds before; a new "
                "personal part is begun"
            )
        fits = [version for version in fits if unit in (None, version.unit)]
        for version in sorted(fits, key=lambda v: (v.round, v.number), reverse=True):
            try:
                self.load(version)
            except StateError as error:
                log.warning("%s; the part before it is used", str(error).partition(";")[0])
            else:
                return version
        return None

    def deployed(self) -> Deployment | None:
        """Return what inspects parts now; None before the first model.

        Raises
        ------
        StateError
            If the note of it is damaged.
        """
        path = self.folder / "deployed.json"
        return _read(path, Deployment) if path.exists() else None

    def deploy(self, version: Version, *, why: str) -> Deployment:
        """Make a version the one that inspects parts."""
        entry = Deployment(version=version.number, source=version.kind, why=why)
        write_json(self.folder / "deployed.json", asdict(entry))
        return entry

    def rollback(self, number: int) -> Deployment:
        """Make an earlier whole model the one that inspects parts, by a person's word.

        The next candidate is compared with it, as with any model that is deployed.

        Raises
        ------
        StateError
            If there is no such whole model, or it inspects parts already.
        """
        with self.exclusive():
            models = [version for version in self.versions() if version.kind != ROUND]
            found = next((version for version in models if version.number == number), None)
            if found is None:
                known = ", ".join(str(version.number) for version in models) or "none"
                raise StateError(
                    f"version must be one of the whole models at this plant ({known}), got "
                    f"{number}; list them with `transferline-plant personal`"
                )
            before = self.deployed()
            if before is not None and before.version == number:
                raise StateError(f"version {number} inspects parts already; nothing was changed")
            place = "where there was none" if before is None else f"for version {before.version}"
            return self.deploy(found, why=f"put back by hand, {place}")

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep other processes from deploying: a person's rollback and the daemon's adoption.

        Raises
        ------
        StateError
            If the folder cannot be written.
        """
        path = self.folder / ".lock"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise unwritable(path, error) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)  # which unlocks

    def version(self, number: int) -> Version:
        """Return the manifest of a version.

        Raises
        ------
        StateError
            If it is not there or damaged.
        """
        return _read(self.folder / str(number) / "manifest.json", Version)

    def model(self, number: int) -> Arrays:
        """Return the tensors of a whole model, by name."""
        tensors = self.load(self.version(number))
        tensors.pop(EVIDENCE, None)
        return tensors

    def evidence(self, version: Version) -> npt.NDArray[np.float32]:
        """Return a whole model's probabilities for images that it was not trained on."""
        return self.load(version)[EVIDENCE]

    def _part(self, number: int) -> Path:
        """Return the name under which a version is not whole: being written, or being removed."""
        return self.folder / f".{number}.part"

    def _prune(self, versions: list[Version]) -> None:
        """Remove parts of old rounds, and all but the newest of a round that was trained twice."""
        rounds = {(v.run, v.round): v.number for v in versions if v.kind == ROUND}
        kept = sorted(rounds.values())[-ROUNDS_KEPT:]
        for version in versions:
            if version.kind == ROUND and version.number not in kept:
                part = self._part(version.number)
                shutil.rmtree(part, ignore_errors=True)
                (self.folder / str(version.number)).rename(part)
        for part in self.folder.glob(".*.part"):
            shutil.rmtree(part, ignore_errors=True)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path, kind: type[T]) -> T:
    try:
        return kind(**read_json(path))
    except TypeError as error:
        raise StateError(f"{path} is damaged: {error}; restore it from a backup") from error
