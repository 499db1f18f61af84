"""What an order says of the sum: signed by the centre, the same bytes for every plant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from common.errors import AggregationError
from common.pki import Role, Trust
from common.secagg.encoding import Encoding
from common.secagg.roster import plants_of, raw
from common.secagg.transcript import SessionId, digest
from common.signing import Signer, open_seal, seal

ORDER = "secagg order"


@dataclass(frozen=True, kw_only=True)
class Terms:
    """One order to sum.

    Attributes
    ----------
    roster : hash of the session's adverts.
    cohort : plants whose shares arrived; all of their masks cancel.
    release : hash of the release that is trained from, hex.
    task : hash of the training order that this belongs to.
    text : the signed envelope; "" before it is sealed.
    """

    sid: SessionId
    roster: bytes
    cohort: tuple[bytes, ...]
    release: str
    task: bytes
    encoding: Encoding
    text: str = ""

    @property
    def hash(self) -> bytes:
        """What masks are bound to."""
        return digest("order", self.text.encode())

    def sealed(self, signer: Signer) -> Terms:
        fields = {
            "sid": asdict(self.sid),
            "roster": self.roster.hex(),
            "cohort": [plant.hex() for plant in self.cohort],
            "release": self.release,
            "task": self.task.hex(),
            "encoding": asdict(self.encoding),
        }
        text = seal(ORDER, fields, signer=signer)
        return Terms(**{**{n: getattr(self, n) for n in _FIELDS}, "text": text})

    @classmethod
    def read(cls, text: str, *, trust: Trust, at: datetime) -> Terms:
        """Open an order.

        Raises
        ------
        IdentityError
            If it is not signed by the centre.
        AggregationError
            If a field is missing or out of its range.
        """
        fields = open_seal(text, kind=ORDER, trust=trust, role=Role.RELEASE, at=at).fields
        try:
            return cls(
                sid=SessionId(**fields["sid"]),
                roster=raw(fields, "roster", size=32),
                cohort=plants_of(fields, "cohort"),
                release=raw(fields, "release", size=32).hex(),
                task=raw(fields, "task", size=32),
                encoding=Encoding(**fields["encoding"]),
                text=text,
            )
        except (KeyError, TypeError) as error:
            raise AggregationError(f"order to sum must have every field, got {error}") from error


_FIELDS = ("sid", "roster", "cohort", "release", "task", "encoding")


def listed(plants: Sequence[bytes]) -> list[str]:
    """Return plants as a message lists them."""
    return [plant.hex() for plant in sorted(plants)]
