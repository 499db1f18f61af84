"""What would leave the plant, worked out from settings alone: nothing is read, sent or trained.

The network is drawn without weights, and the update is described by the code that cuts it
(`common.sharing`, `client.protection`), so that what is shown and what is sent cannot differ. A
test compares `BESIDE` with the fields of a reply.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, is_dataclass
from math import prod
from pathlib import Path
from typing import Any

from client.protection import Step, steps
from client.protection.clip import Clip
from client.protection.validate import Validate
from common.backbone import Part, outline_for, parts, travelling
from common.config import FederationConfig, PlantConfig
from common.forms import Turn, drops, form_of, linear_of
from common.privacy import UNITS, cost_of, epsilon
from common.secagg.encoding import Encoding
from common.sharing import FEDERATED
from common.tasks import shared_outputs
from common.update import Schema

DTYPE = "float32"
WIDTH = 4  #: bytes of a value

#: What goes with an update, by the field of a reply.
BESIDE = {
    "plant": "the plant's name",
    "run": "which run it answers, as it was asked",
    "round": "which round it answers, as it was asked",
    "release": "hash of the release that it was trained from, as it was asked",
    "outcome": "done, declined or failed",
    "reason": "if not done: a fixed word, or the sentence of your own policy",
    "schema": "hash of the names and shapes above",
    "weight": "number of training examples",
    "scores": "the task's scores (balanced accuracy, say) and loss on the validation examples, "
    "before and after training",
    "seconds": "how long each phase took",
    "notes": "after the last round: whether the release was adopted, by what difference, and on "
    "how many validation examples",
    "payload": "the tensors above as trained minus released values, in the form above",
    "beside": "under secure aggregation, its signature and public keys for the next round",
}

#: What secure aggregation changes of that.
MASKED = {
    "weight": "0: the number of training examples is under the masks, as part of the payload",
    "payload": "fixed-point words under masks that only the sum over all plants takes off",
    "sums": "keys of this session, and shares of its secrets, of which many are needed to open one",
}

#: What of that is different where noise hides something.
QUIET = {
    "weight": "the same number for every plant",
    "scores": "nothing: they stay at the plant",
    "seconds": "nothing: they stay at the plant",
    "notes": "nothing: they stay at the plant",
}

#: What goes with every message, and what the plant said of itself when it joined.
ALWAYS = {
    "signature": "of the plant's identity key over all of this, with its certificate",
    "joining": "the plant's name and public keys, once; a new certificate request now and then",
    "link": "SuperNode's signs of life, signed by the link's key, from this machine's address",
}


@dataclass(frozen=True, kw_only=True)
class Travelling:
    """One tensor of an update."""

    name: str
    shape: tuple[int, ...]
    part: Part

    @property
    def size(self) -> int:
        """Bytes."""
        return WIDTH * prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What one round would send.

    Attributes
    ----------
    tensors : what travels, in the order in which it lies in the flat array.
    kept : bytes of the tensors that stay, by part of the network.
    arrives : bytes of the release that comes in.
    protection : steps between "trained" and "sent", one line each.
    open : whether the centre can read this plant's update.
    form : in which the tensors travel, in words (`common.forms`).
    sent : bytes of the update in this form.
    beside : what goes with it.
    dtype : of every value before the form is made.
    """

    tensors: tuple[Travelling, ...]
    kept: dict[Part, int]
    arrives: int
    protection: tuple[str, ...]
    open: bool
    form: str
    sent: int
    beside: dict[str, str] = field(default_factory=lambda: BESIDE | ALWAYS)
    dtype: str = DTYPE

    @property
    def size(self) -> int:
        """Bytes of the tensors that travel, before their form is made."""
        return sum(tensor.size for tensor in self.tensors)

    def facts(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return {
            "tensors": [
                {**asdict(tensor), "dtype": self.dtype, "bytes": tensor.size}
                for tensor in self.tensors
            ],
            "bytes": self.size,
            "form": self.form,
            "bytes_sent": self.sent,
            "bytes_arriving": self.arrives,
            "bytes_that_stay": {str(part): size for part, size in self.kept.items()},
            "beside": self.beside,
            "protection": list(self.protection),
            "readable_by_the_centre": self.open,
        }


def preview(config: FederationConfig, *, classes: int) -> Preview:
    """Work out what a round by these settings would send.

    Parameters
    ----------
    classes : outputs of the plant's head; where the head travels the settings say how many.

    Raises
    ------
    BackboneError
        If the backbone is unknown or cannot take images of this size.
    """
    sharing = FEDERATED[config.method]
    count = (shared_outputs(config) if sharing.head else 0) or classes
    network = outline_for(config, outputs=count)
    known, state = parts(network), network.state_dict()
    chosen = travelling(network, head=sharing.head, norm=config.norm_travels)
    every = [Travelling(name=n, shape=tuple(state[n].shape), part=p) for n, p in known.items()]
    kept = dict.fromkeys(Part, 0)
    for tensor in every:
        if tensor.name not in chosen:
            kept[tensor.part] += tensor.size
    chosen_ones = tuple(tensor for tensor in every if tensor.name in chosen)
    schema = Schema({tensor.name: tensor.shape for tensor in chosen_ones})
    protection, sums = steps(config), config.secure_aggregation
    masks = f"secure-aggregation: bound {sums.bound:g}, {sums.bits} bits; the centre reads the sum"
    return Preview(
        tensors=chosen_ones,
        form=described(config),
        sent=sent_bytes(config, schema),
        kept={part: size for part, size in kept.items() if size},
        arrives=sum(t.size for t in every if t.part is not Part.HEAD or sharing.head),
        protection=(
            *_hidden(config),
            *map(_said, protection),
            *([masks] if sums.enabled else []),
        ),
        open=not (sums.enabled or config.private)
        and all(isinstance(step, Validate | Clip) for step in protection),
        beside=BESIDE
        | (QUIET if config.private else {})
        | (MASKED if sums.enabled else {})
        | ALWAYS,
    )


def sent_bytes(config: FederationConfig, schema: Schema) -> int:
    """Return the bytes of an update; under masks, of the smallest cohort that a round may have."""
    turn, sums = Turn(run="", round=1), config.secure_aggregation
    if not sums.enabled:
        return form_of(config.update, schema=schema, turn=turn).size
    kept = linear_of(config.update, schema=schema, turn=turn).kept
    encoding = Encoding(
        size=kept,
        bits=sums.bits,
        bound=sums.bound,
        max_weight=config.server.max_weight,
        plants=config.min_plants,
    )
    return 8 * encoding.words


def described(config: FederationConfig) -> str:
    """Return the form in words."""
    update = config.update
    values = f"in {update.values}"
    if config.secure_aggregation.enabled:
        values = f"in fixed point of {config.secure_aggregation.bits} bits under masks"
    words = {
        "top_k": f"top_k: the largest {update.share:.3g} of the values, {values}",
        "low_rank": f"low_rank: factors of {update.rank} columns for each large matrix, {values}",
        "coordinates": f"coordinates: {update.share:.3g} of the values, at places that all plants "
        f"share, {values}",
        "int8": "int8: every value in 1 byte, with a scale for each tensor",
        "fp16": "fp16: every value in 2 bytes",
        "fp32": "fp32: every value as it is",
    }
    said = words[update.form]
    if update.form == "fp32" and config.secure_aggregation.enabled:
        said = f"every value {values}"
    feeds_back = drops(update) and update.error_feedback
    return f"{said}; the rest is kept for the next update" if feeds_back else said


def classes_of(folder: Path, settings: PlantConfig) -> int:
    """Return how many outputs a plant has; 2 where its data is not to be had now."""
    if settings.classes:
        return len(settings.classes)
    try:
        found = [one for one in (folder / settings.data).iterdir() if one.is_dir()]
    except OSError:
        return 2
    return max(2, sum(not one.name.startswith(".") for one in found))


def _hidden(config: FederationConfig) -> tuple[str, ...]:
    """Return what noise hides, and what one round costs by itself."""
    privacy, cost = config.privacy, cost_of(config)
    if cost is None:
        return ()
    bound = epsilon([cost], delta=privacy.delta).value
    how = "steps of DP-SGD" if privacy.unit == "record" else "clipping and noise"
    return (
        f"privacy (noise multiplier {privacy.noise_multiplier:g}, clip {privacy.clip:g}): {how} "
        f"hide {UNITS[privacy.unit]}; a round costs epsilon {bound:.3g} at delta {privacy.delta:g}",
    )


def _said(step: Step) -> str:
    """Return a step as one line: its name, its numbers, what it does."""
    settings: list[str] = []
    if is_dataclass(step):
        settings = [
            f"{f.name.replace('_', ' ')} {getattr(step, f.name):g}"
            for f in fields(step)
            if isinstance(getattr(step, f.name), int | float)
        ]
    name = type(step).__name__.lower()
    what = (type(step).__doc__ or "").strip().splitlines()[0]
    return f"{name} ({', '.join(settings)}): {what}" if settings else f"{name}: {what}"
