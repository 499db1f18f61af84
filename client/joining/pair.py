"""The pair of certificates by which a daemon and a link in two zones know each other.

Two self-signed certificates for TLS 1.3 on the wire between the zones of one plant, each pinned at
the other end; no CA stands above them, so neither the centre nor another plant can step in between.
The daemon makes both when it first listens on TCP. The link's half lies in ``link/`` with its other
key, and moves with that folder to the link's machine::

    identity/  daemon.key  daemon.pem  link.pem       what the daemon shows, and what it expects
    link/      tls.key     tls.pem     daemon.pem     what the link shows, and what it expects

Covered: whoever has neither key can neither call the daemon nor pose as it. Not covered: a stolen
``link/``; remove ``identity/link.pem``, start the daemon, and move the new folder.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from client.link.bridge_client import CERTIFICATE as LINK_CERTIFICATE
from client.link.bridge_client import DAEMON, PEER
from client.link.bridge_client import KEY as LINK_KEY
from common.errors import IdentityError
from common.files import write_atomic
from common.pki.pinned import pinned

LINK = "transferline-link"
OURS = ("daemon.key", "daemon.pem", "link.pem")  #: in identity/


def make_pair(folder: Path, *, owner: tuple[int, int] | None = None) -> None:
    """Make the pair in a plant's folder, unless it is there.

    Parameters
    ----------
    owner : user and group that the link's half is for; None for those of this process.

    Raises
    ------
    StateError
        If the folder cannot be written.
    """
    ours, theirs = folder / "identity", folder / "link"
    if all((ours / name).exists() for name in OURS):
        return
    secret, daemon = pinned(DAEMON)
    link_secret, link = pinned(LINK)
    for path, text in (
        (theirs / LINK_KEY, link_secret),
        (theirs / LINK_CERTIFICATE, link),
        (theirs / PEER, daemon),
    ):
        write_atomic(path, text.encode(), mode=0o600)
        if owner is not None:
            os.chown(path, *owner, follow_symlinks=False)
    for name, text in zip(OURS, (secret, daemon, link), strict=True):
        write_atomic(ours / name, text.encode(), mode=0o600)


class Half(NamedTuple):
    """What one end shows, and what it expects; PEM."""

    key: bytes
    certificate: bytes
    pinned: bytes

    def __repr__(self) -> str:
        return "Half(...)"


def daemon_half(folder: Path) -> Half:
    """Return what the daemon shows and demands on TCP.

    Raises
    ------
    IdentityError
        If a file is missing.
    """
    identity = folder / "identity"
    try:
        return Half(*((identity / name).read_bytes() for name in OURS))
    except OSError as error:
        raise IdentityError(
            f"{error.filename} must be there for link.listen, cannot read it: {error.strerror}; "
            "remove identity/link.pem and start again"
        ) from error
