"""The device that a plant trains on, and what happens when its memory is full."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from common.errors import ConfigError, TrainingError


def choose_device(name: str) -> torch.device:
    """Return the device to train on; ``auto`` prefers cuda, then mps, then cpu.

    Raises
    ------
    ConfigError
        If the named device is not there.
    """
    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next((kind for kind, here in found.items() if here), "cpu")
    if not found.get(name, True):
        raise ConfigError(f"device must be present on this machine, got {name!r}; use auto or cpu")
    return torch.device(name)


@contextmanager
def gpu_memory() -> Iterator[None]:
    """Turn a GPU that is full into an error of ours, and give back what was taken.

    Raises
    ------
    TrainingError
        If the memory did not suffice.
    """
    try:
        yield
        return
    except torch.OutOfMemoryError:
        pass  # its traceback would hold on to every tensor of the step
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    raise TrainingError(
        "GPU memory must suffice for training, it was full; lower training.batch_size, or raise "
        "policy.gpu_memory_share in plant.toml"
    )
