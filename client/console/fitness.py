"""The checks that need torch: what a plant has to train on, and with.

Data is read as a round would read it, and kept decoded where the daemon looks for them.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from client import fitting
from client.console.checks import GIGABYTE, Check, Plant, State
from client.device import choose_device
from client.tasks.data import PlantData, Progress
from common.errors import TransferlineError
from common.tasks import KINDS

ROOM = 2 * GIGABYTE  #: bytes of GPU memory below which most training does not fit


def read(plant: Plant, *, progress: Progress | None = None) -> PlantData:
    """Read a plant's data by the federation's settings.

    Raises
    ------
    DataError, ConfigError
        If they are not fit for training.
    """
    folder = plant.folder
    return fitting.read(
        plant.settings, plant.federation, folder=folder, cache=_cache(folder), progress=progress
    )


def data(plant: Plant, *, progress: Progress | None = None) -> Check:
    """Look at what there is to learn from, what cannot be used, and whether the task fits."""
    try:
        found = read(plant, progress=progress)
    except TransferlineError as error:
        says, _, do = str(error).rpartition("; ")
        return Check(name="data", state=State.FAIL, says=says or do, do=do if says else "")
    says = described(found)
    images = KINDS[plant.federation.task].images
    if complaint := fitting.misfit(found, plant.federation):
        do = "ask the operator for fedper, or name the classes in plant.toml"
        return Check(name="data", state=State.FAIL, says=f"{says}; {complaint}", do=do)
    if found.skipped:
        first = found.skipped[0]
        says += f"; {_files(len(found.skipped))} skipped, first {first.file}: {first.why}"
    if not images:
        # Nothing else shows what is odd about such a folder.
        says += "".join(f"; {note}" for note in found.notes)
        odd = found.skipped or found.notes
        state, do = (State.WARN, "see that it is meant so") if odd else (State.OK, "")
        return Check(name="data", state=state, says=says, do=do)
    do = f"all of it: transferline-plant check {plant.data}"
    if found.skipped:
        return Check(name="data", state=State.WARN, says=says, do=do)
    if found.notes:
        says += f"; {found.notes[0]}"
        says += f" and {len(found.notes) - 1} more" if len(found.notes) > 1 else ""
    return Check(name="data", state=State.OK, says=says, do=do if found.notes else "")


def device(plant: Plant) -> Check:
    """Look at what trains."""
    wanted = plant.settings.device
    try:
        chosen = choose_device(wanted)
    except TransferlineError as error:
        says, _, do = str(error).rpartition("; ")
        return Check(name="device", state=State.FAIL, says=says, do=do)
    if chosen.type != "cuda":
        threads = plant.federation.threads
        says = f"{chosen.type}, {threads} thread{'s' if threads > 1 else ''} by the federation"
        if wanted == "auto" and chosen.type == "cpu":
            do = 'fit for small backbones; else see nvidia-smi. device = "cpu" accepts it'
            return Check(name="device", state=State.WARN, says=f"no GPU found: {says}", do=do)
        return Check(name="device", state=State.OK, says=says)
    free, total = torch.cuda.mem_get_info(chosen)
    share = plant.settings.policy.gpu_memory_share
    says = (
        f"{torch.cuda.get_device_name(chosen)}, {free / GIGABYTE:.0f} of {total / GIGABYTE:.0f} GB "
        f"free, {share:.0%} may be used"
    )
    if min(free, share * total) < ROOM:
        do = "end what else uses it, or raise policy.gpu_memory_share"
        return Check(name="device", state=State.WARN, says=says, do=do)
    return Check(name="device", state=State.OK, says=says)


def described(found: PlantData) -> str:
    """Return the examples in use, by class where there are classes."""
    if found.numbers:
        return f"{len(found.targets)} examples, {', '.join(found.numbers)} to learn"
    counts = torch.bincount(found.targets.cpu(), minlength=len(found.classes)).tolist()
    each = ", ".join(f"{n} {c}" for n, c in zip(found.classes, counts, strict=True))
    return f"{len(found.classes)} classes ({each})"


def _files(count: int) -> str:
    return f"{count} file{'s' if count > 1 else ''}"


def _cache(folder: Path) -> Path | None:
    """Return where decoded images are kept; nowhere for a user who is not the plant's."""
    return folder / "cache" if folder.stat().st_uid == os.geteuid() else None
