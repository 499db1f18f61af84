"""A plant with secrets everywhere and the real daemon, for whoever attacks it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from client.layout import Account, hand_over, lay_out
from common.pki import Authority, make_identity, make_link_key, make_request
from tests.other_user import ROOT, python_for_all

SECRET = "nobody-else-may-read-this"
PLANT_TOML = """\
name = "plant-a"
data = "{data}"
good = "{secret}"
[centre]
federation = "acme"
fleet = "{fleet}"
enrolment = "127.0.0.1:2"
[link]
user = "{user}"
"""


@dataclass(frozen=True, kw_only=True)
class Site:
    """A plant with secrets everywhere, and its daemon."""

    folder: Path
    data: Path
    daemon: int
    python: Path
    authority: Authority
    link_key: str


@contextmanager
def site(*, user: str, fleet: str = "127.0.0.1:1") -> Iterator[Site]:
    """Make a plant and run its daemon.

    Parameters
    ----------
    user : of the link, by number; "" for none of its own.
    fleet : the centre's address.
    """
    top = Path(tempfile.mkdtemp(prefix="tl-"))
    top.chmod(0o755)
    try:
        folder, data = top / "plant", top / "data"
        authority = Authority.create(top / "pki", federation="acme")
        link_key = fill(folder, data, authority=authority, user=user, fleet=fleet)
        code = "import sys; from pathlib import Path; from client.daemon import Daemon; \
Daemon(Path(sys.argv[1]), ready=lambda address: print(address, flush=True)).run()"
        with subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", code, str(folder)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "SECRET": SECRET},
        ) as daemon:
            try:
                assert daemon.stdout is not None
                assert daemon.stdout.readline().startswith("unix:")
                python = python_for_all(top / "python")
                yield Site(
                    folder=folder, data=data, daemon=daemon.pid, python=python,
                    authority=authority, link_key=link_key,
                )  # fmt: skip
                assert daemon.poll() is None, "the daemon was ended"
            finally:
                daemon.terminate()
    finally:
        shutil.rmtree(top)


def fill(folder: Path, data: Path, *, authority: Authority, user: str, fleet: str) -> str:
    """Write a plant's files, each with a secret in it; return the public key of its link."""
    lay_out(folder, link=None)
    settings = PLANT_TOML.format(data=data, secret=SECRET, user=user, fleet=fleet)
    for path, text in (
        (folder / "plant.toml", settings),
        (folder / "lock", ""),
        (folder / "personal/1/personal.safetensors", SECRET),
        (folder / "outbox/reply.json", SECRET),
        (folder / "cache/images", SECRET),
        (data / "good/0.png", SECRET),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o600)
    data.chmod(0o700)
    now = datetime.now(UTC)
    key = make_identity(folder / "identity")
    request = make_request(key, name="plant-a")
    pem = authority.sign_request(request, name="plant-a", days=1, at=now)
    (folder / "identity/identity.pem").write_text(pem)
    (folder / "identity/ca.pem").write_text(authority.pem)
    (folder / "link/ca.pem").write_text(authority.pem)
    link_key = make_link_key(folder / "link")
    if user:
        hand_over(folder / "link", to=Account(uid=int(user), gid=int(user)))
    return link_key
