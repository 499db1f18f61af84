"""The inner key: who holds it may talk to SuperLink, and nobody else on the centre's machine.

SuperLink serves the Fleet, Runtime and Control APIs on one port of loopback, and Control has no
authentication: whoever reaches it can submit code to every plant. Loopback belongs to all users of
a machine. So SuperLink takes only connections that show this key's certificate. The edge has it,
`up` has it, and so have the two programs that SuperLink starts, which are Flower's own but for that
(`main`, by name from ``bin/`` of the centre's folder).

Covered: other users of the machine, and whatever else on it can be made to send a request. Not
covered: root, the centre's own user, and a centre without nginx, whose SuperLink serves plants of
this machine directly and takes anybody: for trials, and `up` says so.
"""

from __future__ import annotations

import os
import shlex
import ssl
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from flwr.supercore.protobuf.client import ProtobufClient

from common.errors import IdentityError
from common.files import write_atomic
from common.pki.pinned import pinned

VARIABLE = "TRANSFERLINE_INNER"  #: environment: the key's file, for what SuperLink starts
NAME = "transferline-inner"

#: What SuperLink starts, by name, and where Flower has it.
PROGRAMS = {
    "flower-superexec": "flwr.supercore.cli:flower_superexec",
    "flwr-serverapp": "flwr.superlink.cli:flwr_serverapp",
}


@dataclass(frozen=True, kw_only=True)
class Inner:
    """The files of the inner key, PEM."""

    key: Path

    @property
    def certificate(self) -> Path:
        return self.key.with_suffix(".pem")

    @classmethod
    def of(cls, pki: Path) -> Inner:
        """Return the key of a centre; made where there is none.

        Raises
        ------
        StateError
            If the folder cannot be written.
        """
        inner = cls(key=pki / "inner.key")
        if not (inner.key.exists() and inner.certificate.exists()):
            key, certificate = pinned(NAME)
            write_atomic(inner.key, key.encode(), mode=0o600)
            write_atomic(inner.certificate, certificate.encode(), mode=0o600)
        return inner

    def show_in(self, context: ssl.SSLContext) -> None:
        """Have connections show the certificate.

        Raises
        ------
        IdentityError
            If the files are damaged.
        """
        try:
            context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            raise IdentityError(
                f"{self.key} must hold the inner key, got: {error}; remove it and start `up` again"
            ) from error


def write_programs(folder: Path) -> None:
    """Write what SuperLink starts by name to a folder, with the Python that this process runs."""
    folder.mkdir(mode=0o700, exist_ok=True)
    for name in PROGRAMS:
        script, python = folder / name, shlex.quote(sys.executable)
        call = f"{python} -P -m server.engine.inner {name}"
        script.write_text(f'#!/bin/sh\nexec {call} "$@"\n', encoding="utf-8")
        script.chmod(0o700)


def showing(init: Callable[..., None], inner: Inner) -> Callable[..., None]:
    """Return the ``__init__`` of Flower's HTTP client, with the certificate."""

    def inited(self: ProtobufClient, base_url: str, *, verify: Any = True, **options: Any) -> None:
        if base_url.startswith("https:"):
            if not isinstance(verify, ssl.SSLContext):
                verify = ssl.create_default_context(
                    cafile=verify if isinstance(verify, str) else None
                )
            inner.show_in(verify)
        init(self, base_url, verify=verify, **options)

    return inited


def main(name: str, *arguments: str) -> None:
    """Run one of `PROGRAMS` with the key."""
    init = "__init__"
    inner = Inner(key=Path(os.environ[VARIABLE]))
    setattr(ProtobufClient, init, showing(getattr(ProtobufClient, init), inner))
    sys.argv = [name, *arguments]
    resolve_name(PROGRAMS[name])()


if __name__ == "__main__":
    main(*sys.argv[1:])
