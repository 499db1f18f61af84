"""The methods by name.

Methods in rounds (`FEDERATED`) are objects behind the `Method` seam. Methods of one plant alone
(`ALONE`) are functions that take the source backbone to a trained network; ``local`` is fine-tuning
under the name that reports use for "this plant without the federation", and ``pooled`` is the same
on all plants' data, which only the simulation can put in one place.
"""

from collections.abc import Callable

from client.methods.base import Method, Work
from client.methods.ditto import Ditto
from client.methods.fedavg import FedAvg
from client.methods.fedbn import FedBN
from client.methods.fedper import FedPer
from client.methods.fedprox import FedProx
from client.methods.fedrep import FedRep
from client.methods.fine_tune import fine_tune
from client.methods.good_parts import local, pooled, remember
from client.methods.head_only import head_only
from client.methods.l2sp import l2sp
from client.methods.simclr import SimCLR
from client.selection import Evidence
from common.tasks import KINDS, TaskName

FEDERATED: dict[str, Method] = {
    "fedavg": FedAvg(),
    "fedprox": FedProx(),
    "fedper": FedPer(),
    "fedrep": FedRep(),
    "fedbn": FedBN(),
    "ditto": Ditto(),
    "simclr": SimCLR(),
}

ALONE: dict[str, Callable[[Work], Evidence]] = {
    "head_only": head_only,
    "local": fine_tune,
    "fine_tune": fine_tune,
    "l2sp": l2sp,
    "pooled": fine_tune,
}

#: The same where the head is a memory.
REMEMBERED: dict[str, Callable[[Work], Evidence]] = {
    "head_only": remember,
    **dict.fromkeys(("local", "fine_tune", "l2sp"), local),
    "pooled": pooled,
}


def alone(method: str, *, task: TaskName) -> Callable[[Work], Evidence]:
    """Return a method of one plant alone, as the task has it."""
    return (REMEMBERED if KINDS[task].remembers else ALONE)[method]


__all__ = ["ALONE", "FEDERATED", "Method", "Work"]
