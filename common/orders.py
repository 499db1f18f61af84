"""What travels between centre and plant: releases, orders, replies.

Each is a frozen value with a JSON head and, beside it, one flat float32 vector of a release or the
bytes of an update. How they cross a wire (Flower's Message, a gRPC stream, a function call) is the
transport's business; what they mean is here, once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

from common.config import FederationConfig
from common.update import Schema, Vector


class Kind(StrEnum):
    """What an order asks for."""

    TRAIN = "train"  #: evaluate the release, train, send an update
    ADOPT = "adopt"  #: evaluate the release, fine-tune it at the plant, adopt it or not; no update


class Outcome(StrEnum):
    """How a plant answered."""

    DONE = "done"
    DECLINED = "declined"  #: against the plant's policy, or not answerable; see ``reason``
    FAILED = "failed"  #: training stopped; the plant's state is as it was


@dataclass(frozen=True, kw_only=True)
class Release:
    """A version of the shared model.

    Attributes
    ----------
    number : 0 for the source weights, then one more with every committed round.
    schema : the whole backbone (and the head where it travels), not only what is trained.
    vector : float32, shape (schema.size,).
    """

    number: int
    schema: Schema
    vector: Vector

    @property
    def hash(self) -> str:
        """SHA-256 over schema and values (little-endian float32), as hex."""
        digest = hashlib.sha256(self.schema.digest.encode())
        digest.update(np.ascontiguousarray(self.vector, dtype="<f4").data)
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Order:
    """One request to every plant of a cohort: the same bytes for each of them.

    Attributes
    ----------
    run, round : which round this is; with ``release`` they identify it.
    release : hash of the release that goes with the order.
    cohort : names of the plants that are asked, sorted.
    deadline : seconds that a plant may take.
    config : the federation's settings; a plant takes method and training settings from here.
    """

    run: str
    round: int
    kind: Kind
    release: str
    cohort: tuple[str, ...]
    deadline: float
    config: FederationConfig

    @property
    def key(self) -> str:
        """What the outbox files an answer under."""
        return f"{self.run}-{self.round:05d}-{self.kind}"

    @property
    def task(self) -> bytes:
        """SHA-256 of the whole order: what the terms of a secure sum name it by."""
        return hashlib.sha256(self.to_json().encode()).digest()

    def to_json(self) -> str:
        return json.dumps(
            {
                "run": self.run,
                "round": self.round,
                "kind": str(self.kind),
                "release": self.release,
                "cohort": list(self.cohort),
                "deadline": self.deadline,
                "config": self.config.model_dump(mode="json"),
            },
            sort_keys=True,
        )

    @classmethod
    def from_json(cls, text: str) -> Order:
        fields = json.loads(text)
        return cls(
            run=fields["run"],
            round=fields["round"],
            kind=Kind(fields["kind"]),
            release=fields["release"],
            cohort=tuple(fields["cohort"]),
            deadline=fields["deadline"],
            config=FederationConfig.model_validate_json(json.dumps(fields["config"])),
        )


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One plant's answer to one order.

    Attributes
    ----------
    payload : trained minus released values of the tensors that travel, in the form that the order
        asks for (`common.forms`); None without an update.
    schema : digest of the update's schema ("" without an update).
    weight : training examples behind the payload.
    scores : by stage, then by metric, on the plant's validation split; stages are
        ``incoming``, ``trained``, ``tuned``, ``deployed``.
    seconds : by phase: ``evaluate``, ``train``, ``tune``, ...
    notes : further facts that may leave the plant, for example ``{"adopted": "federated"}``.
    beside : under secure aggregation, what goes with a masked payload
        (`common.secagg.messages.Masked`, JSON text): the payload is words of 64 bits then, which
        hold the weight too, and ``weight`` is 0. Else "".
    """

    plant: str
    run: str
    round: int
    release: str
    outcome: Outcome
    reason: str = ""
    payload: bytes | None = None
    schema: str = ""
    weight: int = 0
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    beside: str = ""

    def head(self) -> str:
        """Everything but the payload, as JSON."""
        fields = {name: getattr(self, name) for name in _HEAD}
        fields |= {"beside": self.beside} if self.beside else {}
        return json.dumps({**fields, "outcome": str(self.outcome)}, sort_keys=True)

    @classmethod
    def of(cls, head: str, payload: bytes | None) -> Reply:
        """Put a reply together from its head and its payload."""
        fields = json.loads(head)
        return cls(
            **{**{name: fields[name] for name in _HEAD}, "outcome": Outcome(fields["outcome"])},
            payload=payload,
            beside=fields.get("beside", ""),
        )


_HEAD = (
    "plant", "run", "round", "release", "outcome", "reason",
    "schema", "weight", "scores", "seconds", "notes",
)  # fmt: skip
