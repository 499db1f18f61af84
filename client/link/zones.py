"""Whether the link's user can reach what the link must not: tried as that user, not reckoned.

Covered: settings, keys, personal store, ledger and data, by files' modes, owners, groups and
access lists, as ``test -r`` sees them under the link's user. Not covered: what the link's user
could reach as somebody else (sudo, a group joined later), and other machines.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from client.desk.ledger import FILE as LEDGER
from client.layout import CLOSED, FEDERATION, SETTINGS, Account
from common.config import LinkSection
from common.errors import EngineError

#: Said wherever it is so.
SHARED = "data and link share a user: code that a server ships could read the data"

#: Seconds that the kernel may take to say whether a file can be read.
PATIENCE = 10.0


def is_shared(settings: LinkSection) -> bool:
    """Whether data and link share a user."""
    return not settings.listen and not settings.user


def exposed(folder: Path, *, data: Path, link: Account) -> list[Path]:
    """Return what of a plant the link's user could read; empty is as it should be.

    Raises
    ------
    EngineError
        If it cannot be tried, because this process is not root.
    """
    own = [folder / name for name in (SETTINGS, FEDERATION, LEDGER, *CLOSED)]
    inside = [path for name in CLOSED for path in _first_files(folder / name)]
    found = [*own, *inside, data, *_first_files(data)]
    return [path for path in found if path.exists() and readable(path, by=link)]


def remedy(seen: Sequence[Path]) -> tuple[str, str]:
    """Return what to say of what is `exposed`, and what to do."""
    more = f" and {len(seen) - 1} more" if len(seen) > 1 else ""
    return (
        f"can read {seen[0]}{more}",
        f"close it: chmod -R o-rwx {seen[0]}, and see its group",
    )


def readable(path: Path, *, by: Account) -> bool:
    """Whether a user can read a file or list a folder.

    Raises
    ------
    EngineError
        If this process may not act as that user.
    """
    program = shutil.which("test") or "/usr/bin/test"
    try:
        done = subprocess.run(
            [program, "-r", str(path.absolute())],
            user=by.uid,
            group=by.gid,
            extra_groups=_groups(by),
            cwd="/",
            timeout=PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(f"cannot act as user {by.uid}: {error}; start as root") from error
    return done.returncode == 0


def _first_files(folder: Path, *, depth: int = 3) -> Sequence[Path]:
    """Return one file a level: where the modes are odd, it is mostly for all of them."""
    found = []
    try:
        for _ in range(depth):
            entries = sorted(folder.iterdir())
            found += [entry for entry in entries if entry.is_file()][:1]
            folder = next(entry for entry in entries if entry.is_dir())
            found.append(folder)
    except (StopIteration, OSError):
        pass
    return found


def _groups(user: Account) -> list[int]:
    """Return the groups that the system would give the user, as a service would have them."""
    try:
        return os.getgrouplist(pwd.getpwuid(user.uid).pw_name, user.gid)
    except KeyError:
        return []
