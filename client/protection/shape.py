"""From an update to the bytes that are sent, and what stays behind for the next one.

Error feedback, Karimireddy et al. 2019, https://arxiv.org/abs/1901.09847: what was sent and what is
left always add up to all updates so far. A reply that the centre did not count is lost like any
update; what was left out of it is still there.
"""

from __future__ import annotations

from dataclasses import dataclass

from client.protection.validate import Validate
from common.config import FederationConfig
from common.forms import Turn, form_of
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


def shape(
    update: Update, config: FederationConfig, *, turn: Turn, left: Vector | None = None
) -> Sent:
    """Add what was left over, and encode.

    Parameters
    ----------
    left : of the round before; one of another size belongs to other settings and is not used.

    Raises
    ------
    TrainingError
        If what the centre would read is longer than it takes.
    """
    form = form_of(config.update, schema=update.schema, turn=turn)
    vector = update.vector
    feeds_back = form.drops and config.update.error_feedback
    if feeds_back and left is not None and left.shape == vector.shape:
        vector = vector + left
    payload = form.encode(vector)
    if config.update.form == "fp32":
        return Sent(payload=payload)
    said = form.decode(payload)
    # As the centre will check it: rounding and old leftovers may have made it longer.
    Validate(max_norm=config.server.max_update_norm).apply(
        Update(schema=update.schema, vector=said, weight=update.weight)
    )
    return Sent(payload=payload, left=vector - said if feeds_back else None)
