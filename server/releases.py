"""Releases on disk: ``releases/<n>/{backbone.safetensors, manifest.json, manifest.sig}``.

A release is usable alone: the manifest says which backbone it is of, how images are prepared for
it, and what it was made from. ``optimiser.safetensors``, where there is one, holds the state of
the server optimiser after the step that led to the release. ``manifest.sig``, not in simulation, is
the release key's signature over the manifest, and by the hashes in that over everything else.

A release is staged in a folder of its own and published by one rename; whether it counts is
decided by its row in ``state.db`` (see `server.state.store`).
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Collection
from datetime import datetime
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from common.errors import IdentityError, StateError
from common.files import (
    load_tensors,
    read_json,
    save_tensors,
    sync_folder,
    unwritable,
    write_atomic,
    write_json,
)
from common.orders import Release
from common.pki import Certificate, Role, Trust
from common.signing import Signer, open_seal, seal
from common.update import Schema, Tensors

BACKBONE = "backbone.safetensors"
MANIFEST = "manifest.json"
OPTIMISER = "optimiser.safetensors"
SIGNATURE = "manifest.sig"
SEAL = "release"  #: kind of the seal in it

_MEND = "restore the folder from a backup, or start over with another --out"


class Manifest(BaseModel):
    """What a release is and what it was made from.

    Attributes
    ----------
    version : of this format.
    transferline : version of the program that wrote it.
    number, run, round, method : where it stands; 0 and round 0 are the source weights.
    hash : `common.orders.Release.hash`.
    schema_digest : `common.update.Schema.digest`.
    parent : hash of the release it was stepped from.
    replies : weight counted, by plant; 0 where it was under a mask.
    scale : fixed-point units in 1.0 of the sum behind it.
    optimiser : `digest_of` the optimiser's state, empty without one.
    restores : number of the release whose content a rollback brought back.
    log : number and hash of the newest entry of the centre's log before this release.
    created : UTC, ISO 8601.
    backbone, image_size, mean, std : the model, and how images are prepared for it.
    classes : of the head, where it travels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = 1
    transferline: str
    number: int
    run: str
    round: int = 0
    method: str
    hash: str
    schema_digest: str
    parent: str | None = None
    replies: dict[str, int] = {}
    scale: int | None = None
    optimiser: str = ""
    restores: int | None = None
    log: tuple[int, str] | None = None
    created: str
    backbone: str
    image_size: int
    mean: tuple[float, float, float] | None
    std: tuple[float, float, float] | None
    classes: tuple[str, ...]


def digest_of(tensors: Tensors) -> str:
    """Return SHA-256 over names, shapes and values as hex, or "" for no tensors."""
    if not tensors:
        return ""
    ordered = {name: tensors[name] for name in sorted(tensors)}
    digest = hashlib.sha256(Schema.of(ordered).digest.encode())
    for value in ordered.values():
        digest.update(np.ascontiguousarray(value, dtype="<f4").data)
    return digest.hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a release folder.

    Raises
    ------
    StateError
        If it is missing or damaged.
    """
    try:
        return Manifest.model_validate(read_json(folder / MANIFEST))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the file"
        raise StateError(
            f"{folder / MANIFEST} is damaged: {key}: {first['msg'].lower()}; {_MEND}"
        ) from error


def read_release(folder: Path) -> Release:
    """Read a release folder and verify its hash.

    Raises
    ------
    StateError
        If a file is missing or is not what was written.
    """
    manifest, path = read_manifest(folder), folder / BACKBONE
    tensors, metadata = load_tensors(path)
    try:
        schema = Schema.from_json(metadata["schema"])
    except (KeyError, TypeError, ValueError) as error:
        raise StateError(f"{path} is damaged: it has no schema; {_MEND}") from error
    if schema.digest != manifest.schema_digest or tensors.keys() != schema.shapes.keys():
        raise StateError(f"{path} is damaged: its tensors are not those of {MANIFEST}; {_MEND}")
    release = Release(number=manifest.number, schema=schema, vector=schema.flatten(tensors))
    if release.hash != manifest.hash:
        raise StateError(f"{path} is damaged: its hash is not that of {MANIFEST}; {_MEND}")
    return release


def verify_signature(folder: Path, *, trust: Trust) -> Certificate:
    """Verify that the release key signed the manifest of a release folder; return whose it is.

    Raises
    ------
    IdentityError
        If it did not, or its certificate was not valid when the release was made.
    StateError
        If a file is missing or damaged.
    """
    manifest = read_manifest(folder)
    try:
        text = (folder / SIGNATURE).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise StateError(f"cannot read {folder / SIGNATURE}: {error}; {_MEND}") from error
    made = datetime.fromisoformat(manifest.created)
    sealed = open_seal(text.strip(), kind=SEAL, trust=trust, role=Role.RELEASE, at=made)
    if sealed.fields != _signed(folder, manifest):
        raise IdentityError(
            f"{folder / MANIFEST} must be what {sealed.signer.name} signed, got another; {_MEND}"
        )
    return sealed.signer


def _signed(folder: Path, manifest: Manifest) -> dict[str, object]:
    content = (folder / MANIFEST).read_bytes()
    return {
        "manifest": hashlib.sha256(content).hexdigest(),
        "number": manifest.number,
        "run": manifest.run,
        "hash": manifest.hash,
    }


class Releases:
    """The releases of a run folder or of a centre.

    Parameters
    ----------
    home : the folder; releases lie in ``home/releases``.
    signer : of what is written; None signs nothing.
    """

    def __init__(self, home: Path, *, signer: Signer | None = None) -> None:
        self.folder = home / "releases"
        self._signer = signer

    def path(self, number: int) -> Path:
        return self.folder / str(number)

    def numbers(self) -> list[int]:
        """Return the numbers of the releases that are there, ascending."""
        if not self.folder.is_dir():
            return []
        return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdecimal())

    def read(self, number: int) -> Release:
        """Read and verify a release; see `read_release`."""
        return read_release(self.path(number))

    def manifest(self, number: int) -> Manifest:
        """Read a manifest; see `read_manifest`."""
        return read_manifest(self.path(number))

    def latest(self) -> Release:
        """Read and verify the release with the highest number.

        Raises
        ------
        StateError
            If there is none, or it is damaged.
        """
        numbers = self.numbers()
        if not numbers:
            raise StateError(f"{self.folder} has no release; run the federation first")
        return self.read(numbers[-1])

    def optimiser(self, number: int) -> Tensors:
        """Read and verify the optimiser's state that belongs to a release.

        Raises
        ------
        StateError
            If it is missing or is not what was written.
        """
        wanted, path = self.manifest(number).optimiser, self.path(number) / OPTIMISER
        if not wanted:
            return {}
        tensors, _ = load_tensors(path)
        if digest_of(tensors) != wanted:
            raise StateError(f"{path} is damaged: its hash is not that of {MANIFEST}; {_MEND}")
        return tensors

    def write(self, release: Release, manifest: Manifest, optimiser: Tensors) -> Path:
        """Write a release to a folder of its own, not yet in its place, and return the folder.

        Raises
        ------
        StateError
            If the folder cannot be written.
        """
        staged = self.folder / f".{release.number}.{secrets.token_hex(4)}.part"
        metadata = {"schema": release.schema.to_json(), "hash": manifest.hash}
        try:
            save_tensors(staged / BACKBONE, release.schema.unflatten(release.vector), metadata)
            if optimiser:
                save_tensors(staged / OPTIMISER, optimiser)
            write_json(staged / MANIFEST, manifest.model_dump(mode="json"))
            if self._signer is not None:
                text = seal(SEAL, _signed(staged, manifest), signer=self._signer)
                write_atomic(staged / SIGNATURE, f"{text}\n".encode())
        except StateError:
            self.discard(staged)  # gives back the space of a full disk
            raise
        return staged

    def discard(self, staged: Path) -> None:
        """Remove what was written and will not be published."""
        shutil.rmtree(staged, ignore_errors=True)

    def publish(self, staged: Path, number: int) -> None:
        """Move a staged release into its place, durably. The caller holds the store's lock.

        Raises
        ------
        StateError
            If the folder cannot be written.
        """
        place = self.path(number)
        try:
            if place.exists():  # left by a commit that did not reach its row
                shutil.rmtree(place)
            os.replace(staged, place)
            sync_folder(self.folder)
        except OSError as error:
            raise unwritable(place, error) from error

    def keep(self, numbers: Collection[int]) -> None:
        """Remove everything but these releases. The caller holds the store's lock.

        Raises
        ------
        StateError
            If a folder cannot be removed.
        """
        kept = {str(number) for number in numbers}
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if path.name not in kept and (path.name.isdecimal() or path.suffix == ".part"):
                try:
                    shutil.rmtree(path)
                except OSError as error:
                    raise unwritable(path, error) from error
