"""Files that every plant of a text federation must have the same: a vocabulary, or an encoder.

They are agreed on before the first round: the program writes their SHA-256 into the federation's
settings, and a plant whose own copy has another one says so and does not train. A vocabulary that
differs would give the same number to different words; a base that differs would make one plant's
adapters nonsense at another.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from common.config import FederationConfig, PlantConfig
from common.errors import ConfigError

#: Name of the backbone that is a Hugging Face model.
ENCODER = "encoder"
#: Its files that are read; pickled weights (`pytorch_model.bin`) are not.
SETTINGS, TOKENISER, WEIGHTS = "config.json", "tokenizer.json", "*.safetensors"


def settle(config: FederationConfig, *, base: Path) -> FederationConfig:
    """Return settings with whole paths, and the digest of what all plants must have the same.

    Parameters
    ----------
    base : folder that relative paths start from.

    Raises
    ------
    ConfigError
        If a file is missing, or the settings hold another digest.
    """
    text = config.text
    if config.backbone == ENCODER:
        folder = base / Path(text.encoder).expanduser()
        name = str(folder.resolve()) if text.encoder and folder.is_dir() else text.encoder
        text = text.model_copy(update={"encoder": name})
        encoder_folder(name, download=True)
    elif text.vocabulary:
        path = (base / Path(text.vocabulary).expanduser()).resolve()
        lines = read_vocabulary(path)
        text = text.model_copy(update={"vocabulary": str(path), "buckets": len(lines) + 1})
    settled = config.model_copy(update={"text": text})
    check(settled)
    text = text.model_copy(update={"digest": digest_of(settled)})
    return config.model_copy(update={"text": text})


def at_plant(config: FederationConfig, settings: PlantConfig) -> FederationConfig:
    """Return the federation's settings with the columns and files that this plant has instead."""
    own = {key: value for key, value in settings.text.model_dump().items() if value}
    return config.model_copy(update={"text": config.text.model_copy(update=own)})


def check(config: FederationConfig) -> None:
    """Refuse files that are not those of the federation.

    Raises
    ------
    ConfigError
        If one is missing, or has another digest.
    """
    wanted = config.text.digest
    if wanted and (found := digest_of(config)) != wanted:
        key = "encoder" if config.backbone == ENCODER else "vocabulary"
        raise ConfigError(
            f"text.{key} must be the federation's, with SHA-256 {wanted[:12]}, got {found[:12]} in "
            f"{getattr(config.text, key)}; copy it from the operator and name it in plant.toml"
        )


def digest_of(config: FederationConfig) -> str:
    """Return the SHA-256 of what must be the same; "" where n-grams are hashed.

    Of an encoder its settings and its tokeniser, and its weights where they never travel.
    """
    text = config.text
    if config.backbone != ENCODER:
        return _sha256(Path(text.vocabulary), key="vocabulary") if text.vocabulary else ""
    folder = encoder_folder(text.encoder)
    files = [folder / SETTINGS, folder / TOKENISER]
    files += sorted(folder.glob(WEIGHTS)) if text.tune == "lora" else []
    return hashlib.sha256(
        "".join(_sha256(path, key="encoder") for path in files).encode()
    ).hexdigest()


def encoder_folder(name: str, *, download: bool = False) -> Path:
    """Return the folder of an encoder: the named one, or where Hugging Face keeps its downloads.

    Parameters
    ----------
    name : folder, or name of a model.
    download : whether a model that is not here may be fetched; never by a centre's order.

    Raises
    ------
    ConfigError
        If it is not here, or lacks a file.
    """
    if not name:
        raise ConfigError(
            "text.encoder must name a folder or a Hugging Face model for the backbone encoder, got "
            'none; set it, or use backbone = "text_cnn"'
        )
    folder = Path(name) if Path(name).is_dir() else _from_hub(name, download=download)
    for wanted in (SETTINGS, TOKENISER, WEIGHTS):
        if not any(folder.glob(wanted)):
            raise ConfigError(
                f"text.encoder must have {SETTINGS}, {TOKENISER} and {WEIGHTS}, got {folder} "
                f"without {wanted}; save the model with safe_serialization and a fast tokeniser"
            )
    return folder


def read_vocabulary(path: Path) -> list[str]:
    """Read a vocabulary, one piece a line.

    Raises
    ------
    ConfigError
        If it cannot be read or is no text in UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise _unreadable(path, key="vocabulary", error=error) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"text.vocabulary must be text in UTF-8, got {path}: {error.reason} at byte "
            f"{error.start}; save it again as UTF-8"
        ) from error


def _from_hub(name: str, *, download: bool) -> Path:
    # transformers and what comes with it are an extra.
    try:
        from huggingface_hub import snapshot_download  # noqa: PLC0415
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError  # noqa: PLC0415
    except ImportError as error:
        raise missing_extra() from error
    try:
        found = snapshot_download(
            name,
            allow_patterns=[SETTINGS, TOKENISER, WEIGHTS],
            local_files_only=not download,
        )
    except (OSError, HFValidationError, HfHubHTTPError, ValueError) as error:
        raise ConfigError(
            f"text.encoder must be a folder, or a Hugging Face model that is here or can be "
            f"fetched, got {name!r}, which is neither; put the model into a "
            "folder and name that, at a plant in plant.toml"
        ) from error
    return Path(found)


def missing_extra() -> ConfigError:
    """Return the error of a machine without the extra for encoders."""
    return ConfigError(
        "the backbone encoder must have the extra text installed, got none; in the "
        "checkout, pip install '.[text]', or use backbone = \"text_cnn\""
    )


def _sha256(path: Path, *, key: str) -> str:
    try:
        stat = path.stat()
        return _digest(path, stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise _unreadable(path, key=key, error=error) from error


@lru_cache(maxsize=64)
def _digest(path: Path, size: int, modified: int) -> str:
    """Hash a file once, as long as it does not change."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unreadable(path: Path, *, key: str, error: OSError) -> ConfigError:
    return ConfigError(
        f"text.{key} must be readable, got {path}: {error.strerror}; check the path, "
        f"or name this plant's copy in plant.toml"
    )
