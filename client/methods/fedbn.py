"""FedBN: head and normalisation layers stay at the plant, the rest travels.

Li et al. 2021, "FedBN: Federated Learning on Non-IID Features via Local Batch Normalization",
https://arxiv.org/abs/2102.07623. Here with a personal head, since classes differ.
"""

from client.methods.base import RoundMethod


class FedBN(RoundMethod):
    """Trained as FedPer; `common.sharing` keeps the normalisation layers at home."""
