"""A run from federation.toml to the queue, and what it starts from."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.config import CentreConfig, FederationConfig
from common.errors import ConfigError
from common.toml import validate
from server.centre import Centre
from server.chain import Chain, Place
from server.console.listing import status_facts
from server.engine.job import Job
from server.engine.launch import Launched, launch
from server.state.tables import QUEUED

SETTINGS = """
backbone = "squeezenet1_1"
weights = "none"
image_size = 32
rounds = 5
"""


@pytest.fixture
def centre(tmp_path: Path) -> Centre:
    config = CentreConfig(name="acme", address="localhost:1", enrolment="localhost:2")
    centre = Centre.create(tmp_path / "centre", config)
    centre.federation_toml.write_text(SETTINGS)
    return centre


def begin(centre: Centre, run: str) -> int:
    """Do what the run's program does first; return the number of the release in force."""
    job = Job.read(centre.run_folder(run))
    fence = centre.registry.take(run)
    chain = Chain(
        Place(home=centre.folder, fence=fence),
        config=job.config,
        source=job.source,
        travelling=job.travelling,
        run=run,
    )
    chain.tenure.finish("finished")
    return chain.release.number


def test_what_only_a_simulation_heeds_is_named() -> None:
    config = validate(FederationConfig, {"name": "acme", "labels_per_class": 10}, name="settings")
    assert Launched(run="r", origin="", config=config).without_effect == ["labels_per_class"]


@pytest.mark.parametrize("address", ["nohost", "host:99999", "host:0", "[::1]:8443", "a b:1"])
def test_an_address_that_is_none_is_named(address: str) -> None:
    values = {"name": "acme", "address": address, "enrolment": "host:65535"}
    with pytest.raises(ConfigError, match="address must be host:port") as caught:
        validate(CentreConfig, values, name="centre.toml")
    assert "\n" not in str(caught.value)


def test_a_centre_without_nginx_says_so(tmp_path: Path) -> None:
    config = CentreConfig(
        name="acme", address="localhost:1", enrolment="localhost:2", nginx="no-such-nginx"
    )
    assert any(
        "nginx" in line for line in status_facts(Centre.create(tmp_path / "c", config))["warnings"]
    )


@pytest.mark.slow
def test_a_run_from_weights_then_from_the_release_then_from_other_weights(centre: Centre) -> None:
    first = launch(centre, rounds=2, name="first")
    assert first.origin == "weights none of squeezenet1_1"
    row = centre.registry.run("first")
    job = Job.read(centre.run_folder("first"))
    assert (row.state, row.config["rounds"], row.source) == (QUEUED, 2, job.source.hash)
    assert sorted(job.travelling) == row.travelling
    assert job.config.mean is not None
    assert begin(centre, "first") == 0
    with pytest.raises(ConfigError, match="run must have a new name, got first"):
        launch(centre, name="first")

    second = launch(centre, name="second")
    assert (second.origin, second.config.rounds) == ("release 0", 5)
    assert Job.read(centre.run_folder("second")).source.hash == job.source.hash
    assert begin(centre, "second") == 0

    centre.federation_toml.write_text(SETTINGS.replace("squeezenet1_1", "shufflenet_v2_x0_5"))
    assert launch(centre, name="third").origin == "weights none of shufflenet_v2_x0_5"
    assert begin(centre, "third") == 1
    assert not list(centre.folder.glob(".source-*"))


def test_mistakes_are_told_and_leave_nothing(centre: Centre) -> None:
    centre.federation_toml.write_text(SETTINGS.replace('"none"', '"nowhere.safetensors"'))
    with pytest.raises(ConfigError, match=r"weights must be .* no such file"):
        launch(centre)
    centre.federation_toml.write_text("rounds = -1")
    with pytest.raises(ConfigError, match="rounds must be"):
        launch(centre)
    assert centre.registry.runs() == []
    assert not (centre.folder / "runs").exists()
