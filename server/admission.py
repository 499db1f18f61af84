"""What a reply must satisfy before it is counted.

A plant may be broken, out of date or hostile; Flower passes NaN, huge weights and foreign shapes
straight into the mean. So each reply is checked against the order it answers. A bad one is
dropped and counted with its reason, and never ends the run.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Collection, Mapping

import numpy as np

from common.config import FederationConfig
from common.errors import UpdateError
from common.forms import Form, Turn, form_of
from common.orders import Kind, Order, Outcome, Reply
from common.update import Schema, Vector

#: Bytes of JSON that a reply may bring beside its vector.
MAX_HEAD = 64 * 1024

_CHUNK = 1 << 16


class Rejected(UpdateError):  # noqa: N818  it names the reply's fate, not a fault of ours
    """A reply that must not be counted.

    Attributes
    ----------
    code : a fixed word: ``stale``, ``stranger``, ``twice``, ``revoked``, ``head``, ``scores``,
        ``update``, ``schema``, ``form``, ``finite``, ``norm`` or ``weight``.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


def admit(
    reply: Reply,
    *,
    order: Order,
    schema: Schema,
    config: FederationConfig,
    answered: Collection[str] = (),
    enrolled: bool = True,
    words: int = 0,
) -> Vector | None:
    """Return the update of a reply that answers the order soundly; None where it is to bring none.

    A masked one is none that could be read; who counts it takes it from the reply.

    Parameters
    ----------
    schema : of the update that the order asks for.
    answered : plants of the cohort whose answer is already in.
    enrolled : whether the plant takes part, by the key that it had when it was asked.
    words : of a masked update, where the order asks for one; 0 where it comes in the clear. Of a
        masked update neither values, norm nor weight can be checked here: the plant clips its
        values and its weight, and the lanes of the sum bound both (`common.secagg.encoding`).

    Raises
    ------
    Rejected
        Otherwise, with the first rule that it breaks.
    """
    _check_sender(reply, order, answered)
    if not enrolled:
        raise Rejected("revoked", f"plant must take part, got {reply.plant}, which is revoked")
    _check_head(reply)
    if order.kind is Kind.TRAIN and reply.outcome is Outcome.DONE:
        if words:
            _check_masked(reply, schema, words)
            return None
        turn = Turn(run=order.run, round=order.round)
        return _read_update(reply, form_of(config.update, schema=schema, turn=turn), schema, config)
    if reply.payload is not None:
        raise Rejected("update", f"a reply {reply.outcome} to {order.kind} must bring no update")
    return None


def norm_of(vector: Vector) -> float:
    """Return the Euclidean norm in float64; not finite if a value is not.

    The sum of squares cannot overflow: float32 squares reach 1e77, float64 1e308.
    """
    total = 0.0
    for start in range(0, vector.size, _CHUNK):
        part = vector[start : start + _CHUNK].astype(np.float64)
        # Not `part @ part`: BLAS starts threads for it, 50 times slower on a busy machine.
        total += float(np.square(part, out=part).sum())
    return math.sqrt(total) if math.isfinite(total) else total


def _check_sender(reply: Reply, order: Order, answered: Collection[str]) -> None:
    got, wanted = (reply.run, reply.round, reply.release), (order.run, order.round, order.release)
    if got != wanted:
        raise Rejected("stale", f"run, round and release must be {wanted}, got {got}")
    if reply.plant not in order.cohort:
        raise Rejected("stranger", f"plant must be in the cohort, got {reply.plant!r}")
    if reply.plant in answered:
        raise Rejected("twice", f"plant {reply.plant} must answer once, got a second reply")


def _check_head(reply: Reply) -> None:
    stages = reply.scores.values() if isinstance(reply.scores, Mapping) else [None]
    if not all(_are_numbers(values) for values in [*stages, reply.seconds]):
        raise Rejected("scores", "scores and seconds must be finite numbers by name")
    if any(value < 0 for value in reply.seconds.values()):
        raise Rejected("scores", "seconds must not be negative")
    if not isinstance(reply.notes, Mapping) or not isinstance(reply.reason, str):
        raise Rejected("head", "notes must be a mapping and reason a text")
    try:
        size = len(reply.head())
        json.dumps(dict(reply.notes), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise Rejected("head", f"notes must be JSON: {error}") from error
    if size > MAX_HEAD:
        raise Rejected("head", f"all but the update must be at most {MAX_HEAD} bytes, got {size}")


def _are_numbers(values: object) -> bool:
    return isinstance(values, Mapping) and all(
        isinstance(name, str)
        and type(value) in (int, float)
        and abs(value) <= sys.float_info.max  # refuses NaN, and integers that no float can hold
        for name, value in values.items()
    )


def _check_masked(reply: Reply, schema: Schema, words: int) -> None:
    if not isinstance(reply.payload, bytes | memoryview) or not reply.beside:
        raise Rejected("update", "a reply to train must bring a masked update, got none")
    if reply.schema != schema.digest:
        raise Rejected("schema", f"schema must be {schema.digest[:12]}, got {reply.schema!r:.14}")
    if len(reply.payload) != 8 * words:
        raise Rejected(
            "form", f"masked update must have {8 * words} bytes, got {len(reply.payload)}"
        )
    if reply.weight != 0:
        raise Rejected("weight", f"weight must be under the masks, got {reply.weight} in the clear")


def _read_update(reply: Reply, form: Form, schema: Schema, config: FederationConfig) -> Vector:
    """Decode an update once its size is known to be right, and check what it says."""
    if not isinstance(reply.payload, bytes | memoryview):
        got = "none" if reply.payload is None else type(reply.payload).__name__
        raise Rejected("update", f"a reply to train must bring an update, got {got}")
    if reply.beside:
        raise Rejected("update", "a reply to train must bring its update in the clear, got masks")
    if reply.schema != schema.digest:
        raise Rejected("schema", f"schema must be {schema.digest[:12]}, got {reply.schema!r:.14}")
    # Not isinstance: True is an int too.
    if type(reply.weight) is not int or reply.weight < 1:
        raise Rejected("weight", f"weight must be an integer from 1, got {reply.weight!r}")
    try:
        vector = form.decode(reply.payload)
    except UpdateError as error:
        raise Rejected("form", str(error)) from error
    norm = norm_of(vector)
    if not math.isfinite(norm):
        raise Rejected("finite", "values must be finite, got NaN or infinity")
    limit = config.server.max_update_norm
    if norm > limit:
        raise Rejected("norm", f"norm must be at most {limit:g}, got {norm:g}")
    return vector
