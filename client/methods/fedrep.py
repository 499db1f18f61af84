"""FedRep: each round the head is fitted to the incoming backbone, then the backbone moves alone.

Collins et al. 2021, "Exploiting Shared Representations for Personalized Federated Learning",
https://arxiv.org/abs/2102.07078. The head is refitted from zero on cached features, which is the
paper's many head steps at the price of one forward pass.
"""

from client.methods.base import RoundMethod, Work


class FedRep(RoundMethod):
    """Head on frozen features, then backbone under a fixed head."""

    def train(self, work: Work) -> None:
        work.trainer.fit_head(work.network, work.train)
        work.descend(freeze=("head",))
