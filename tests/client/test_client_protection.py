"""Nothing leaves that the centre would have to refuse."""

from __future__ import annotations

import numpy as np
import pytest

from client.protection import protect
from common.config import FederationConfig, ServerConfig
from common.errors import TrainingError
from common.update import Schema, Update


def update(*values: float) -> Update:
    vector = np.array(values, np.float32)
    return Update(schema=Schema({"w": vector.shape}), vector=vector, weight=3)


CONFIG = FederationConfig(server=ServerConfig(max_update_norm=5.0))


def test_a_sound_update_goes_on_as_it_is() -> None:
    given = update(3.0, -4.0)
    assert protect(given, CONFIG) is given


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_must_be_finite(value: float) -> None:
    with pytest.raises(TrainingError, match="update must be finite"):
        protect(update(0.0, value), CONFIG)


def test_a_long_update_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"update norm must be at most 5, got 5\.1"):
        protect(update(3.1, -4.1), CONFIG)


def test_the_norm_does_not_overflow() -> None:
    with pytest.raises(TrainingError, match=r"got 1\.41e\+30"):
        protect(update(1e30, 1e30), CONFIG)
