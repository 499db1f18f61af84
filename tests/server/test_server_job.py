"""A job comes back from its folder as it was, and a damaged one is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.config import FederationConfig
from common.errors import StateError
from common.files import read_json, write_json
from common.orders import Release
from common.update import Schema
from server.engine.job import RUN, SOURCE, Job


@pytest.fixture
def job() -> Job:
    schema = Schema({"backbone.b": (2, 3), "backbone.a": (4,), "backbone.c": (1,)})
    return Job(
        run="seed-0",
        plants=("a", "b"),
        travelling=frozenset({"backbone.a"}),
        source=Release(number=0, schema=schema, vector=np.arange(11, dtype=np.float32)),
        config=FederationConfig(mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0), classes=("x", "y")),
    )


def test_a_job_comes_back_as_it_was(job: Job, tmp_path: Path) -> None:
    job.write(tmp_path)
    got = Job.read(tmp_path)
    assert (got.run, got.plants, got.travelling) == (job.run, job.plants, job.travelling)
    assert got.config == job.config
    assert list(got.source.schema.shapes.items()) == list(job.source.schema.shapes.items())
    assert got.source.hash == job.source.hash


def test_a_folder_that_nobody_prepared_is_named(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="home must be a prepared run folder"):
        Job.read(tmp_path)


def test_a_damaged_job_is_named(job: Job, tmp_path: Path) -> None:
    job.write(tmp_path)
    write_json(tmp_path / RUN, {**read_json(tmp_path / RUN), "plants": "a"})
    with pytest.raises(StateError, match=r"run\.json is damaged: plants"):
        Job.read(tmp_path)


def test_other_source_weights_are_noticed(job: Job, tmp_path: Path) -> None:
    job.write(tmp_path)
    data = bytearray((tmp_path / SOURCE).read_bytes())
    data[-1] ^= 1
    (tmp_path / SOURCE).write_bytes(data)
    with pytest.raises(StateError, match="hash"):
        Job.read(tmp_path)
