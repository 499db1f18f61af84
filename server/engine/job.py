"""What a run folder must hold before a federation can run in it: the job.

::

    run.json             run, config, names of the plants and of the tensors that travel
    source.safetensors   release 0: the source weights

The centre works on flat vectors and builds no network, so whoever prepares the folder says which
tensors travel and brings the source weights.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.config import FederationConfig
from common.errors import StateError
from common.files import load_tensors, read_json, save_tensors, write_json
from common.orders import Release
from common.update import Schema

RUN = "run.json"
SOURCE = "source.safetensors"
ERROR = "error.txt"  #: why the last attempt failed, one line


class _Fields(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    version: int = Field(1, ge=1, le=1)
    run: str = Field(min_length=1, max_length=200)
    plants: list[str]
    travelling: list[str]
    source: str
    config: FederationConfig


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run, ready to start.

    Attributes
    ----------
    run : its name; with the round it identifies an order.
    plants : names of the plants that must be connected before round 1.
    travelling : names of the tensors that plants send back.
    source : release 0.
    """

    run: str
    plants: tuple[str, ...]
    travelling: frozenset[str]
    source: Release
    config: FederationConfig

    def write(self, home: Path) -> None:
        """Write the job into a run folder; ``run.json`` comes last and makes it whole.

        Raises
        ------
        StateError
            If the folder cannot be written.
        """
        schema = self.source.schema
        save_tensors(
            home / SOURCE, schema.unflatten(self.source.vector), {"schema": schema.to_json()}
        )
        fields = {
            "version": 1,
            "run": self.run,
            "plants": list(self.plants),
            "travelling": sorted(self.travelling),
            "source": self.source.hash,
            "config": self.config.model_dump(mode="json"),
        }
        write_json(home / RUN, fields)

    @classmethod
    def read(cls, home: Path) -> Job:
        """Read the job of a run folder.

        Raises
        ------
        StateError
            If the folder is not prepared, or damaged.
        """
        if not (home / RUN).is_file():
            raise StateError(
                f"home must be a prepared run folder, got {home}, which has no {RUN}; prepare one "
                "with transferline-sim run"
            )
        try:
            fields = _Fields.model_validate_json(json.dumps(read_json(home / RUN)))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"]) or "the file"
            raise StateError(f"{home / RUN} is damaged: {place}: {first['msg']}") from error
        return cls(
            run=fields.run,
            plants=tuple(fields.plants),
            travelling=frozenset(fields.travelling),
            source=read_source(home / SOURCE, expected=fields.source),
            config=fields.config,
        )


def read_source(path: Path, *, expected: str) -> Release:
    """Read source weights and verify their hash.

    Raises
    ------
    StateError
        If the file is missing, or is not what was written.
    """
    tensors, metadata = load_tensors(path)
    try:
        schema = Schema.from_json(metadata["schema"])
    except (KeyError, TypeError, ValueError) as error:
        raise StateError(f"{path} is damaged: it has no schema; start over with --out") from error
    release = Release(number=0, schema=schema, vector=schema.flatten(tensors))
    if release.hash != expected:
        raise StateError(f"{path} is damaged: its hash is not that of {RUN}; start over with --out")
    return release
