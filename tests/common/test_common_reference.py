from __future__ import annotations

from pathlib import Path

from common.config import FederationConfig, PlantConfig
from common.reference import configuration, main
from common.toml import keys

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"


def test_the_reference_is_up_to_date() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == configuration(), (
        "docs/configuration.md differs from the models; write it with python -m common.reference"
    )


def test_every_key_is_documented() -> None:
    text = configuration()
    for model in (FederationConfig, PlantConfig):
        for key, field in keys(model):
            assert field.description, f"{key} has no description"
            assert f"| `{key.rsplit('.', 1)[-1]}` | " in text


def test_main_writes_it(tmp_path: Path) -> None:
    target = tmp_path / "docs" / "configuration.md"
    main(target)
    assert target.read_text(encoding="utf-8") == configuration()
