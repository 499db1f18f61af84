"""Nothing leaves that the centre would have to refuse, and nothing is forgotten on the way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.protection import protect
from common.config import FederationConfig, ServerConfig
from common.errors import TrainingError
from common.forms import Turn, form_of, linear_of
from common.secagg.encoding import Encoding, Packer, decode
from common.update import Schema, Update


def update(*values: float) -> Update:
    vector = np.array(values, np.float32)
    return Update(schema=Schema({"w": vector.shape}), vector=vector, weight=3)


CONFIG = FederationConfig(server=ServerConfig(max_update_norm=5.0))


TURN = Turn(run="run", round=1)


def test_a_sound_update_is_sent_as_it_is() -> None:
    given = update(3.0, -4.0)
    sent = protect(given, CONFIG, turn=TURN)
    assert (sent.payload, sent.left) == (given.vector.tobytes(), None)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_must_be_finite(value: float) -> None:
    with pytest.raises(TrainingError, match="update must be finite"):
        protect(update(0.0, value), CONFIG, turn=TURN)


def test_a_long_update_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"update norm must be at most 5, got 5\.1"):
        protect(update(3.1, -4.1), CONFIG, turn=TURN)


def test_the_norm_does_not_overflow() -> None:
    with pytest.raises(TrainingError, match=r"got 1\.41e\+30"):
        protect(update(1e30, 1e30), CONFIG, turn=TURN)


SCHEMA = Schema({"a.weight": (12, 9), "a.bias": (12,), "norm": (3,)})
DROPPING = ("top_k", "low_rank", "coordinates")


def settings(form: str, **more: object) -> FederationConfig:
    rest = {name: more.pop(name) for name in ("server", "min_plants") if name in more}
    if secure := more.pop("secure", None):
        rest["secure_aggregation"] = secure
    update = {"form": form, "share": 0.2, "rank": 2, **more}
    return FederationConfig.model_validate({"update": update, **rest})


@pytest.mark.parametrize("form", DROPPING)
@pytest.mark.parametrize("values", ["fp32", "fp16", "int8"])
@given(seed=st.integers(0, 2**32), rounds=st.integers(1, 8))
def test_what_was_sent_and_what_is_left_are_all_updates(
    form: str, values: str, seed: int, rounds: int
) -> None:
    config = settings(form, values=values)
    draws = np.random.default_rng(seed)
    whole, said, left = np.zeros(SCHEMA.size), np.zeros(SCHEMA.size), None
    for number in range(1, rounds + 1):
        turn = Turn(run="run", round=number)
        vector = draws.normal(size=SCHEMA.size).astype(np.float32)
        sent = protect(Update(schema=SCHEMA, vector=vector, weight=1), config, turn=turn, left=left)
        whole += vector
        said += form_of(config.update, schema=SCHEMA, turn=turn).decode(sent.payload)
        left = sent.left
        assert left is not None
    assert said + left == pytest.approx(whole, abs=1e-4)


@pytest.mark.parametrize("form", DROPPING)
def test_without_error_feedback_nothing_is_kept(form: str) -> None:
    config = settings(form, error_feedback=False)
    given = Update(schema=SCHEMA, vector=np.ones(SCHEMA.size, np.float32), weight=1)
    old = np.full(SCHEMA.size, 5, np.float32)
    sent = protect(given, config, turn=TURN, left=old)
    assert sent.left is None
    assert sent == protect(given, config, turn=TURN)


def test_leftovers_of_other_settings_are_not_used() -> None:
    given = Update(schema=SCHEMA, vector=np.ones(SCHEMA.size, np.float32), weight=1)
    sent = protect(given, settings("top_k"), turn=TURN, left=np.ones(5, np.float32))
    assert sent.payload == protect(given, settings("top_k"), turn=TURN).payload


def test_leftovers_may_not_make_an_update_too_long() -> None:
    given = Update(schema=SCHEMA, vector=np.ones(SCHEMA.size, np.float32), weight=1)
    left = np.full(SCHEMA.size, 100, np.float32)
    with pytest.raises(TrainingError, match="update norm must be at most 100"):
        protect(given, settings("top_k"), turn=TURN, left=left)


@given(seed=st.integers(0, 2**32), bits=st.integers(4, 16), weight=st.integers(1, 200))
def test_what_fixed_point_leaves_out_is_kept_too(seed: int, bits: int, weight: int) -> None:
    config = settings(
        "coordinates",
        values="fp32",
        secure={"enabled": True, "bits": bits, "bound": 2.0},
        server={"max_weight": 128},
        min_plants=3,
    )
    draws = np.random.default_rng(seed)
    given = Update(
        schema=SCHEMA, vector=draws.normal(size=SCHEMA.size).astype(np.float32), weight=weight
    )
    sent = protect(given, config, turn=TURN)
    linear = linear_of(config.update, schema=SCHEMA, turn=TURN)
    values = np.frombuffer(sent.payload, np.float32)
    assert np.array_equal(values, linear.project(given.vector))  # masked by the daemon, not here

    encoding = Encoding(size=linear.kept, bits=bits, bound=2.0, max_weight=128, plants=6)
    words = np.empty(encoding.words, np.uint64)
    counts = min(weight, 128)
    Packer(values, weight=counts, encoding=encoding).fill(words, 0, encoding.words)
    total = decode(words, encoding=encoding, survivors=1)
    said = linear.lift((total.vector / counts).astype(np.float32))
    assert sent.left is not None
    assert said + sent.left == pytest.approx(given.vector, abs=1e-6)
