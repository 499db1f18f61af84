"""What is shipped is a pointer and nothing else."""

from __future__ import annotations

import io
import tomllib
import zipfile
from pathlib import Path

import pytest

from common.errors import EngineError
from server.engine.control import RUN_CONFIG, Control, bundle

pytestmark = pytest.mark.filterwarnings(
    # flwr 1.41 uses a name that its pathspec deprecates.
    "ignore:GitWildMatchPattern:DeprecationWarning"
)

ROOT = Path(__file__).resolve().parents[2]


def shipped() -> tuple[list[str], dict[str, object]]:
    with zipfile.ZipFile(io.BytesIO(bundle())) as archive:
        files = archive.namelist()
        project = tomllib.loads(archive.read("pyproject.toml").decode())
    return files, project["tool"]["flwr"]["app"]


def test_the_bundle_holds_one_file_and_its_index() -> None:
    files, app = shipped()
    assert sorted(files) == [".info/CONTENT", "pyproject.toml"]
    assert app["components"] == {"serverapp": "server.app:app", "clientapp": "client.app:app"}
    assert app["config"] == RUN_CONFIG


def test_the_bundle_is_the_same_every_time() -> None:
    assert bundle() == bundle()


def test_the_checkout_declares_the_same_app() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    mine, (_, theirs) = project["tool"]["flwr"]["app"], shipped()
    assert mine["components"] == theirs["components"]
    assert mine["fab-include"] == theirs["fab-include"]
    assert mine["config"].keys() == RUN_CONFIG.keys()


def test_nobody_at_the_address_is_one_clear_line() -> None:
    with Control("127.0.0.1:1") as control:
        assert not control.is_up()
        with pytest.raises(EngineError, match=r"SuperLink at 127\.0\.0\.1:1") as caught:
            control.start({})
        with pytest.raises(EngineError, match="does not answer"):
            control.status(1)
        assert list(control.output(1)) == []
        control.stop(1)
    assert "\n" not in str(caught.value)
