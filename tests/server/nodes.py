"""Simulated nodes behind Flower's own in-memory Grid, for tests of the fleet."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from uuid import uuid4

import numpy as np
from flwr.app import Context, Message, RecordDict
from flwr.proto.task_pb2 import Task
from flwr.server.superlink.linkstate import LinkStateFactory
from flwr.server.superlink.linkstate.in_memory_linkstate import RunRecord
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME, NOOP_FEDERATION_ID
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.grid import InMemoryGrid

from client import app as bridge
from common.config import FederationConfig
from common.orders import Kind, Order, Outcome, Release, Reply
from common.update import Schema

RUN = 11
SCHEMA = Schema({"a": (6,)})
RELEASE = Release(number=0, schema=SCHEMA, vector=np.arange(6, dtype=np.float32))
Answer = Callable[[str, Order, Release], Reply]


def done(plant: str, order: Order, release: Release) -> Reply:
    return Reply(
        plant=plant,
        run=order.run,
        round=order.round,
        release=order.release,
        outcome=Outcome.DONE,
        payload=(release.vector * 2).tobytes(),
        weight=len(plant),
    )


class Nodes:
    """Simulated nodes that come and go, each answered by the bridge in a thread of its own."""

    def __init__(self) -> None:
        factory = LinkStateFactory(
            FLWR_IN_MEMORY_DB_NAME, NoOpFederationManager(), ObjectStoreFactory()
        )
        self.state = factory.state()
        run = Run.create_empty(RUN)
        run.federation_id, run.primary_task_id = NOOP_FEDERATION_ID, 1
        self.state.run_ids[RUN] = RunRecord(run=run)  # type: ignore[attr-defined]
        self.state.task_store[1] = Task(task_id=1, run_id=RUN)  # type: ignore[attr-defined]
        self.grid = InMemoryGrid(state_factory=factory)
        self.grid.set_run(run)
        self.stop = threading.Event()
        self.threads: list[threading.Thread] = []
        self.respond: Callable[[Message, Context], Message] = lambda m, c: bridge.app(m, c)

    def add(self, number: int | None) -> int:
        node = self.state.create_node(
            "aid", "name", secrets.token_bytes(32), heartbeat_interval=1e9
        )
        self.state.acknowledge_node_heartbeat(node_id=node, heartbeat_interval=1e9)
        thread = threading.Thread(target=self._serve, args=(node, number), daemon=True)
        thread.start()
        self.threads.append(thread)
        return int(node)

    def remove(self, node: int) -> None:
        self.state.deactivate_node(node)

    def close(self) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()

    def _serve(self, node: int, number: int | None) -> None:
        config = {} if number is None else {"partition-id": number}
        context = Context(
            run_id=RUN, node_id=node, node_config=config, state=RecordDict(), run_config={}
        )
        while not self.stop.is_set():
            for message in self.state.get_message_ins(node_id=node, limit=1):
                threading.Thread(target=self._answer, args=(message, context), daemon=True).start()
            time.sleep(0.01)

    def _answer(self, message: Message, context: Context) -> None:
        reply = self.respond(message, context)
        reply.metadata.__dict__["_message_id"] = str(uuid4())
        self.state.store_message_res(reply)


def order(*cohort: str, deadline: float = 20.0) -> Order:
    return Order(
        run="r",
        round=1,
        kind=Kind.TRAIN,
        release=RELEASE.hash,
        cohort=cohort,
        deadline=deadline,
        config=FederationConfig(),
    )


def task_identity() -> dict[str, int]:
    """Return what Flower's process identity is set to while a test runs."""
    return {"_run_id": RUN, "_task_id": 1, "_node_id": 1}
