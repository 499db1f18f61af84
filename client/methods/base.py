"""The seam of the methods: how a plant trains in one round, and what it keeps.

Which tensors travel is in `common.sharing`, because the centre must know it too. Here is what
happens between "release received" and "network trained".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from client import dpsgd
from client.anchor import Anchor
from client.training import Trainer
from common.backbone import Network, read_tensors

Arrays = dict[str, npt.NDArray[np.float32]]


@dataclass(kw_only=True)
class Work:
    """What a method works on in one round.

    Attributes
    ----------
    network : holds the release and, over it, the plant's own part; trained in place.
    trainer : the loop, with the plant's data.
    first : whether the head is untrained: the plant has no personal part yet, and none came with
        the release.
    extra : further tensors that the method keeps at the plant, by names that no tensor of the
        network has; what is in here after training is stored with the personal part and given
        back in the next round.
    """

    network: Network
    trainer: Trainer
    first: bool
    extra: Arrays = field(default_factory=dict)

    @property
    def train(self) -> Tensor:
        """Indices of the examples that rounds train on."""
        return self.trainer.data.train

    @property
    def epochs(self) -> int:
        """Passes over the data in a round: ``local_epochs``, or what ``local_steps`` takes."""
        config = self.trainer.config
        steps = math.ceil(len(self.train) / config.training.batch_size)
        return max(config.local_epochs, math.ceil(config.local_steps / steps))

    @property
    def private(self) -> bool:
        """Whether the round's steps hide single images (`client.dpsgd`)."""
        return self.trainer.config.privacy.unit == "record"

    def descend(
        self,
        *,
        anchor: Anchor | None = None,
        freeze: Sequence[str] = (),
        stays: bool = False,
    ) -> None:
        """Take a round's gradient steps, at the constant step size of rounds.

        Parameters
        ----------
        stays : what is trained never leaves the plant, so its steps need no noise.
        """
        config = self.trainer.config
        if self.private and not stays:
            assert not freeze, "the configuration refuses methods that train in parts"
            dpsgd.fit(self.trainer, self.network, self.train, anchor=anchor)
            return
        self.trainer.fit(
            self.network,
            self.train,
            epochs=self.epochs,
            rate=config.training.round_learning_rate,
            anchor=anchor,
            freeze=freeze,
        )

    def point(self) -> Mapping[str, Tensor]:
        """Return the backbone's parameters as they are now, to be pulled back to."""
        return {
            name: parameter.detach().clone()
            for name, parameter in self.network.named_parameters()
            if not name.startswith(("head.", "stem."))
        }

    def snapshot(self) -> Arrays:
        """Copy every tensor of the network."""
        return read_tensors(self.network)


class Method(Protocol):
    """One way to train in rounds."""

    def train(self, work: Work) -> None:
        """Train ``work.network`` in place; what travels is read from it afterwards."""

    def start(self, work: Work) -> None:
        """Bring the personal model into ``work.network`` before the last fine-tune."""


class RoundMethod:
    """What most methods share: the head first in a plant's first round, then everything.

    Where steps hide single images, the head moves in them from zero (`client.dpsgd`).
    """

    def train(self, work: Work) -> None:
        if work.first and work.private:
            for parameter in work.network.head.parameters():
                nn.init.zeros_(parameter)
        elif work.first:
            work.trainer.fit_head(work.network, work.train)
        self.descend(work)

    def descend(self, work: Work) -> None:
        """Take the round's gradient steps."""
        work.descend()

    def start(self, work: Work) -> None:
        """Do nothing: the personal model is the release with the plant's own part."""
