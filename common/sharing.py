"""Which tensors of a model travel under each method: the one table both sides agree on.

The server builds releases and checks replies with it, the plant cuts its update with it. How a
method trains is the plant's business (`client.methods`).
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """What a method lets travel.

    Attributes
    ----------
    backbone : the backbone's weights travel; without it nothing does.
    head : the head travels too, so every plant must have the same classes.
    norm : normalisation layers (weights and statistics) travel.
    """

    backbone: bool = True
    head: bool = False
    norm: bool = True


#: Methods that take part in rounds.
FEDERATED = {
    "fedavg": Sharing(head=True),
    "fedprox": Sharing(head=True),
    "fedper": Sharing(),
    "fedrep": Sharing(),
    "fedbn": Sharing(norm=False),
    "ditto": Sharing(),
    "simclr": Sharing(),
}

#: Of these, methods that learn from images without labels too.
SELF_SUPERVISED = frozenset({"simclr"})

#: Methods of one plant alone (``pooled``: of all plants' data in one place, simulation only).
ALONE = ("head_only", "local", "fine_tune", "l2sp", "pooled")
