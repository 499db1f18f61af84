"""What has come in for one order: who answered what, and what was counted comes to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

from common.config import FederationConfig
from common.errors import UpdateError
from common.orders import Order, Outcome, Release, Reply
from common.update import Schema, Vector
from server.admission import Rejected, admit
from server.state.tables import ReplyRow

#: Outcomes beside those of `common.orders.Outcome`.
REJECTED, LATE = "rejected", "late"
UNASKED = "unasked"  #: the order was never sent to it, through no fault of its own

_LONGEST_REASON = 500


class Average(Protocol):
    """A mean of updates, however it was formed.

    Attributes
    ----------
    scale : fixed-point units in 1.0 of the sum behind it; None if it has another form.
    """

    @property
    def scale(self) -> int | None: ...

    def result(self) -> Vector:
        """Return it, float32 of shape (size,)."""
        ...


class Tally:
    """Takes the replies to one order as they arrive.

    Parameters
    ----------
    schema : of the update that the order asks for.
    count : counts an admitted reply in, with its update where that came in the clear, and returns
        the weight that it counts for, 0 if that is not known; UpdateError refuses it.
    words : of a masked update; 0 where updates come in the clear.

    Attributes
    ----------
    rows : by plant, for every plant that answered; in the end for the whole cohort.
    refused : replies refused, by reason code; also those that no plant's row stands for.
    mean : of the counted updates; None where there is none.
    reason : why nothing counts though plants answered; "" otherwise.
    summed : facts of a secure sum, for the record; empty otherwise.
    """

    def __init__(
        self,
        order: Order,
        release: Release,
        *,
        schema: Schema,
        config: FederationConfig,
        count: Callable[[Reply, Vector | None], int],
        words: int = 0,
    ) -> None:
        self._order = order
        self._schema = schema
        self._config = config
        self._count, self._words = count, words
        self._bytes_down = release.vector.nbytes + len(order.to_json())
        self.rows: dict[str, ReplyRow] = {}
        self.refused: Counter[str] = Counter()
        self.mean: Average | None = None
        self.reason = ""
        self.summed: dict[str, Any] = {}

    @property
    def done(self) -> list[str]:
        """Plants whose answer counts, sorted."""
        if self.reason:
            return []
        return sorted(row.plant for row in self.rows.values() if row.outcome == Outcome.DONE)

    @property
    def missing(self) -> list[str]:
        """Plants that have not answered, sorted."""
        return sorted(set(self._order.cohort) - self.rows.keys())

    def take(self, reply: Reply, *, enrolled: bool = True) -> tuple[str, str]:
        """Count a reply in or refuse it; return (outcome, reason).

        Parameters
        ----------
        enrolled : as for `server.admission.admit`.
        """
        weight = 0
        try:
            vector = admit(
                reply,
                order=self._order,
                schema=self._schema,
                config=self._config,
                answered=self.rows.keys(),
                enrolled=enrolled,
                words=self._words,
            )
            if reply.outcome is Outcome.DONE:
                weight = self._count(reply, vector)
        except UpdateError as error:
            return self._refuse(reply, error)
        row = self._row(reply.plant, str(reply.outcome), reply.reason)
        row.weight = weight
        row.scores = {stage: dict(values) for stage, values in reply.scores.items()}
        row.seconds, row.notes = dict(reply.seconds), dict(reply.notes)
        row.bytes_up = _bytes_up(reply)
        return row.outcome, row.reason

    def close(self) -> list[str]:
        """Write down who is late, and return them, sorted."""
        late = self.missing
        for plant in late:
            self._row(plant, LATE, f"no answer within {self._order.deadline:g} s")
        return late

    def lost(self, plant: str, reason: str) -> None:
        """Write down that a plant has dropped out before the order was sent."""
        self._row(plant, str(Outcome.FAILED), reason).bytes_down = 0

    def unasked(self, plant: str, reason: str) -> None:
        """Write down why the order is not sent to a plant."""
        self._row(plant, UNASKED, reason).bytes_down = 0

    def _refuse(self, reply: Reply, error: UpdateError) -> tuple[str, str]:
        self.refused[error.code] += 1
        reason = _plain(f"{error.code}: {error}")
        # These three are not this plant's answer to this order, which may still come or has come.
        if not (isinstance(error, Rejected) and error.code in ("stale", "stranger", "twice")):
            self._row(reply.plant, REJECTED, reason).bytes_up = _bytes_up(reply)
        return REJECTED, reason

    def _row(self, plant: str, outcome: str, reason: str) -> ReplyRow:
        row = ReplyRow(
            run=self._order.run,
            round=self._order.round,
            plant=plant,
            outcome=outcome,
            reason=_plain(reason),
            weight=0,
            scores={},
            seconds={},
            notes={},
            bytes_up=0,
            bytes_down=self._bytes_down,
        )
        self.rows[plant] = row
        return row


def _plain(reason: str) -> str:
    """Return a plant's words as one line that every database and terminal can take."""
    text = "".join(character if character.isprintable() else " " for character in reason)
    return " ".join(text.split())[:_LONGEST_REASON]


def _bytes_up(reply: Reply) -> int:
    try:
        head = len(reply.head())
    except (TypeError, ValueError):  # refused for that very reason
        head = 0
    return head + (len(reply.payload) if isinstance(reply.payload, bytes | memoryview) else 0)
