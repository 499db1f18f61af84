"""What lies in ``link/`` for the link to read, and what it writes there.

::

    link.json        where centre and daemon are; written by `up`, for plant.toml is closed to it
    link.key, ca.pem of the plant's node, and the CA that the edge's certificate comes from
    status.json      how the connection stands; written by the link
    supernode.log    what flower-supernode and the bridge say
    bin/, flwr/      see `client.link.link`

Covered: the folder belongs to the link's user, so whoever reads ``status.json`` as another user
takes it for what it is, a claim; it is bounded and checked.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import ConfigError, StateError
from common.files import write_atomic

if TYPE_CHECKING:  # the link does without pydantic
    from client.layout import Account
    from common.config import PlantConfig

LINK = "link"
SETTINGS, STATUS, LOG = "link.json", "status.json", "supernode.log"
AUTHORITY = "ca.pem"
LIMIT = 64 * 1024  #: bytes of either file


@dataclass(frozen=True, kw_only=True)
class LinkSettings:
    """``link.json``.

    Attributes
    ----------
    plant : its name.
    fleet, enrolment : addresses of the centre, ``host:port``.
    daemon : ``unix:PATH`` or ``host:port``; `client.link.bridge_client.VARIABLE` goes before it.
    """

    plant: str
    fleet: str
    enrolment: str
    daemon: str


@dataclass(frozen=True, kw_only=True)
class LinkStatus:
    """``status.json``.

    Attributes
    ----------
    state : a `client.link.supernode.State`; of a link that was killed, what it was then.
    since : ISO 8601, UTC.
    node : Flower's id of the node, "" until it is known.
    restarts : of the SuperNode, since the link was started.
    """

    state: str
    since: str
    node: str = ""
    restarts: int = 0


def hand_settings(folder: Path, plant: PlantConfig, *, link: Account | None) -> None:
    """Write what the link must know into its folder, readable for its user.

    Parameters
    ----------
    folder : the plant's.
    link : whom the file is for; None for the user of this process.

    Raises
    ------
    ConfigError
        If the plant has not joined a federation.
    StateError
        If the folder cannot be written.
    """
    centre = plant.centre
    if not centre.fleet or not centre.enrolment:
        raise ConfigError(
            "centre must be set in plant.toml, got nothing; join a federation with "
            "`transferline-plant join`"
        )
    daemon = plant.link.listen or f"unix:{(folder / plant.link.socket).absolute()}"
    settings = LinkSettings(
        plant=plant.name, fleet=centre.fleet, enrolment=centre.enrolment, daemon=daemon
    )
    path = folder / LINK / SETTINGS
    write_atomic(path, json.dumps(asdict(settings), indent=2).encode(), mode=0o600)
    if link is not None:
        os.chown(path, link.uid, link.gid, follow_symlinks=False)


def read_settings(folder: Path) -> LinkSettings:
    """Read ``link.json`` of the link's folder.

    Raises
    ------
    StateError
        If it is missing or damaged.
    """
    path = folder / SETTINGS
    try:
        fields = json.loads(_read(path))
        return LinkSettings(**{name: str(fields[name]) for name in LinkSettings.__annotations__})
    except OSError as error:
        raise StateError(
            f"cannot read {path}: {error.strerror}; `transferline-plant up` writes it at the plant"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise StateError(f"{path} is damaged; start `transferline-plant up` again") from error


def write_status(folder: Path, status: LinkStatus) -> None:
    """Write ``status.json`` into the link's folder."""
    write_atomic(folder / STATUS, json.dumps(asdict(status)).encode(), mode=0o600)


def read_status(folder: Path) -> LinkStatus | None:
    """Return what the link says of itself; None where it says nothing that makes sense.

    Parameters
    ----------
    folder : the plant's.
    """
    return own_status(folder / LINK)


def own_status(folder: Path) -> LinkStatus | None:
    """Return what the link said of itself before; as `read_status`, for the link's folder."""
    try:
        fields = json.loads(_read(folder / STATUS))
        return LinkStatus(
            state=str(fields["state"])[:20],
            since=str(fields["since"])[:40],
            node=str(fields["node"])[:20],
            restarts=int(fields["restarts"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _read(path: Path) -> bytes:
    """Read a small file, not through a link: its folder may be another user's."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as file:
        return file.read(LIMIT)
