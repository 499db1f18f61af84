"""A run, from federation.toml to a row in the queue.

The settings are read and checked, and what the run starts from is chosen: the release in force, if
it is of the same backbone and the settings ask for the same source weights as the run before; the
source weights otherwise. Weights are read, and networks built, by a process of its own
(`common.source`), because the centre knows no torch. The job is written to ``runs/<run>/``, and
the row comes last: `up` finds it within a second.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.config import FederationConfig, load_federation
from common.errors import ConfigError, EngineError
from common.files import read_json, write_atomic
from common.home import python_path
from common.orders import Release
from server.centre import Centre
from server.engine.event_log import FILE as EVENTS
from server.engine.job import SOURCE, Job, read_source
from server.state.tables import ACTIVE, RunRow, timestamp, utcnow
from server.state.tenure import newest_release

#: Settings that say which source weights a run wants, and for what network.
ORIGIN = ("backbone", "weights", "image_size", "mean", "std", "classes")


#: What federation.toml says of plants in simulation alone: a real one has its plant.toml.
SIMULATED = ("labels_per_class", "test_per_class", "plants")


@dataclass(frozen=True, kw_only=True)
class Launched:
    """A run in the queue.

    Attributes
    ----------
    origin : what it starts from, in words.
    """

    run: str
    origin: str
    config: FederationConfig

    @property
    def without_effect(self) -> list[str]:
        """Names of the settings that say nothing to real plants."""
        return [name for name in SIMULATED if getattr(self.config, name)]


@dataclass(frozen=True, kw_only=True)
class _Start:
    config: FederationConfig
    release: Release
    travelling: frozenset[str]
    origin: str


def launch(
    centre: Centre, *, rounds: int | None = None, fresh: bool = False, name: str = ""
) -> Launched:
    """Put a run into a centre's queue.

    Parameters
    ----------
    rounds : in place of federation.toml's.
    fresh : start from the source weights, whatever release is in force.
    name : of the run; by default the time.

    Raises
    ------
    TransferlineError
        If the settings, the weights or the folder do not do; one line for each mistake.
    """
    active = [row.name for row in centre.registry.runs() if row.state in ACTIVE]
    if active:
        # It would start from the release of today, and undo what the other one makes of it.
        raise ConfigError(
            f"run must wait until {active[0]} has ended; watch it with `transferline-server runs`, "
            "or stop it"
        )
    config = load_federation(centre.federation_toml)
    if rounds is not None:
        config = config.model_copy(update={"rounds": rounds})
    run = name or f"{utcnow():%Y%m%d-%H%M%S}"
    folder = centre.run_folder(run)
    if folder.exists():
        raise ConfigError(f"run must have a new name, got {run}; choose another")
    start = (None if fresh else _from_release(centre, config)) or _from_weights(centre, config)
    job = Job(
        run=run,
        plants=(),
        travelling=start.travelling,
        source=start.release,
        config=start.config,
    )
    job.write(folder)
    write_atomic(folder / EVENTS, b"")
    row = RunRow(
        name=run,
        config=start.config.model_dump(mode="json"),
        source=start.release.hash,
        travelling=sorted(start.travelling),
        created=timestamp(),
    )
    centre.registry.submit(row)
    return Launched(run=run, origin=start.origin, config=start.config)


def _from_release(centre: Centre, config: FederationConfig) -> _Start | None:
    """Return a start from the release in force, None if these settings want another one."""
    with centre.store().reading() as session:
        newest = newest_release(session)
    if newest is None:
        return None
    before = FederationConfig.model_validate_json(
        json.dumps(centre.registry.run(newest.run).config)
    )
    manifest = centre.releases().manifest(newest.number)
    resolved = config.model_copy(
        update={"mean": config.mean or manifest.mean, "std": config.std or manifest.std}
    )
    if any(getattr(before, name) != getattr(resolved, name) for name in ORIGIN):
        return None
    facts = _worked_out(centre, "--layout")
    release = centre.releases().read(newest.number)
    if facts["schema"] != json.loads(release.schema.to_json()):
        return None
    return _Start(
        config=resolved,
        release=replace(release, number=0),
        travelling=frozenset(facts["travelling"]),
        origin=f"release {newest.number}",
    )


def _from_weights(centre: Centre, config: FederationConfig) -> _Start:
    facts = _worked_out(centre)
    found = FederationConfig.model_validate_json(json.dumps(facts["config"]))
    return _Start(
        config=config.model_copy(update={"mean": found.mean, "std": found.std}),
        release=facts["release"],
        travelling=frozenset(facts["travelling"]),
        origin=f"weights {config.weights} of {config.backbone}",
    )


def _worked_out(centre: Centre, *options: str) -> dict[str, Any]:
    """Have the source worked out; return what `common.source` says, and the release it made.

    Raises
    ------
    ConfigError
        With the lines of that process.
    EngineError
        If it dies.
    """
    with tempfile.TemporaryDirectory(prefix=".source-", dir=centre.folder) as out:
        done = subprocess.run(
            [
                sys.executable,
                "-P",
                "-m",
                "common.source",
                str(centre.federation_toml),
                out,
                *options,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": python_path()},
            check=False,
        )
        if done.returncode == 1 and done.stdout:
            raise ConfigError(done.stdout.strip())
        if done.returncode:
            raise EngineError(
                f"reading the source weights must end, its process ended with {done.returncode}; "
                "free memory and try again"
            )
        facts: dict[str, Any] = read_json(Path(out) / "source.json")
        if "hash" in facts:
            facts["release"] = read_source(Path(out) / SOURCE, expected=facts["hash"])
    return facts
