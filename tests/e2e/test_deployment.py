"""A centre and three plants as real processes: joined, run, killed, and the same in the end.

The measure is the local simulation: the same seed, the same plants' names, so the same hashes of
every release. Plants have images of real products where the real data is. All by the commands that
people type; see `tests.e2e.harness`.
"""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import Centre, Plant, deployment, post, wait_connected
from tests.e2e.moments import at, committing, filed, round_closed, round_started, training
from tests.e2e.products import products
from tests.e2e.undisturbed import settings, undisturbed

NAMES = ("ash", "elm", "oak")
ROUNDS = 4
#: Forty steps are long enough to be killed in.
FEDERATION = settings(rounds=ROUNDS, steps=40)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

Deployed = tuple[Centre, dict[str, Plant]]


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory, small_plants: Path) -> Iterator[Deployed]:
    """A centre with three connected plants, and a run in which every process was killed."""
    root = tmp_path_factory.mktemp("deployed")
    data = products(root / "data", NAMES, painted=small_plants)
    with deployment(root, federation=FEDERATION, data=data, names=NAMES) as found:
        centre, plants = found
        run = centre.run()
        kill_at_every_stage(centre, plants, run)
        assert centre.finish(run) == "finished", centre.output()
        wait_connected(centre, NAMES)
        yield found


def kill_at_every_stage(centre: Centre, plants: dict[str, Plant], run: str) -> None:
    """Kill -9 of daemon, SuperNode, ServerApp, SuperLink and the centre's daemon, in one run."""
    ash, elm = plants["ash"], plants["elm"]

    at(training(ash, 1), what="training at ash")
    ash.kill("daemon")
    ash.start()

    at(round_started(centre, run, 2), what="order of round 2")
    before_filed = filed(elm)
    elm.kill("supernode")

    at(before_filed, what="answer of elm")
    at(round_started(centre, run, 3), what="order of round 3")
    centre.kill("serverapp")

    at(committing(centre, 3), what="release 3")
    centre.kill("superlink")

    at(round_closed(centre, run, 3), what="end of round 3")
    at(training(ash, 4), what="training at ash in round 4")
    centre.kill("daemon")
    assert centre.leftovers() == []
    centre.up()


def test_releases_are_those_of_the_simulation(deployed: Deployed, tmp_path: Path) -> None:
    centre, _ = deployed
    data = centre.folder.parent / "data"
    expected = undisturbed(tmp_path / "local", federation=FEDERATION, data=data, names=NAMES)
    assert centre.releases() == expected


def test_every_plant_answered_each_order_once_and_adopted(deployed: Deployed) -> None:
    _, plants = deployed
    for plant in plants.values():
        answers = plant.ask("history")
        assert [answer["outcome"] for answer in answers] == ["done"] * (ROUNDS + 1), plant.output()
        assert [answer["round"] for answer in answers] == [*range(1, ROUNDS + 2)]
        assert any(model["deployed"] for model in plant.ask("personal"))


def test_what_the_centre_wrote_verifies(deployed: Deployed) -> None:
    centre, _ = deployed
    centre.command("releases", str(centre.folder), "verify")
    centre.command("log", str(centre.folder), "verify")


def test_both_sides_say_how_they_are(deployed: Deployed) -> None:
    centre, plants = deployed
    assert centre.ask("status")["plants"]["connected"] == sorted(plants)
    assert [row["plant"] for row in centre.ask("plants") if row["connected"]] == sorted(plants)
    assert [row["state"] for row in centre.ask("runs")] == ["finished"]
    for plant in plants.values():
        assert plant.ask("status")["link"]["state"] == "connected"


def test_metrics_tell_the_rounds(deployed: Deployed) -> None:
    centre, _ = deployed
    with urllib.request.urlopen(f"http://{centre.metrics}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    assert 'outcome="committed"' in text
    for name in NAMES:
        assert f'plant="{name}"' in text


@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/start-run",
        "/v1/control/list-runs",
        "/v1/runtime/acquire-task",
        "/health",
        "/v1/fleet/../control/list-runs",
        "/v1/fleet/%2e%2e/control/list-runs",
        "//v1/control/list-runs",
    ],
)
def test_control_is_not_reachable_from_outside(deployed: Deployed, path: str) -> None:
    centre, _ = deployed
    status = post(centre.edge, path, trust=centre.folder / "pki/ca.pem")
    assert status in (400, 403, 404)


def test_a_used_token_lets_nobody_in(
    deployed: Deployed, small_plants: Path, tmp_path: Path
) -> None:
    _, plants = deployed
    thief = Plant(tmp_path / "thief", centre=None)
    said = thief.try_command(
        *("join", "--token", plants["ash"].token, "--data", str(small_plants / "ash")),
        *("--dir", str(thief.folder)),
    )
    assert said.returncode == 1
    assert "token" in said.stderr
    assert "Traceback" not in said.stderr
    assert not (thief.folder / "plant.toml").exists()


def test_it_ends_when_asked_and_leaves_no_process(deployed: Deployed) -> None:
    """The last test: it stops what the others look at."""
    centre, plants = deployed
    for side in (*plants.values(), centre):
        assert side.stop() == 0, side.output()
        assert side.leftovers() == []
