"""Who may import whom: common <- client, common <- server, all <- simulation.

Read from the source, so that a late import inside a function counts too.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("common", "client", "server", "simulation")

#: What each layer may import of the four.
MAY_IMPORT = {
    "common": {"common"},
    "client": {"client", "common"},
    "server": {"server", "common"},
    "simulation": set(LAYERS),
}

#: Libraries that only these files or folders may import.
RESERVED = {
    "flwr": (
        "client/app.py",
        "client/link/entry.py",
        "client/link/signoff.py",
        "client/link/superexec_main.py",
        "client/link/supernode_main.py",
        "server/app.py",
        "server/fleet/",
        "server/engine/bounds.py",
        "server/engine/control.py",
        "server/engine/inner.py",
        "server/engine/objects.py",
        "server/engine/superlink.py",
        "simulation/",
    ),
    "grpc": (
        "client/link/bridge_client.py",
        "client/service.py",
        "client/app.py",
        "client/joining/line.py",
        "client/daemon.py",
        "client/link/link.py",
        "server/enrolment.py",
        "common/wire/",
    ),
    **dict.fromkeys(
        ("torch", "torchvision", "torchmetrics"),
        (
            "common/architecture.py",
            "common/backbone.py",
            "common/backbones/",
            "common/stages.py",
            "common/weights.py",
            "client/",
            "simulation/",
        ),
    ),
    "ray": ("simulation/",),
    **dict.fromkeys(("pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"), ()),
}

#: Files that must not reach a library, also not through other modules of ours.
FREE_OF = {
    "server/": ("torch", "torchvision", "torchmetrics"),
    "client/app.py": ("torch", "torchvision", "torchmetrics", "numpy", "pydantic", "cryptography"),
    "client/link/link.py": ("torch", "torchvision", "torchmetrics", "flwr"),
    "client/link/bridge_client.py": ("torch", "torchvision", "torchmetrics", "numpy", "pydantic"),
    "client/daemon.py": ("torch", "torchvision", "torchmetrics"),
}


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of everything that a file imports, wherever it does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            dots = "." * node.level
            for alias in node.names:
                yield node.lineno, f"{dots}{node.module or ''}.{alias.name}"
        elif isinstance(node, ast.Call) and node.args:
            called = ast.unparse(node.func)
            first = node.args[0]
            if called.endswith(("import_module", "__import__")) and isinstance(first, ast.Constant):
                yield node.lineno, str(first.value)


def unsafe_reads(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield (line, what) of calls that would unpickle a file."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        if called == "torch.load" and given.get("weights_only") != "True":
            yield node.lineno, "torch.load without weights_only=True"
        if given.get("allow_pickle") == "True":
            yield node.lineno, f"{called} with allow_pickle=True"


def reached(start: str, files: dict[str, ast.AST]) -> dict[str, str]:
    """Return the libraries a file imports, directly or through ours: {library: by which file}."""
    found: dict[str, str] = {}
    seen, waiting = {start}, [start]
    while waiting:
        file = waiting.pop()
        for _, name in imports(files[file]):
            parts = name.split(".")
            found.setdefault(parts[0], file)
            for length in range(1, len(parts) + 1):
                stem = "/".join(parts[:length])
                for path in (f"{stem}.py", f"{stem}/__init__.py"):
                    if path in files and path not in seen:
                        seen.add(path)
                        waiting.append(path)
    return found


def violations(root: Path) -> list[str]:
    """Return one line for each import that the layers forbid."""
    files = {
        path.relative_to(root).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for layer in LAYERS
        for path in sorted((root / layer).rglob("*.py"))
    }
    lines = []
    for file, tree in files.items():
        layer = file.split("/")[0]
        for line, name in imports(tree):
            top = name.split(".")[0]
            if name == "pickle.UnpicklingError":  # to catch it unpickles nothing
                continue
            if not top:
                lines.append(f"{file}:{line}: relative import {name}")
            elif top in LAYERS and top not in MAY_IMPORT[layer]:
                lines.append(f"{file}:{line}: {layer} must not import {top}")
            elif top in RESERVED and not file.startswith(RESERVED[top]):
                lines.append(f"{file}:{line}: must not import {top}")
        lines += [f"{file}:{line}: {what}" for line, what in unsafe_reads(tree)]
        for start, libraries in FREE_OF.items():
            if file.startswith(start):
                found = reached(file, files)
                lines += [f"{file}: reaches {x} by {found[x]}" for x in libraries if x in found]
    return lines


def test_the_layers_hold() -> None:
    assert violations(ROOT) == []


def test_what_is_reserved_for_a_file_names_one_that_there_is() -> None:
    named = {file for files in RESERVED.values() for file in files} | FREE_OF.keys()
    assert sorted(file for file in named if not (ROOT / file).exists()) == []


def test_every_folder_with_code_is_a_package() -> None:
    folders = {path.parent for layer in LAYERS for path in (ROOT / layer).rglob("*.py")}
    assert [
        str(folder) for folder in sorted(folders) if not (folder / "__init__.py").is_file()
    ] == []


@pytest.mark.parametrize(
    ("file", "source", "complaint"),
    [
        ("client/x.py", "import server.state.store", "client must not import server"),
        ("server/x.py", "def f():\n    from client import plant", "server must not import client"),
        ("common/x.py", "import simulation", "common must not import simulation"),
        (
            "server/x.py",
            "import importlib\nimportlib.import_module('client.plant')",
            "import client",
        ),
        ("client/plant.py", "from flwr.app import Message", "must not import flwr"),
        ("server/rounds.py", "import grpc.aio", "must not import grpc"),
        ("server/x.py", "import torch", "must not import torch"),
        ("common/update.py", "import torch.nn as nn", "must not import torch"),
        ("client/x.py", "import pickle", "must not import pickle"),
        ("client/x.py", "import torch\ntorch.load('a.pth')", "weights_only"),
        ("client/x.py", "import numpy as np\nnp.load('a.npz', allow_pickle=True)", "allow_pickle"),
        ("client/x.py", "from .plant import Plant", "relative import"),
        ("server/x.py", "from common.backbone import build", "reaches torch by common/backbone.py"),
    ],
)
def test_a_planted_violation_is_found(
    tmp_path: Path, file: str, source: str, complaint: str
) -> None:
    for layer in LAYERS:
        (tmp_path / layer).mkdir()
    (tmp_path / "common/backbone.py").write_text("import torch\n")
    (tmp_path / file).write_text(source)
    found = violations(tmp_path)
    assert len(found) == 1 or "reaches" in complaint or "torch" in complaint
    assert any(complaint in line for line in found)


def test_what_is_allowed_is_not_reported(tmp_path: Path) -> None:
    sources = {
        "common/backbone.py": "import torch\n",
        "client/training.py": "import torch\nfrom common.backbone import build\n",
        "server/app.py": "import flwr.serverapp\nfrom common.errors import DataError\n",
        "simulation/run.py": "import flwr, torch\nimport client.plant, server.federation\n",
    }
    for name, text in sources.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert violations(tmp_path) == []


def test_messages_name_extras_that_there_are() -> None:
    there = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {
        extra: path.relative_to(ROOT).as_posix()
        for layer in LAYERS
        for path in (ROOT / layer).rglob("*.py")
        for extra in re.findall(r"'\.\[(\w+)\]'", path.read_text(encoding="utf-8"))
    }
    assert "tables" in named
    assert not {extra: path for extra, path in named.items() if extra not in there}
