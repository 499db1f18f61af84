"""SciPy, which only resampling, the order domain and operating conditions need: an extra."""

from __future__ import annotations

import importlib
from typing import Any

from common.errors import ConfigError


def scipy(part: str) -> Any:
    """Return a part of SciPy.

    Raises
    ------
    ConfigError
        If it is not installed.
    """
    try:
        return importlib.import_module(f"scipy.{part}")
    except ImportError as error:
        raise ConfigError(
            "resampling, the order domain and operating conditions of series need SciPy; "
            "in the checkout, pip install '.[series]'"
        ) from error
