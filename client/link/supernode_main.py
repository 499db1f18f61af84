"""``flower-supernode`` that delivers every reply, for the link.

Flower's SuperNode (1.41) takes one message, waits for one reply, sends it, and so on. When the
centre dies while a message is being delivered, SuperNode drops the message but not the ClientApp
that it has started for it. That one's reply is then taken for the next message's: from there on
each reply is sent one message too late, and the plant misses every round until its SuperNode is
started anew. Here replies that are there are sent whenever no message comes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flwr.supernode import start_client_internal
from flwr.supernode.cli import flower_supernode
from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

NO_RUN = 0  #: in place of a run's id; SuperNode only asks whether there is one

Pull = Callable[..., int | None]


def has_reply(state: InMemoryNodeState) -> bool:
    """Whether a reply waits to be sent."""
    with state.lock_msg_store:
        return any(
            not entry.is_retrieved and entry.message.metadata.reply_to_message_id
            for entry in state.msg_store.values()
        )


def delivering(pull: Pull) -> Pull:
    """Return a pull that has SuperNode send what is there when no message has come."""

    def pulled(*, state: InMemoryNodeState, **rest: Any) -> int | None:
        run = pull(state=state, **rest)
        return NO_RUN if run is None and has_reply(state) else run

    return pulled


def main() -> None:
    """Run SuperNode."""
    names = vars(start_client_internal)
    assert "_pull_and_store_message" in names
    names["_pull_and_store_message"] = delivering(names["_pull_and_store_message"])
    flower_supernode()


if __name__ == "__main__":
    main()
