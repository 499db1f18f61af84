"""From an update to the bytes that are sent, and what stays behind for the next one.

Error feedback, Karimireddy et al. 2019, https://arxiv.org/abs/1901.09847: what was sent and what is
left always add up to all updates so far. A reply that the centre did not count is lost like any
update; what was left out of it is still there.

Under secure aggregation the values become fixed point, which the daemon does after this
(`client.desk.sums`). With few bits that leaves out something of every value, and that is kept too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from client.protection.validate import Validate
from common.config import FederationConfig
from common.forms import Turn, drops, form_of, linear_of
from common.secagg.encoding import Encoding, Packer, decode
from common.update import Update, Vector


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What leaves a plant of an update, and what does not.

    Attributes
    ----------
    payload : the update in the form that the order asks for.
    left : what the payload does not say, float32, shape (schema.size,); None where a form leaves
        nothing out, or nothing is to be kept.
    """

    payload: bytes
    left: Vector | None = None


def recall(update: Update, config: FederationConfig, *, left: Vector | None) -> Update:
    """Add what the update before left out; leftovers of another size are of other settings."""
    if not _feeds_back(config) or left is None or left.shape != update.vector.shape:
        return update
    return replace(update, vector=update.vector + left)


def shape(update: Update, config: FederationConfig, *, turn: Turn, whole: Update) -> Sent:
    """Encode an update.

    Parameters
    ----------
    whole : the update as it was before any step took something from it.

    Raises
    ------
    TrainingError
        If what the centre would read is longer than it takes.
    """
    form = form_of(config.update, schema=update.schema, turn=turn)
    payload = form.encode(update.vector)
    if config.update.form == "fp32":
        return Sent(payload=payload)
    said = form.decode(payload)
    if config.secure_aggregation.enabled:
        said = _under_masks(update, config, turn=turn)
    # As the centre will check it: rounding may have made it longer.
    Validate(max_norm=config.server.max_update_norm).apply(replace(update, vector=said))
    return Sent(payload=payload, left=whole.vector - said if _feeds_back(config) else None)


def _under_masks(update: Update, config: FederationConfig, *, turn: Turn) -> Vector:
    """Return what a secure sum takes of an update: fixed point, clipped to the bound."""
    sums = config.secure_aggregation
    linear = linear_of(config.update, schema=update.schema, turn=turn)
    encoding = Encoding(
        size=linear.kept,
        bits=sums.bits,
        bound=sums.bound,
        max_weight=config.server.max_weight,
        plants=1,
    )
    weight = min(update.weight, encoding.max_weight)
    words = np.empty(encoding.words, np.uint64)
    packer = Packer(linear.project(update.vector), weight=weight, encoding=encoding)
    packer.fill(words, 0, encoding.words)
    total = decode(words, encoding=encoding, survivors=1)
    return linear.lift((total.vector / weight).astype(np.float32))


def _feeds_back(config: FederationConfig) -> bool:
    return drops(config.update) and config.update.error_feedback
