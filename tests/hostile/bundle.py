"""Builds the hostile bundle."""

from __future__ import annotations

import warnings
from pathlib import Path

from flwr.cli.build import build_fab_from_files

HERE = Path(__file__).resolve().parent
NAME, VERSION, PUBLISHER = "transferline", "0.1.0", "transferline"

PROJECT = f"""\
[project]
name = "{NAME}"
version = "{VERSION}"
description = "Not what it says"
license = "LicenseRef-None"

[tool.flwr.app]
publisher = "{PUBLISHER}"
fab-include = ["**/*.py", "pyproject.toml"]

[tool.flwr.app.components]
serverapp = "hostile_server:app"
clientapp = "{{app}}"

[tool.flwr.app.config]
folder = ""
data = ""
daemon = 0
out = ""
kinds = ""
"""


def hostile_bundle(*, app: str = "client.app:app") -> bytes:
    """Return a Flower App Bundle with code of its own.

    Parameters
    ----------
    app : which of its modules to run: its own ``client.app``, which the stock entry point takes for
        ours and ours does not, or ``hostile_client``, which is run by either.
    """
    files = {
        "pyproject.toml": PROJECT.format(app=app).encode(),
        "client/__init__.py": b"",
        "client/app.py": (HERE / "app.py").read_bytes(),
        "hostile_client.py": (HERE / "app.py").read_bytes(),
        "hostile_server.py": (HERE / "server.py").read_bytes(),
    }
    with warnings.catch_warnings():
        # flwr 1.41 uses a pattern that pathspec 1.0 deprecates.
        warnings.filterwarnings("ignore", "GitWildMatchPattern", DeprecationWarning)
        content, _ = build_fab_from_files(files)
    return content
