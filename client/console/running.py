"""``transferline-plant up``: the daemon in this process, the link below it as a user of its own."""

from __future__ import annotations

import os
from pathlib import Path

from client.console.logs import log_to_stderr
from client.daemon import Daemon
from client.layout import Account, account, open_settings
from client.link.files import LINK, hand_settings
from client.link.link import link_program
from client.link.zones import exposed, remedy
from common.config import PlantConfig
from common.errors import ConfigError
from common.supervise import Supervisor


def up(folder: Path, *, with_link: bool) -> None:
    """Run a plant until it is stopped.

    Parameters
    ----------
    with_link : start the link too, once the daemon answers; it is started again when it ends.

    Raises
    ------
    ConfigError
        If the link's user needs root, and this is not root, or can read what is not for it.
    IdentityError, StateError, EngineError
        As `client.daemon.Daemon.run`.
    """
    settings = open_settings(folder)
    log_to_stderr()
    if not with_link or settings.link.listen:
        if os.access(folder / LINK, os.W_OK):
            hand_settings(folder.absolute(), settings, link=_owner(folder / LINK))
        Daemon(folder).run()
        return
    link = link_account(settings)
    if link is not None:
        check_closed(folder, settings, link=link)
    # Before the daemon: gRPC, once it serves, has a word to say at every fork.
    program = link_program(folder, settings, link=link)
    with Supervisor() as supervisor:
        Daemon(folder, ready=lambda address: supervisor.start(program)).run()


def link_account(settings: PlantConfig) -> Account | None:
    """Return the user that the link is started as; None for that of this process.

    Raises
    ------
    ConfigError
        If there is no such user, or this process may not start anything as that user.
    """
    if not settings.link.user:
        return None
    found = account(settings.link.user)
    if os.geteuid() == found.uid:
        return None
    if os.geteuid() != 0:
        raise ConfigError(
            f"link.user needs root to start the link as {settings.link.user!r}, got user "
            f"{os.geteuid()}; start as root, or with --no-link and the link as a unit of its own"
        )
    return found


def check_closed(folder: Path, settings: PlantConfig, *, link: Account) -> None:
    """Return if the link's user can read nothing of the plant; tried as that user.

    Raises
    ------
    ConfigError
        Otherwise: what it can read, and how to close it.
    EngineError
        If it cannot be tried.
    """
    data = (folder / settings.data).resolve()
    if seen := exposed(folder, data=data, link=link):
        says, do = remedy(seen)
        raise ConfigError(
            f"link.user must read neither data nor keys, {settings.link.user} {says}; {do}"
        )


def _owner(folder: Path) -> Account | None:
    """Return whom a file in the link's folder is to be given to; only root can give."""
    status = folder.stat()
    return Account(uid=status.st_uid, gid=status.st_gid) if os.geteuid() == 0 else None
