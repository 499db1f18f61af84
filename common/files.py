"""Files that are either whole or not there: JSON and safetensors, written atomically.

A file is written beside its place, synced, renamed over it, and the folder is synced, so that a
kill or a power cut at any moment leaves the old content or the new, never a part.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from common.errors import StateError


def write_atomic(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Write a file whole or not at all.

    Parameters
    ----------
    mode : permissions from the first byte on, less the umask; 0o600 for a private key.

    Raises
    ------
    StateError
        If the folder cannot be written: read-only, full, or not there.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> StateError:
    """Translate an error of the operating system into the user's one line."""
    return StateError(
        f"cannot write {path}: {error.strerror or error}; free or unlock the folder, then start "
        "again (a simulation with --resume)"
    )


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    write_atomic(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises
    ------
    StateError
        If the file is missing, unreadable or not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise StateError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise StateError(f"{path} is damaged: {error}; restore it from a backup") from error


def save_tensors(
    path: Path,
    tensors: Mapping[str, npt.NDArray[Any]],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write tensors as safetensors, atomically."""
    arrays = {name: np.require(value, requirements="C") for name, value in tensors.items()}
    # Without tensors safetensors 0.8 writes an empty metadata table as broken JSON.
    write_atomic(path, save(arrays, dict(metadata) if metadata else None))


def load_tensors(path: Path) -> tuple[dict[str, npt.NDArray[Any]], dict[str, str]]:
    """Read tensors and metadata of a safetensors file.

    Raises
    ------
    StateError
        If the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except FileNotFoundError as error:
        raise StateError(f"cannot read {path}: no such file") from error
    except (OSError, SafetensorError, ValueError) as error:
        raise StateError(f"{path} is damaged: {error}; restore it from a backup") from error
