"""What messages carry, as files: SuperLink's object store while a message is on its way.

Flower keeps every piece of every model in its SQLite file: written into a log, copied from it,
deleted, all under the one lock that registrations and heartbeats need too. But a piece lives for
seconds, and none outlives its run, which ends with SuperLink. So here a piece is a file of its own,
as a rule gone before it reaches the disk; what there is to know of it is in memory.

Covered: a piece is what its name says (SHA-256), a crash leaves nothing (the folder is emptied at
the start), a full disk refuses a piece and harms nothing else. Not covered: whoever may read the
centre's folder reads models on their way, as before.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from uuid import uuid4

from flwr.supercore.inflatable.inflatable_object import get_object_id, iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import validate_object_content
from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore, ObjectEntry
from flwr.supercore.object_store.object_store import NoObjectInStoreError

SMALL = 2**16  #: bytes up to which a piece stays in memory


class _Entries(dict[str, ObjectEntry]):
    """What is known of each piece; one that is forgotten loses its file."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def __delitem__(self, name: str) -> None:
        super().__delitem__(name)
        (self._folder / name).unlink(missing_ok=True)


class FileObjectStore(InMemoryObjectStore):
    """Pieces as files of a folder.

    Parameters
    ----------
    folder : for nothing else; emptied now.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700, parents=True)
        self._folder = folder
        self.store = _Entries(folder)

    def put(self, object_id: str, object_content: bytes) -> None:
        """Store a piece that was announced.

        Raises
        ------
        NoObjectInStoreError
            If it was not, or is no longer wanted.
        ValueError
            If it is not what its name says.
        OSError
            If the disk is full.
        """
        if len(object_content) <= SMALL:
            super().put(object_id, object_content)
            return
        if object_id != get_object_id(object_content):
            raise ValueError(f"Object ID {object_id} does not match content hash")
        validate_object_content(content=object_content)
        part = self._folder / f".{uuid4().hex}"
        try:
            part.write_bytes(object_content)
            with self.lock_store:
                if (entry := self.store.get(object_id)) is None:
                    raise NoObjectInStoreError(f"Object {object_id} was not pre-registered.")
                os.replace(part, self._folder / object_id)
                entry.is_available = True
        finally:
            part.unlink(missing_ok=True)

    def get(self, object_id: str) -> bytes | None:
        """Return a piece; b"" while it is not there, None if nobody has announced it."""
        with self.lock_store:
            if (entry := self.store.get(object_id)) is None:
                return None
            if entry.content or not entry.is_available:
                return entry.content
            file = (self._folder / object_id).open("rb")
        with file:  # it may be deleted meanwhile
            return file.read()

    def size(self, object_id: str) -> int:
        """Return the bytes of a piece; 0 while it is not there."""
        with self.lock_store:
            entry = self.store.get(object_id)
            if entry is None or not entry.is_available:
                return 0
            return len(entry.content) or (self._folder / object_id).stat().st_size

    def total(self, root: str) -> int:
        """Return the bytes that are there of a message and all its pieces."""
        with self.lock_store:
            if root not in self.store:
                return 0
            tree = self.get_object_tree(root)
            return sum(self.size(piece.object_id) for piece in iterate_object_tree(tree))

    def clear(self) -> None:
        """Forget all."""
        with self.lock_store:
            for name in list(self.store):
                del self.store[name]
            self.run_objects_mapping.clear()
