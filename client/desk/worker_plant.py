"""What the training process does: reads orders, lets the plant answer, writes the replies.

The only process of a plant that loads torch and holds images, network and CUDA context, which stay
warm between orders. Nothing is pickled: an order and a reply cross as the same text and bytes that
travel. What nobody foresaw (a bug, a broken CUDA context) ends the process with its traceback in
the log; the daemon replaces it and says that the order failed.
"""

from __future__ import annotations

import json
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from client.device import choose_device
from client.plant import Plant, open_plant
from common.errors import ConfigError
from common.wire.messages import pack_reply, unpack_order
from common.wire.parts import Parts


def serve(connection: Connection, folder: Path) -> None:
    """Answer orders one after the other."""
    plant = open_plant(folder)
    if _on_gpu(plant):
        torch.zeros(1, device="cuda")  # makes the CUDA context
    while True:
        try:
            asked = json.loads(connection.recv_bytes())
            parts = Parts(head=connection.recv_bytes().decode(), vector=connection.recv_bytes())
        except EOFError:
            return
        reply, facts = _answer(plant, parts, share=asked["gpu_memory_share"])
        del parts
        connection.send_bytes(json.dumps(facts).encode())
        connection.send_bytes(reply.head.encode())
        connection.send_bytes(reply.vector or b"")
        del reply


def _answer(plant: Plant, parts: Parts, *, share: float) -> tuple[Parts, dict[str, Any]]:
    """Return the reply, and facts that stay at the plant."""
    if _on_gpu(plant):
        torch.cuda.set_per_process_memory_fraction(share)
        torch.cuda.reset_peak_memory_stats()
    plant.facts = {}
    reply = pack_reply(plant.answer(*unpack_order(parts)))
    return reply, {**plant.facts, "gpu": _gpu() if _on_gpu(plant) else None}


def _on_gpu(plant: Plant) -> bool:
    """Whether the plant trains with CUDA; a device that is not there is told with the answer."""
    try:
        return choose_device(plant.settings.device).type == "cuda"
    except ConfigError:
        return False


def _gpu() -> dict[str, Any]:
    facts = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "name": facts.name,
        "used": torch.cuda.max_memory_reserved(),
        "total": facts.total_memory,
    }
