"""centre.toml: where a centre listens, and where it keeps its state."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from common.config.section import Section
from common.toml import read_toml, validate

PORTS = range(1, 65536)


def check_address(text: str) -> str:
    """Return an address that is ``host:port``.

    Raises
    ------
    ValueError
        If it is none.
    """
    found = re.fullmatch(r"[^:/\s]+:(\d{1,5})", text)
    if found is None or int(found[1]) not in PORTS:
        raise ValueError(
            f"must be host:port with a port from 1 to 65535, such as centre.example:8443, got "
            f'"{text}"'
        )
    return text


Address = Annotated[str, AfterValidator(check_address)]


class CentreConfig(Section):
    """centre.toml."""

    name: str = Field(min_length=1, max_length=64, description="Name of the federation.")
    address: Address = Field(
        description="`host:port` that plants reach the TLS edge at; the certificate is for it."
    )
    enrolment: Address = Field(description="`host:port` that plants reach enrolment at.")
    bind: str = Field("0.0.0.0", description="Address of this machine that both listen on.")
    metrics: str = Field(
        "127.0.0.1:9464",
        description="`host:port` or `unix:PATH` of the Prometheus metrics; empty: none.",
    )
    database: str = Field(
        "",
        description="SQLAlchemy URL of the state; empty means SQLite in `state.db`.",
        examples=["postgresql+psycopg://transferline@db.example/transferline"],
    )
    certificate_days: int = Field(
        30, ge=1, le=825, description="Days that a plant's certificate is valid."
    )
    attempts_per_minute: int = Field(
        30, ge=1, description="Enrolment requests that one address may make in a minute."
    )
    nginx: str = Field("nginx", min_length=1, description="The nginx to start as TLS edge.")


def load_centre(path: Path) -> CentreConfig:
    """Read centre.toml.

    Raises
    ------
    ConfigError
        If the file is missing or not TOML; or with one line for each wrong key.
    """
    values = read_toml(path, hint="write one with `transferline-server init`")
    return validate(CentreConfig, values, name=str(path))
