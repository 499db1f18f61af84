"""A centre and four plants as real processes, summing under masks; plants are killed in mid-round.

The plants are four of the real products with the real backbone where the real data is, else painted
ones. What the right sum is, the plants' outboxes say: there each keeps its update in the clear.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.files import load_tensors
from common.secagg.encoding import Encoding, Packer, decode
from common.secagg.masks import add_masks
from server.releases import Releases
from tests.e2e.harness import Centre, Plant, deployment, wait_connected
from tests.e2e.moments import at, round_closed, training
from tests.e2e.processes import wait_for
from tests.e2e.products import products, real_backbone
from tests.e2e.undisturbed import settings

NAMES = ("ash", "elm", "oak", "yew")
BITS, BOUND = 28, 1.0
SUMS = f"""
[secure_aggregation]
enabled = true
bits = {BITS}
bound = {BOUND}
stage_deadline = 20.0

[methods]
local_first = false
personal_fine_tune = false
"""
DEADLINE = 300.0  #: never waited for: who was killed is back at once and says that it is out

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

Deployed = tuple[Centre, dict[str, Plant]]


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory, small_plants: Path) -> Iterator[Deployed]:
    """A centre with four connected plants that accept each other and demand secure sums."""
    root = tmp_path_factory.mktemp("sums")
    data = products(root / "data", NAMES, painted=small_plants)
    federation = real_backbone(settings(rounds=2, steps=40, deadline=DEADLINE)) + SUMS
    with deployment(root, federation=federation, data=data, names=NAMES, proxy=False) as found:
        _, plants = found
        for plant in plants.values():
            plant.replace(r"^#? ?protection = .*$", 'protection = ["secure-aggregation"]')
        yield found


def accept_each_other(plants: dict[str, Plant]) -> None:
    """Let each engineer accept the others' fingerprints, read from their own plants."""
    own = {name: plant.ask("peers")["fingerprint"] for name, plant in plants.items()}
    for name, plant in plants.items():
        for other, fingerprint in own.items():
            if other != name:
                plant.command("peers", str(plant.folder), "accept", fingerprint, "--name", other)


def facts(centre: Centre, run: str, number: int) -> dict[str, Any]:
    """Return what the state says of a round's sum."""
    query = "SELECT summed FROM rounds WHERE run = ? AND number = ?"
    ((text,),) = centre.query(query, run, str(number))
    found: dict[str, Any] = json.loads(text)
    return found


def check_sum(centre: Centre, plants: Sequence[Plant], run: str, number: int, cohort: int) -> None:
    """Compare a round's release with the mean of what these plants keep in their outboxes."""
    row = centre.rounds(run)[number]
    releases = Releases(centre.folder)
    manifests = {m.hash: m for m in map(releases.manifest, releases.numbers())}
    manifest = manifests[row["result"]]
    after, before = releases.read(manifest.number), releases.read(manifest.number - 1)
    total: Any = None
    for plant in plants:
        tensors, metadata = load_tensors(
            plant.folder / "outbox" / f"{run}-{number:05d}-train.safetensors"
        )
        update = tensors["update"].view(np.uint8).tobytes()
        vector = np.frombuffer(update, "<f4")
        encoding = Encoding(
            size=vector.size, bits=BITS, bound=BOUND, max_weight=1000, plants=cohort
        )
        words = np.empty(encoding.words, np.uint64)
        weight = json.loads(metadata["head"])["weight"]
        add_masks(words, fill=Packer(vector, weight=weight, encoding=encoding).fill)
        total = words if total is None else total + words
    summed = decode(total, encoding=encoding, survivors=len(plants))
    mean = (summed.vector / summed.weight).astype(np.float32)
    run_json = json.loads((centre.folder / "runs" / run / "run.json").read_text())
    schema = after.schema.subset(frozenset(run_json["travelling"]))
    expected = before.vector.copy()
    for name, change in schema.unflatten(mean).items():
        before.schema.unflatten(expected)[name] += change
    assert np.array_equal(after.vector, expected)
    assert np.any(mean)


def restart(plant: Plant) -> None:
    """Kill a plant's daemon and start it again: its keys are gone, and it says so at once."""
    plant.kill("daemon")
    plant.start()


def test_the_sum_is_right_whoever_is_killed(deployed: Deployed) -> None:
    centre, plants = deployed
    accept_each_other(plants)
    run = centre.run()

    at(round_closed(centre, run, 1), what="round 1")
    assert centre.rounds(run)[1]["outcome"] == "committed", centre.rounds(run)[1]
    check_sum(centre, list(plants.values()), run, 1, cohort=4)
    assert facts(centre, run, 1)["exchanges"] == 4

    # Of four plants one may go: killed after its shares, before its masked update.
    at(training(plants["oak"], 2), what="training at oak in round 2")
    restart(plants["oak"])
    assert centre.finish(run) == "finished", centre.output()
    row = centre.rounds(run)[2]
    assert row["outcome"] == "committed", row
    assert "no keys for this sum are left here" in row["replies"]["oak"]
    left = [plant for name, plant in plants.items() if name != "oak"]
    check_sum(centre, left, run, 2, cohort=4)
    said = facts(centre, run, 2)
    assert (said["dropped"], said["threshold"]) == (["oak"], 3)
    centre.command("log", str(centre.folder), "verify")


def test_a_plant_that_is_gone_once_its_update_came_is_in_the_sum(deployed: Deployed) -> None:
    """Killed with all its processes between its masked update and the unmasking, and not back."""
    centre, plants = deployed
    run = centre.run("--rounds", "1")
    first = wait_for(
        lambda: centre.told(run, "ReplyArrived", 1),
        what="a masked update",
        seconds=400,
        period=0.01,
    )[0]["plant"]
    assert len(centre.told(run, "ReplyArrived", 1)) < len(NAMES)  # the sum is not held yet
    plants[first].kill_all()
    at(round_closed(centre, run, 1), what="round 1")
    assert not plants[first].is_up()
    row = centre.rounds(run)[1]
    assert row["outcome"] == "committed", row
    said = facts(centre, run, 1)
    assert (said["dropped"], said["threshold"]) == ([], 3)
    check_sum(centre, list(plants.values()), run, 1, cohort=4)
    plants[first].start()
    assert centre.finish(run) == "finished", centre.output()
    wait_connected(centre, NAMES)


def test_of_three_nobody_may_be_lost(deployed: Deployed) -> None:
    centre, plants = deployed
    plants["yew"].stop()
    wait_connected(centre, NAMES[:3])
    before = centre.releases()
    run = centre.run()

    at(training(plants["elm"], 1), what="training at elm in round 1")
    restart(plants["elm"])
    at(round_closed(centre, run, 1), what="round 1")
    row = centre.rounds(run)[1]
    assert row["outcome"] == "skipped"
    assert "secure sum broken off at masking: at least 3 vectors must have arrived" in row["reason"]
    assert row["result"] == before[max(before)]
    # The model is as it was, and the next round goes on.
    assert centre.finish(run) == "finished", centre.output()
    row = centre.rounds(run)[2]
    assert row["outcome"] == "committed", row
    check_sum(centre, [plants[name] for name in NAMES[:3]], run, 2, cohort=3)
    plants["yew"].start()
    wait_connected(centre, NAMES)


def test_no_plant_sums_with_one_that_it_did_not_accept(deployed: Deployed) -> None:
    centre, plants = deployed
    stranger = plants["yew"].ask("peers")["fingerprint"]
    ash = plants["ash"]
    ash.command("peers", str(ash.folder), "remove", stranger)
    run = centre.run("--rounds", "1")
    assert centre.finish(run) == "finished", centre.output()
    said = centre.rounds(run)[1]["replies"]
    assert "must be accepted here" in said["ash"]
    assert [peer["state"] for peer in ash.ask("peers")["peers"] if peer["name"] == "yew"] == [
        "waiting"
    ]


def test_a_plant_that_demands_sums_declines_an_order_in_the_clear(deployed: Deployed) -> None:
    centre, _ = deployed
    path = centre.folder / "federation.toml"
    path.write_text(path.read_text().replace("enabled = true", "enabled = false"))
    run = centre.run("--rounds", "1")
    assert centre.finish(run) == "finished", centre.output()
    row = centre.rounds(run)[1]
    assert row["outcome"] == "skipped"
    for reason in row["replies"].values():
        assert "protection must include secure-aggregation" in reason
