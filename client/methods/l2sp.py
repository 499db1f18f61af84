"""L2-SP: fine-tuning with a pull to the source weights.

Li, Grandvalet and Davoine 2018, "Explicit Inductive Bias for Transfer Learning with
Convolutional Networks", https://arxiv.org/abs/1802.01483.
"""

from client.anchor import Anchor
from client.methods.base import Work
from client.methods.fine_tune import fine_tune
from client.selection import Evidence


def l2sp(work: Work) -> Evidence:
    """Minimise loss + λ/2 ‖θ − θ_source‖²; λ is ``methods.l2sp``."""
    strength = work.trainer.config.methods.l2sp
    return fine_tune(work, anchor=Anchor(point=work.point(), strength=strength))
