"""The chain of a run's releases: the one in force, how the next is made, and how it is committed.

A release counts from the moment its row is committed (`server.store`). Before that it is written
to a folder of its own; the folder is moved into its place under the same lock. What a kill left
without a row is removed at the next start.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from common.config import FederationConfig
from common.errors import AggregationError, StateError
from common.orders import Release
from common.update import Schema, Vector
from server.aggregation import OPTIMISERS, Mean, State
from server.releases import Manifest, Releases, digest_of, program_version
from server.store import ReleaseRow, RoundRow, RunRow, Store, Tenure, timestamp


class Chain:
    """The releases of one run, and the right to add to them.

    Parameters
    ----------
    home : the run folder. If it holds this run already, the chain continues.
    config : the federation's settings.
    source : release 0.
    travelling : names of the source's tensors that updates cover.
    run : name of the run.

    Attributes
    ----------
    tenure : the run's rows.
    release, hash : the release in force.
    schema : of an update.

    Raises
    ------
    StateError
        If the folder cannot be used, is damaged, or holds another run.
    """

    def __init__(
        self,
        home: Path,
        *,
        config: FederationConfig,
        source: Release,
        travelling: frozenset[str],
        run: str,
    ) -> None:
        self._config, self._run = config, run
        self._releases = Releases(home)
        self.release, self.hash = source, source.hash
        self.schema = source.schema.subset(travelling)
        self.tenure = Tenure(
            Store(home),
            RunRow(
                name=run,
                config=config.model_dump(mode="json"),
                source=self.hash,
                travelling=sorted(travelling),
                created=timestamp(),
            ),
            tidy=self._releases.keep,
        )
        self._state: State = {}
        row = self.tenure.last_release()
        if row is None:
            self._commit(None, source, self._manifest(source, created=timestamp()), {})
        else:
            self._continue(row)

    def advance(self, row: RoundRow, mean: Mean, *, weights: Mapping[str, int]) -> None:
        """Step to the next release by the mean of a round, and commit both.

        Parameters
        ----------
        weights : what each counted plant counted for.

        Raises
        ------
        AggregationError
            If the step leads to a value that is not finite; nothing is written.
        StateError
            If the release cannot be written or the run was taken over; it does not count then.
        """
        state, release = self._step(mean.result())
        manifest = self._manifest(release, created=timestamp()).model_copy(
            update={
                "round": row.number,
                "parent": self.hash,
                "replies": dict(weights),
                "scale": mean.scale,
                "optimiser": digest_of(state),
            }
        )
        row.result = manifest.hash
        self._commit(row, release, manifest, state)

    def _continue(self, row: ReleaseRow) -> None:
        self.release, self.hash = self._releases.read(row.number), row.hash
        if self.release.hash != row.hash:
            raise StateError(
                f"{self._releases.path(row.number)} is not the release that state.db knows; "
                "restore the folder from a backup, or start over with another --out"
            )
        self._state = self._releases.optimiser(row.number)

    def _step(self, delta: Vector) -> tuple[State, Release]:
        server = self._config.server
        with np.errstate(over="ignore", invalid="ignore"):  # found by the check below
            state, step = OPTIMISERS[server.optimiser](self._state, delta, server)
            vector = apply(step, self.schema, release=self.release)
        if not np.isfinite(vector).all():
            raise AggregationError(
                "release must be finite, got NaN or infinity; lower server.learning_rate "
                f"({server.learning_rate:g}) and start over with another --out"
            )
        number = self.release.number + 1
        return state, Release(number=number, schema=self.release.schema, vector=vector)

    def _manifest(self, release: Release, *, created: str) -> Manifest:
        return Manifest(
            transferline=program_version(),
            number=release.number,
            run=self._run,
            method=self._config.method,
            hash=release.hash,
            schema_digest=release.schema.digest,
            created=created,
            backbone=self._config.backbone,
            image_size=self._config.image_size,
            mean=self._config.mean,
            std=self._config.std,
            classes=self._config.classes,
        )

    def _commit(
        self, row: RoundRow | None, release: Release, manifest: Manifest, state: State
    ) -> None:
        staged = self._releases.write(release, manifest, state)
        self.tenure.close(
            row,
            release=ReleaseRow(
                run=self._run,
                number=release.number,
                round=None if row is None else row.number,
                hash=manifest.hash,
                parent=manifest.parent,
                created=manifest.created,
            ),
            publish=lambda: self._releases.publish(staged, release.number),
        )
        self.release, self.hash, self._state = release, manifest.hash, state


def apply(step: Vector, schema: Schema, *, release: Release) -> Vector:
    """Return the release's values plus a step for the tensors that travel.

    Parameters
    ----------
    step : float32, shape (schema.size,).
    schema : of the tensors that travel, a subset of the release's.

    Returns
    -------
    float32, shape (release.schema.size,); the release is not changed.
    """
    vector = release.vector.copy()
    values = release.schema.unflatten(vector)
    for name, change in schema.unflatten(step).items():
        values[name] += change
    return vector
