"""FedAvg: everything travels, so every plant must have the same classes.

McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks from Decentralized Data",
https://arxiv.org/abs/1602.05629.
"""

from client.methods.base import RoundMethod


class FedAvg(RoundMethod):
    """Train everything for some epochs; the centre averages."""
