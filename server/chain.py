"""The chain of releases: the one in force, how a run makes the next, and how it is committed.

A store has one chain, over all its runs. A run starts from the release in force where that is its
source; otherwise its source becomes the next release first.

A release counts from the moment its row is committed (`server.state.store`). Before that it is
written to a folder of its own; the folder is moved into its place under the same lock. What a kill
left without a row is removed at the next start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from common.config import FederationConfig
from common.errors import AggregationError, StateError
from common.orders import Release
from common.signing import Signer
from common.update import Schema, Vector
from common.version import program_version
from server.aggregation import OPTIMISERS, State
from server.releases import Manifest, Releases, digest_of
from server.seals import Papers
from server.state.journal import Journal
from server.state.store import Store
from server.state.tables import ReleaseRow, RoundRow, RunRow, timestamp
from server.state.tenure import Revoked, Tenure
from server.tally import Average


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a run keeps its state, and by what right.

    Attributes
    ----------
    home : the folder of ``releases/``: a run's own in simulation, the centre's otherwise.
    database : URL; empty means ``state.db`` in ``home``.
    fence : the number under which the run was taken for this program; None takes it.
    signer : of releases and of the log; None signs nothing and writes no log.
    papers : the release key and the CAs in force, read anew for each round; None where there are
        none, and no secure sums then.
    """

    home: Path
    database: str = field(default="", repr=False)
    fence: int | None = None
    signer: Signer | None = None
    papers: Callable[[], Papers] | None = None


class Chain:
    """The chain as one run sees it, and the right to add to it.

    Parameters
    ----------
    place : if it holds this run already, the run continues.
    config : the federation's settings.
    source : what the run starts from; its number is not used.
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
        If the folder cannot be used, is damaged, or holds another run; or if a later run has
        made releases since this one was left.
    """

    def __init__(
        self,
        place: Place,
        *,
        config: FederationConfig,
        source: Release,
        travelling: frozenset[str],
        run: str,
    ) -> None:
        self._config, self._run = config, run
        self._releases = Releases(place.home, signer=place.signer)
        self.release, self.hash = source, source.hash
        self.schema = source.schema.subset(travelling)
        store = Store(place.home, place.database)
        self._journal = Journal(store, signer=place.signer)
        self.tenure = Tenure(
            store,
            RunRow(
                name=run,
                config=config.model_dump(mode="json"),
                source=self.hash,
                travelling=sorted(travelling),
                created=timestamp(),
            ),
            tidy=self._releases.keep,
            fence=place.fence,
            journal=self._journal,
        )
        self._state: State = {}
        if self.tenure.base is None:
            self._begin(source)
        else:
            self._continue(self.tenure.base)

    def advance(
        self,
        row: RoundRow,
        mean: Average,
        *,
        weights: Mapping[str, int],
        standing: Mapping[str, str] | None = None,
    ) -> None:
        """Step to the next release by what a round came to, and commit both.

        Parameters
        ----------
        weights : what each counted plant counted for; 0 where its weight was under a mask.
        standing : by what key each of them took part (`server.state.tenure.Tenure.close`).

        Raises
        ------
        AggregationError
            If the step leads to a value that is not finite; nothing is written.
        Revoked
            If a counted plant takes part no more; nothing is written.
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
        self._commit(row, release, manifest, state, standing)

    def _begin(self, source: Release) -> None:
        """Start from the release in force, or make the source one."""
        newest = self.tenure.last_release()
        if newest is not None and newest.hash == self.hash:
            self.release = replace(source, number=newest.number)
            self.tenure.start(newest.number)
            return
        release = replace(source, number=0 if newest is None else newest.number + 1)
        self._commit(None, release, self._manifest(release, created=timestamp()), {}, None)

    def _continue(self, base: int) -> None:
        row = self.tenure.last_release()
        assert row is not None, "a run that has a base has a release"
        if row.run != self._run and row.number != base:
            raise StateError(
                f"run {self._run} must be the one that made the newest release, {row.number}, got "
                f"one that was left behind by run {row.run}; start a new run"
            )
        self.release, self.hash = self._releases.read(row.number), row.hash
        if self.release.hash != row.hash:
            raise StateError(
                f"{self._releases.path(row.number)} is not the release that state.db knows; "
                "restore the folder from a backup, or start over with another --out"
            )
        if row.number != base:  # what it starts from may carry the state of the run before
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
        self,
        row: RoundRow | None,
        release: Release,
        manifest: Manifest,
        state: State,
        standing: Mapping[str, str] | None,
    ) -> None:
        staged = self._releases.write(release, noted(manifest, self._journal), state)
        try:
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
                counted=standing,
            )
        except Revoked:
            self._releases.discard(staged)
            raise
        self.release, self.hash, self._state = release, manifest.hash, state


def noted(manifest: Manifest, journal: Journal) -> Manifest:
    """Return a manifest that says how far the log reached when the release was made."""
    note = journal.newest()
    return (
        manifest if note is None else manifest.model_copy(update={"log": (note.number, note.hash)})
    )


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
