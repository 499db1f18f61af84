"""What travels and what stays: a network put together for a round, and taken apart after it.

A release and, over it, the plant's own part make the network that a round starts from. Of the
trained network the difference to the release travels, for the tensors that the method shares
(`common.sharing`); the rest is the plant's own part of the next round.
"""

from __future__ import annotations

import numpy as np

from client.personal import Arrays
from common.backbone import (
    Network,
    Part,
    parts,
    stage_index,
    stages,
    travelling,
    write_tensors,
)
from common.config import FederationConfig
from common.errors import UpdateError
from common.orders import Release
from common.sharing import FEDERATED
from common.update import Update


def assemble(network: Network, release: Release, *, personal: Arrays) -> Arrays:
    """Write a release and, over it, a personal part into a network.

    Returns
    -------
    What of the personal part is none of the network's: the method's own tensors.

    Raises
    ------
    UpdateError
        If the release does not hold the whole backbone, or a tensor does not fit.
    """
    known = parts(network)
    backbone = {name for name, part in known.items() if part in (Part.BODY, Part.NORM)}
    if missing := sorted(backbone - release.schema.shapes.keys()):
        raise UpdateError(
            f"release must hold every tensor of the backbone, got none for {missing[0]} and "
            f"{len(missing) - 1} more; use the backbone of the release"
        )
    write_tensors(network, release.schema.unflatten(release.vector))
    write_tensors(network, {name: value for name, value in personal.items() if name in known})
    return {name: value for name, value in personal.items() if name not in known}


def cut_update(
    network: Network, trained: Arrays, release: Release, *, config: FederationConfig, weight: int
) -> Update:
    """Return trained minus released values of the tensors that travel."""
    names = _travelling(network, config)
    schema = release.schema.subset(names)
    released = release.schema.unflatten(release.vector)
    change = {name: trained[name] - released[name] for name in schema.shapes}
    return Update(
        schema=schema,
        vector=schema.flatten(change),
        weight=weight,
        moving=names & moving(network, config),
    )


def moving(network: Network, config: FederationConfig) -> frozenset[str]:
    """Name the tensors that rounds by these settings may change, whatever the data.

    All but statistics that are frozen and the stages that ``training.freeze_until`` holds still:
    noise on what never moves would only do harm.
    """
    names = {name for name, _ in network.named_parameters()}
    if config.training.batch_norm != "frozen":
        names |= {name for name, _ in network.named_buffers()}
    first = stage_index(network, config.training.freeze_until)
    for stage in stages(network)[:first]:
        names -= set(stage.parameters)
    return frozenset(names)


def own_part(network: Network, trained: Arrays, *, config: FederationConfig) -> Arrays:
    """Return the trained tensors that do not travel."""
    names = _travelling(network, config)
    return {name: value for name, value in trained.items() if name not in names}


def head_arrived(release: Release) -> bool:
    """Whether the release brings a trained head; that of release 0 is zero."""
    heads = [where for name, _, where in release.schema.slices() if name.startswith("head.")]
    return any(bool(np.any(release.vector[where])) for where in heads)


def _travelling(network: Network, config: FederationConfig) -> frozenset[str]:
    return travelling(network, head=FEDERATED[config.method].head, norm=config.norm_travels)
