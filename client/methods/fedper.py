"""FedPer: the backbone travels, the head stays at the plant.

Arivazhagan et al. 2019, "Federated Learning with Personalization Layers",
https://arxiv.org/abs/1912.00818.
"""

from client.methods.base import RoundMethod


class FedPer(RoundMethod):
    """Train head and backbone together; only the backbone is sent."""
