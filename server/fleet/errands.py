"""A message to a plant that is sent until it is answered, or until there is no hope.

A node comes back as itself: Flower's node ids follow its key. So a message that was lost with a
node, a bridge or a daemon is sent again to the same plant, with longer and longer pauses.
"""

from __future__ import annotations

import logging
import time

from flwr.app import RecordDict

AWAY = 360.0  #: seconds that a round waits for a node that is gone; a cut may last five minutes
RETRY = (2.0, 30.0)  #: seconds before a message is sent again: first, longest
ATTEMPTS = 20  #: sendings of one message to one plant

log = logging.getLogger(__name__)


class Errand:
    """One message to one plant: whether it is out, and when it goes out again.

    Attributes
    ----------
    content, kind, group : of the message.
    ident : of the message that is out; "" while none is.
    node : that it was sent to.
    reason : why the last sending came to nothing.
    """

    def __init__(self, plant: str, *, content: RecordDict, kind: str, group: str) -> None:
        self.plant = plant
        self.content, self.kind, self.group = content, kind, group
        self.ident, self.node, self.reason = "", 0, ""
        self._attempts = 0
        self._again = self._since = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether to send the message now, if the node is there."""
        return not self.ident and time.monotonic() >= self._again

    @property
    def hopeless(self) -> bool:
        """Whether to give up: the node stays away, or nothing ever comes back."""
        if self.ident:
            return False
        return self._attempts >= ATTEMPTS or time.monotonic() - self._since > AWAY

    def sent(self, node: int, idents: list[str]) -> None:
        self._attempts += 1
        if idents:
            self.node, self.ident = node, idents[0]
        else:
            self.lost("the message could not be sent")

    def lost(self, reason: str) -> None:
        """Note that no reply will come to the message that is out."""
        self.ident, self.reason, self._since = "", reason, time.monotonic()
        self._again = self._since + min(RETRY[0] * 2 ** (self._attempts - 1), RETRY[1])
        log.warning("%s: %s; asked again when it is there", self.plant, " ".join(reason.split()))
