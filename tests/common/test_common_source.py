"""The source of a run, made by a process of its own as the centre does it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from common.config import FederationConfig
from common.errors import ConfigError
from common.files import load_tensors
from common.orders import Release
from common.source import start
from common.update import Schema

SETTINGS = 'backbone = "squeezenet1_1"\nweights = "none"\nimage_size = 32\n'


def make(folder: Path, settings: str, *more: str) -> subprocess.CompletedProcess[str]:
    file = folder / "federation.toml"
    file.write_text(settings)
    return subprocess.run(
        [sys.executable, "-m", "common.source", str(file), str(folder / "out"), *more],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(("method", "heads"), [("fedper", 0), ("fedavg", 2)])
def test_release_zero_and_what_travels(method: str, heads: int) -> None:
    classes = ("bad", "good", "odd")
    config = FederationConfig(
        backbone="shufflenet_v2_x0_5", weights="none", method=method, classes=classes  # type: ignore[arg-type]
    )  # fmt: skip
    begun = start(config, base=Path())
    names = begun.release.schema.shapes
    assert len([name for name in names if name.startswith("head.")]) == heads
    assert begun.travelling == names.keys()
    assert begun.config.mean is not None
    assert start(config, base=Path()).release.hash == begun.release.hash


def test_normalisation_stays_where_the_method_keeps_it() -> None:
    config = FederationConfig(backbone="shufflenet_v2_x0_5", weights="none", method="fedbn")
    begun = start(config, base=Path())
    assert begun.travelling < begun.release.schema.shapes.keys()


def test_a_shared_head_needs_classes() -> None:
    with pytest.raises(ConfigError, match="classes must name the classes of every plant"):
        start(FederationConfig(method="fedavg"), base=Path())


def test_the_process_writes_what_the_function_makes(tmp_path: Path) -> None:
    done = make(tmp_path, SETTINGS)
    assert (done.returncode, done.stdout) == (0, "")
    facts = json.loads((tmp_path / "out/source.json").read_text())
    tensors, metadata = load_tensors(tmp_path / "out/source.safetensors")
    schema = Schema.from_json(metadata["schema"])
    release = Release(number=0, schema=schema, vector=schema.flatten(tensors))
    config = FederationConfig(backbone="squeezenet1_1", weights="none", image_size=32)
    begun = start(config, base=tmp_path)
    assert release.hash == begun.release.hash == facts["hash"]
    assert frozenset(facts["travelling"]) == begun.travelling
    assert facts["config"] == begun.config.model_dump(mode="json")


def test_a_layout_needs_no_weights(tmp_path: Path) -> None:
    missing = SETTINGS.replace('"none"', '"nowhere.safetensors"')
    assert make(tmp_path, missing, "--layout").returncode == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["source.json"]
    done = make(tmp_path, missing)
    assert done.returncode == 1
    assert done.stdout.startswith("weights must be ")
    assert "Traceback" not in done.stderr
