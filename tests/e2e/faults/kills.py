"""SIGKILL to every process at every stage of a round."""

from __future__ import annotations

from collections.abc import Callable

from tests.e2e.moments import (
    Moment,
    at,
    committing,
    filed,
    round_closed,
    round_started,
    training,
    uploading,
)
from tests.e2e.scene import Case, Scene

#: Stages of a round, in words and as a moment. An upload is 1.4 MB.
STAGES: dict[str, Callable[[Scene], Moment]] = {
    "order sent": lambda s: round_started(s.centre, s.run, s.round),
    "training": lambda s: training(s.plant, s.round),
    "reply filed": lambda s: filed(s.plant),
    "reply on its way": lambda s: uploading(s.plant, 200_000),
    "commit": lambda s: committing(s.centre, s.round),
    "between rounds": lambda s: round_closed(s.centre, s.run, s.round),
}

PLANT = {
    "daemon": ("order sent", "training", "reply filed"),
    "worker": ("training",),
    "link": ("training", "reply filed", "reply on its way"),
    "supernode": ("order sent", "training", "reply filed", "reply on its way"),
    "superexec": ("order sent", "training"),
    "nursery": ("training",),
    "bridge": ("training", "reply filed"),
    "keeper": ("training",),
}
CENTRE = {
    "serverapp": ("order sent", "training", "reply on its way", "commit", "between rounds"),
    "superlink": ("order sent", "training", "reply on its way", "commit", "between rounds"),
    "superexec": ("order sent", "training"),
    "nginx": ("order sent", "training", "reply on its way"),
    "keeper": ("training",),
    "daemon": ("order sent", "training", "commit", "between rounds"),
}

TITLES = {
    "daemon": "daemon (`up`)",
    "worker": "training process",
    "link": "link",
    "supernode": "SuperNode",
    "superexec": "SuperExec",
    "nursery": "nursery, which forks bridges",
    "bridge": "bridge",
    "keeper": "keepers, all at once",
    "serverapp": "ServerApp",
    "superlink": "SuperLink",
    "nginx": "nginx",
}


def kill(side: str, role: str, stage: str) -> Case:
    """Return the case: that process, at that stage. `up` is started again, as systemd does."""

    def inject(scene: Scene) -> None:
        moment = STAGES[stage](scene)
        at(moment, what=stage)
        target = scene.centre if side == "centre" else scene.plant
        target.kill(role)
        if role == "daemon":
            target.start()

    return Case(f"kill -9 of the {side}'s {TITLES[role]}: {stage}", inject)


CASES = [
    *(kill("plant", role, stage) for role, stages in PLANT.items() for stage in stages),
    *(kill("centre", role, stage) for role, stages in CENTRE.items() for stage in stages),
]
