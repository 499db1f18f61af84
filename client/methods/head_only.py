"""Feature extraction: the backbone as it came, a linear head on its features.

Features are computed once; every epoch of the head runs on them. Donahue et al. 2014, "DeCAF",
https://arxiv.org/abs/1310.1531.
"""

import numpy as np

from client.methods.base import Work
from client.selection import Evidence, labelled


def head_only(work: Work) -> Evidence:
    """Fit the head on all labelled images; heads fitted without a fold each give the evidence."""
    trainer = work.trainer
    evidence = []
    for train, held in trainer.data.folds:
        trainer.fit_head(work.network, train)
        evidence.append(trainer.predict(work.network, held).numpy())
    trainer.fit_head(work.network, labelled(trainer.data))
    return np.concatenate(evidence)
