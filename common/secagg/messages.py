"""The protocol's messages as a transport carries them: small texts, checked as they are read.

Two of them travel in a message of their own (`Call` to a plant, `Said` back), two beside an order
and its reply (`Beside`, `Masked`). What counts in them is signed, each by its own envelope; a call
as a whole is signed by the transport, so that nobody else can use up a plant's sessions.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.errors import AggregationError
from common.secagg.roster import MOST
from common.secagg.transcript import SessionId
from common.signing import SEAL_LIMIT

Text = Annotated[str, Field(max_length=SEAL_LIMIT)]
Adverts = Annotated[tuple[Text, ...], Field(max_length=MOST)]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def to_json(self) -> str:
        return self.model_dump_json(exclude_defaults=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a message.

        Raises
        ------
        AggregationError
            If it is none of this kind.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(part) for part in first["loc"]) or "the text"
            raise AggregationError(
                f"message of a secure sum must be sound, got {place}: {first['msg']}; both sides "
                "must run the same version"
            ) from error


class Setup(_Message):
    """The adverts of a session, sorted by plant."""

    sid: SessionId
    adverts: Adverts


class Call(_Message):
    """What the centre asks of one plant beside an order; several at once where they fit.

    Attributes
    ----------
    hello : a session to advertise keys for.
    setup : adverts of a session to share secrets in.
    confirm, unmask : the centre's signed requests; "" for none.
    life : seconds after which a plant may forget the sessions of this call.
    """

    hello: SessionId | None = None
    setup: Setup | None = None
    confirm: Text = ""
    unmask: Text = ""
    life: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 3600.0


class Said(_Message):
    """What a plant answers to a `Call`; "" for what it was not asked or does not give.

    Attributes
    ----------
    reason : why something is missing, for the operator; it says nothing of data.
    """

    advert: Text = ""
    shares: Text = ""
    confirmed: Text = ""
    unmasked: Text = ""
    reason: Annotated[str, Field(max_length=500)] = ""


class Beside(_Message):
    """What goes to one plant with an order to train.

    Attributes
    ----------
    terms : the signed `common.secagg.terms.Terms`, the same for each plant.
    boxes : ciphertexts addressed to this plant, by sender.
    hello : the session of the round after, to advertise keys for.
    """

    terms: Text
    boxes: Annotated[dict[str, Text], Field(max_length=MOST)]
    hello: SessionId | None = None
    life: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 3600.0


class Masked(_Message):
    """What comes back beside the masked words: their envelope, and keys for the round after."""

    text: Text
    advert: Text = ""
