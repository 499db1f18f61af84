"""Ditto: a shared model for the others, and a personal one that is pulled to it.

Li et al. 2021, "Ditto: Fair and Robust Federated Learning Through Personalization",
https://arxiv.org/abs/2012.04221. Both have the plant's own head, since classes differ.
"""

from client.anchor import Anchor
from client.methods.base import Arrays, RoundMethod, Work
from common.backbone import write_tensors

PREFIX = "ditto."


class Ditto(RoundMethod):
    """Train the shared model as FedPer; beside it minimise loss + λ/2 ‖v − θ_release‖² for v.

    v is a whole network that stays at the plant from round to round; the pull is on its backbone,
    and λ is ``methods.ditto``. Nothing that is sent depends on v, so it is trained without noise.
    """

    def descend(self, work: Work) -> None:
        release = work.point()
        before = work.snapshot()
        work.descend()
        shared = work.snapshot()
        write_tensors(work.network, _personal(work) or before)
        anchor = Anchor(point=release, strength=work.trainer.config.methods.ditto)
        work.descend(anchor=anchor, stays=True)
        work.extra = {PREFIX + name: value for name, value in work.snapshot().items()}
        write_tensors(work.network, shared)

    def start(self, work: Work) -> None:
        write_tensors(work.network, _personal(work))


def _personal(work: Work) -> Arrays:
    """Return v by the network's names; nothing before the first round."""
    return {
        name.removeprefix(PREFIX): value
        for name, value in work.extra.items()
        if name.startswith(PREFIX)
    }
