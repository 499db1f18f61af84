"""A plant's folder: what lies where, who may read it, and what the federation said at joining.

::

    plant.toml        settings; written last: a folder without it holds no plant yet
    federation.json   the federation's settings as they were at joining
    identity/         identity.key, identity.pem, ca.pem
    personal/ outbox/ cache/ releases/ ledger.db    the plant's own
    link/             link.key, link.pub, ca.pem, flwr/, bin/, plant.sock: what the link needs

Covered: all but ``link/`` is closed to every other user, and ``link/`` belongs to the link's user
when there is one. The folder itself may be passed through (0711), so that the link's user reaches
``link/`` and can list nothing. Not covered: the folders above, and the data, which has owners of
its own; ``transferline-plant check`` tries as the link's user.
"""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from client.identity import IDENTITY
from client.link.files import LINK
from common.config import FederationConfig, PlantConfig, load_plant
from common.errors import ConfigError, StateError
from common.files import unwritable, write_atomic

SETTINGS = "plant.toml"
FEDERATION = "federation.json"
CENTRE = "centre.toml"  #: by which a centre's folder is known
LOCK = "lock"  #: held by the daemon while it runs

#: Folders that nobody else may look into.
CLOSED = (IDENTITY, "personal", "outbox", "cache", "releases")
PASSAGE = 0o711
PRIVATE = 0o700
SECRET = 0o600


@dataclass(frozen=True, kw_only=True)
class Account:
    """A user of this machine, by number."""

    uid: int
    gid: int


def account(user: str) -> Account:
    """Look up a user by name or number; a number needs no entry in the list of users.

    Raises
    ------
    ConfigError
        If there is no such user, or it is root, which no file mode stops.
    """
    try:
        entry = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
        found = Account(uid=entry.pw_uid, gid=entry.pw_gid)
    except (KeyError, OverflowError) as error:
        if not user.isdecimal():
            raise ConfigError(
                f"link.user must be a user of this machine, got {user!r}; make one: "
                f"useradd --system {user}"
            ) from error
        found = Account(uid=int(user), gid=int(user))
    if found.uid == 0:
        raise ConfigError(f"link.user must not be root, got {user!r}; choose one without rights")
    return found


def holds_plant(folder: Path) -> bool:
    """Whether a folder is that of a plant.

    Raises
    ------
    ConfigError
        If this user may not look, or it is that of a centre.
    """
    try:
        if (folder / SETTINGS).exists():
            return True
        if (folder / CENTRE).exists():
            raise ConfigError(
                f"{folder} must be the folder of a plant, got a centre's; use "
                "`transferline-server` for that one"
            )
        return False
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be looked into: {error.strerror}; use the plant's own user, or root"
        ) from error


def open_settings(folder: Path) -> PlantConfig:
    """Read the settings of a plant's folder.

    Raises
    ------
    ConfigError
        If the folder holds no plant, or plant.toml is wrong.
    """
    if not holds_plant(folder):
        raise ConfigError(
            f"{folder} must be the folder of a plant, got one without {SETTINGS}; make one with "
            "`transferline-plant join`"
        )
    return load_plant(folder / SETTINGS)


def federation_of(folder: Path) -> FederationConfig:
    """Read the federation's settings as they were when the plant joined.

    Raises
    ------
    StateError
        If they are missing or damaged.
    """
    path = folder / FEDERATION
    try:
        return FederationConfig.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise StateError(
            f"{path} must be there, which `transferline-plant join` writes, got none; a simulated "
            "plant has none: join a federation first"
        ) from error
    except OSError as error:
        raise StateError(
            f"cannot read {path}: {error.strerror}; it is written by `transferline-plant join`"
        ) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "file"
        raise StateError(
            f"{path} is damaged or of another version: {where}: {first['msg']}; join again with a "
            "new token"
        ) from error


def lay_out(folder: Path, *, link: Account | None) -> None:
    """Make the folders of a plant with their modes; those that are there get the right ones.

    Parameters
    ----------
    link : whom ``link/`` belongs to; None for the user of this process.

    Raises
    ------
    StateError
        If the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(PASSAGE)
        for name in (*CLOSED, LINK):
            (folder / name).mkdir(mode=PRIVATE, exist_ok=True)
            (folder / name).chmod(PRIVATE)
    except OSError as error:
        raise unwritable(folder, error) from error
    if link is not None:
        hand_over(folder / LINK, to=link)


def hand_over(folder: Path, *, to: Account) -> None:
    """Give a folder and all in it to a user; links in it are not followed.

    Raises
    ------
    StateError
        If this process may not, because it is not root.
    """
    try:
        os.chown(folder, to.uid, to.gid, follow_symlinks=False)
        # By handles: who owns the folder could put a link in the place of one inside meanwhile.
        for _, folders, files, handle in os.fwalk(folder, follow_symlinks=False):
            for name in (*folders, *files):
                os.chown(name, to.uid, to.gid, dir_fd=handle, follow_symlinks=False)
    except OSError as error:
        raise StateError(
            f"cannot give {folder} to user {to.uid}: {error.strerror}; start as root, or leave "
            "--link-user out for a trial"
        ) from error


def keep(path: Path, text: str) -> None:
    """Write a file of the plant's own, whole or not at all, closed to others."""
    write_atomic(path, text.encode(), mode=SECRET)
