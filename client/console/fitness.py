"""The checks that need torch: what a plant has to train on, and with.

The images are read as a round would read them, and kept decoded where the daemon looks for them.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from client.console.checks import GIGABYTE, Check, Plant, State
from client.plant import Plant as Trained
from client.tasks.folder import Progress
from client.tasks.images import ImageData
from client.training import choose_device
from common.config import FederationConfig
from common.errors import TransferlineError
from common.sharing import FEDERATED
from common.weights import HALF

ROOM = 2 * GIGABYTE  #: bytes of GPU memory below which most training does not fit


def read(plant: Plant, *, progress: Progress | None = None) -> ImageData:
    """Read a plant's images by the federation's settings.

    Raises
    ------
    DataError, ConfigError
        If they are not fit for training.
    """
    config = plant.federation
    # The weights bring mean and deviation with the first order; reading needs neither.
    known = config.model_copy(update={"mean": config.mean or HALF, "std": config.std or HALF})
    opened = Trained(folder=plant.folder, settings=plant.settings)
    return opened.task(known).load(plant.data, cache=_cache(plant.folder), progress=progress)


def data(plant: Plant, *, progress: Progress | None = None) -> Check:
    """Look at classes, images a class, files that cannot be used, and whether the task fits."""
    try:
        found = read(plant, progress=progress)
    except TransferlineError as error:
        says, _, do = str(error).rpartition("; ")
        return Check(name="data", state=State.FAIL, says=says or do, do=do if says else "")
    says = f"{len(found.classes)} classes ({described(found)})"
    if complaint := misfit(found.classes, plant.federation):
        do = "ask the operator for fedper, or name the classes in plant.toml"
        return Check(name="data", state=State.FAIL, says=f"{says}; {complaint}", do=do)
    do = f"all of it: transferline-plant check {plant.data}"
    if found.skipped:
        first = found.skipped[0]
        says += f"; {_files(len(found.skipped))} skipped, first {first.file}: {first.why}"
        return Check(name="data", state=State.WARN, says=says, do=do)
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


def described(found: ImageData) -> str:
    """Return the images in use by class."""
    counts = torch.bincount(found.labels.cpu(), minlength=len(found.classes)).tolist()
    return ", ".join(f"{n} {c}" for n, c in zip(found.classes, counts, strict=True))


def misfit(classes: tuple[str, ...], config: FederationConfig) -> str:
    """Say why a federation's task does not fit these classes; "" if it does."""
    if not FEDERATED[config.method].head or classes == config.classes:
        return ""
    return f"{config.method} shares the head, for the classes {', '.join(config.classes) or 'none'}"


def _files(count: int) -> str:
    return f"{count} file{'s' if count > 1 else ''}"


def _cache(folder: Path) -> Path | None:
    """Return where decoded images are kept; nowhere for a user who is not the plant's."""
    return folder / "cache" if folder.stat().st_uid == os.geteuid() else None
