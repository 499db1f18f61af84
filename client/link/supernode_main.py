"""``flower-supernode`` that delivers every reply and wastes no seconds waiting, for the link.

Flower's SuperNode (1.41) takes one message, waits for one reply, sends it, and so on. When the
centre dies while a message is being delivered, SuperNode drops the message but not the ClientApp
that it has started for it. That one's reply is then taken for the next message's: from there on
each reply is sent one message too late, and the plant misses every round until its SuperNode is
started anew. Here replies that are there are sent whenever no message comes.

Its heartbeat is a thread that ends for good at the first answer that it does not expect, such as
that of a centre whose disk is full. From there on the plant is away for the centre, though it takes
orders. Here the thread goes on, and a SuperNode that the centre does not know ends, to start anew.

It starts its SuperExec once; one that dies is started again here (`common.kept`). And it waits for
the reply of a ClientApp that was ended, as its SuperExec's death does, or that died before it took
its message: for good. Here it tells the centre, which asks again.

And it waits on the clock: 3 s between two questions for a message, 0.5 s between two looks for the
reply in its own memory, and 1, 2, 4 s and more when a piece of a message is not there yet, which is
so whenever it asks early. Here the first depends on how long nothing has come: where rounds are
quick it asks often, and a plant that has waited for minutes asks as rarely as Flower's.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import httpx
from flwr.app import Error
from flwr.common.constant import SubStatus
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supercore.inflatable.inflatable_utils import pull_objects
from flwr.supernode import fleet_http_connection, start_client_internal
from flwr.supernode.cli import flower_supernode
from flwr.supernode.nodestate.in_memory_nodestate import (
    CLIENT_APP_CRASHED_ERROR,
    InMemoryNodeState,
)

from common.kept import Subprocess

FINISH, ANSWER = "finish_task", "_store_error_replies"  #: of Flower's state of a node
NO_RUN = 0  #: in place of a run's id; SuperNode only asks whether there is one

#: Seconds between two questions for a message: least, most, and as a share of the time since the
#: last one came. A hundred plants that wait for a round of an hour ask 33 times a second in all.
QUICK, SLOW, SHARE = 0.25, 3.0, 0.02
LOCAL = 0.05  #: seconds between two looks at SuperNode's own memory
#: Seconds until a missing piece is asked for again, first and at most; the time in all stays.
PIECE = {"initial_backoff": 0.1, "backoff_cap": 1.0, "max_tries_per_object": 10_000}

Pull = Callable[..., int | None]
Beat = Callable[[], bool]
Finish = Callable[[InMemoryNodeState, int, str, str], bool]
Answer = Callable[[InMemoryNodeState, set[int], Error], None]

log = logging.getLogger(__name__)


def has_reply(state: InMemoryNodeState) -> bool:
    """Whether a reply waits to be sent."""
    with state.lock_msg_store:
        return any(
            not entry.is_retrieved and entry.message.metadata.reply_to_message_id
            for entry in state.msg_store.values()
        )


def pause(waited: float) -> float:
    """Return the seconds until the next question, after so many without a message."""
    return min(SLOW, max(QUICK, SHARE * waited))


def delivering(
    pull: Pull,
    *,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Pull:
    """Return a pull that waits for a message, or until there is a reply to be sent."""

    def pulled(*, state: InMemoryNodeState, **rest: Any) -> int | None:
        began = clock()
        while (run := pull(state=state, **rest)) is None:
            if has_reply(state):
                return NO_RUN
            sleep(pause(clock() - began))
        return run

    return pulled


def lasting(beat: Beat) -> Beat:
    """Return a heartbeat that is tried again whatever the centre answers."""

    def beaten() -> bool:
        try:
            return beat()
        except httpx.HTTPError as error:
            log.warning("no heartbeat: %s", error)
        except RuntimeError as error:  # the centre does not know this node
            log.warning("%s", error)
            os.kill(os.getpid(), signal.SIGINT)
        return False

    return beaten


def told(finish: Finish) -> Finish:
    """Return a way to end tasks that answers for a ClientApp which has ended without a reply."""

    def finished(self: InMemoryNodeState, task_id: int, sub_status: str, details: str) -> bool:
        ended = finish(self, task_id, sub_status, details)
        if ended and sub_status == SubStatus.FAILED:
            tasks = self.get_tasks(task_ids=[task_id])
            runs = {task.run_id for task in tasks if task.type == TaskType.CLIENT_APP}
            self._store_error_replies(runs, CLIENT_APP_CRASHED_ERROR)
        return ended

    return finished


def untaken(answer: Answer) -> Answer:
    """Return a way to answer for ClientApps that died which also counts what they never took."""

    def answered(self: InMemoryNodeState, run_ids: set[int], error: Error) -> None:
        with self.lock_msg_store:
            for entry in self.msg_store.values():
                metadata = entry.message.metadata
                if metadata.run_id in run_ids and not metadata.reply_to_message_id:
                    entry.is_retrieved = True
            answer(self, run_ids, error)

    return answered


class Clock:
    """The module ``time`` for SuperNode's loop, whose only sleep left is that for a reply."""

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def sleep(self, seconds: float) -> None:
        time.sleep(min(seconds, LOCAL))


def mend() -> None:
    """Put all of it into Flower's module."""
    names = vars(start_client_internal)
    assert {"_pull_and_store_message", "time", "subprocess"} <= names.keys(), "another Flower"
    defaults = pull_objects.__kwdefaults__
    assert defaults is not None, "another Flower"
    assert defaults.keys() >= PIECE.keys(), "another Flower"
    names["_pull_and_store_message"] = delivering(names["_pull_and_store_message"])
    names["time"], names["subprocess"] = Clock(), Subprocess()
    for name, mended in ((FINISH, told), (ANSWER, untaken)):
        setattr(InMemoryNodeState, name, mended(getattr(InMemoryNodeState, name)))
    connection = vars(fleet_http_connection)
    assert connection.get("HeartbeatSender") is HeartbeatSender, "another Flower"
    connection["HeartbeatSender"] = lambda beat: HeartbeatSender(lasting(beat))
    defaults.update(PIECE)


def main() -> None:
    """Run SuperNode."""
    mend()
    flower_supernode()


if __name__ == "__main__":
    main()
