"""Fine-tuning: head first, then everything from ``freeze_until`` on, best state kept.

Yosinski et al. 2014, "How transferable are features in deep neural networks?",
https://arxiv.org/abs/1411.1792, for freezing the first stages. The head alone, before the first
epoch, is a candidate for the best state: what is kept is at most one validation image worse.
"""

from collections.abc import Callable

from torch import Tensor

from client.anchor import Anchor
from client.methods.base import Work
from client.selection import Evidence, fit_and_choose
from common.backbone import Network


def fine_tune(work: Work, *, anchor: Anchor | None = None) -> Evidence:
    """Run the recipe from the backbone that ``work.network`` holds."""
    trainer = work.trainer
    training = trainer.config.training

    def fit(network: Network, indices: Tensor, after: Callable[[Network], bool]) -> None:
        trainer.fit_head(network, indices)
        if not after(network):
            trainer.fit(
                network,
                indices,
                epochs=training.epochs,
                anchor=anchor,
                after_epoch=after,
            )

    return fit_and_choose(work.network, trainer, fit)
