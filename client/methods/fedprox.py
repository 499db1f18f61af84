"""FedProx: FedAvg with a pull to the release, against the drift of plants that differ.

Li et al. 2020, "Federated Optimization in Heterogeneous Networks",
https://arxiv.org/abs/1812.06127.
"""

from client.anchor import Anchor
from client.methods.base import RoundMethod, Work


class FedProx(RoundMethod):
    """Minimise loss + μ/2 ‖θ − θ_release‖²; μ is ``methods.prox``, θ the backbone.

    The head travels but is not pulled: in a plant's first round it has just been fitted from zero.
    """

    def descend(self, work: Work) -> None:
        anchor = Anchor(point=work.point(), strength=work.trainer.config.methods.prox)
        work.descend(anchor=anchor)
