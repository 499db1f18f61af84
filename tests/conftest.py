"""Settings and fixtures of all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# No deadline: the machine may be busy, and a slow example is not a wrong one.
settings.register_profile("transferline", deadline=None, max_examples=50, print_blob=True)
settings.load_profile("transferline")

torch.set_num_threads(1)

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real industrial data: ``images/<product>/<class>/*``, ``weights/*``."""
    told = os.environ.get("TRANSFERLINE_DATA")
    folder = Path(told) if told else HERE.parent.parent / "shared" / "data"
    if not (folder / "images").is_dir():
        pytest.skip(f"no real data in {folder}; set TRANSFERLINE_DATA to a folder with images/")
    return folder
