"""What a run gives that nothing disturbs: the local simulation, same seed, same plants' names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from common.config import load_federation
from server.federation import Federation
from server.releases import Releases
from simulation.local import LocalFleet
from simulation.prepare import prepare
from simulation.workers import Workers

#: Settings with which a round of `small_plants` takes seconds, most of them training.
FEDERATION = """\
name = "acme"
backbone = "shufflenet_v2_x0_5"
weights = "none"
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
image_size = 32
method = "fedper"
rounds = {rounds}
local_epochs = 1
local_steps = {steps}
min_plants = {plants}
round_deadline = {deadline}
device = "cpu"
threads = 1

[training]
epochs = 2
head_epochs = 20
"""


def settings(*, rounds: int = 2, steps: int = 12, plants: int = 3, deadline: float = 300.0) -> str:
    """Return a federation.toml for `small_plants`.

    Parameters
    ----------
    steps : least gradient steps in a round; 12 take about a second on one core.
    plants : the quorum.
    deadline : of a round, seconds.
    """
    return FEDERATION.format(rounds=rounds, steps=steps, plants=plants, deadline=deadline)


def undisturbed(home: Path, *, federation: str, data: Path, names: Sequence[str]) -> dict[int, str]:
    """Hold the rounds in this process and return the hashes of the releases by number."""
    home.mkdir(parents=True)
    (home / "federation.toml").write_text(federation)
    config = load_federation(home / "federation.toml")
    torch.set_num_threads(1)
    with Workers(1) as workers:
        folders = {name: data / name for name in sorted(names)}
        prepared = prepare(home, config=config, base=home, data=folders, workers=workers)
        job = prepared.job
        Federation(
            home,
            fleet=LocalFleet(home, plants=list(folders), workers=workers),
            config=job.config,
            source=job.source,
            travelling=job.travelling,
            run=job.run,
        ).run()
    releases = Releases(home)
    return {number: releases.manifest(number).hash for number in releases.numbers()}
