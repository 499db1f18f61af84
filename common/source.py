"""What a run starts from: the source weights as release 0, and which tensors of it travel.

The centre works on flat vectors and never imports torch. So it has this done by a process of its
own, which is gone before the first round::

    python -m common.source FEDERATION_TOML OUT [--layout]

It writes ``OUT/source.safetensors`` and ``OUT/source.json``, with ``--layout`` only the second:
names, shapes and what travels, without reading weights, for a run that starts from a release.
Errors go to standard output, one line each, and the exit status is 1.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.backbone import (
    Network,
    Part,
    build_for,
    load_source,
    outline_for,
    parts,
    read_tensors,
    settled,
    travelling,
)
from common.config import FederationConfig, load_federation
from common.errors import ConfigError, TransferlineError
from common.files import save_tensors, write_json
from common.orders import Release
from common.sharing import FEDERATED
from common.tasks import shared_outputs
from common.update import Schema

SOURCE = "source.safetensors"
FACTS = "source.json"


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a run starts from.

    Attributes
    ----------
    config : with ``mean`` and ``std`` of the weights, where the configuration left them open.
    release : release 0.
    travelling : names of its tensors that updates cover.
    """

    config: FederationConfig
    release: Release
    travelling: frozenset[str]


def start(config: FederationConfig, *, base: Path) -> Start:
    """Load the source weights and make release 0 of them.

    Parameters
    ----------
    base : folder that a relative path of weights starts from.

    Raises
    ------
    BackboneError
        If the weights cannot be had, or are not of the backbone.
    ConfigError
        If the head travels and nobody says for which classes.
    """
    _check_classes(config)
    source = load_source(config, base=base)
    config = source.config
    return Start(
        config=config,
        release=first_release(source.network, config),
        travelling=what_travels(source.network, config),
    )


def first_release(network: Network, config: FederationConfig) -> Release:
    """Return release 0: the whole backbone, and a head of zeros where the head travels."""
    known = parts(network)
    shared = (Part.BODY, Part.NORM)
    tensors = {n: v for n, v in read_tensors(network).items() if known[n] in shared}
    if FEDERATED[config.method].head:
        whole = outline_for(config, outputs=shared_outputs(config))
        state = whole.state_dict()
        for name, part in parts(whole).items():
            if part is Part.HEAD:
                tensors[name] = np.zeros(tuple(state[name].shape), np.float32)
    schema = Schema.of(tensors)
    return Release(number=0, schema=schema, vector=schema.flatten(tensors))


def what_travels(network: Network, config: FederationConfig) -> frozenset[str]:
    """Name the tensors that updates cover under the federation's method."""
    return travelling(network, head=FEDERATED[config.method].head, norm=config.norm_travels)


def write_source(path: Path, release: Release) -> None:
    """Write release 0 as safetensors, with its schema beside the values.

    Raises
    ------
    StateError
        If the folder cannot be written.
    """
    schema = release.schema
    save_tensors(path, schema.unflatten(release.vector), {"schema": schema.to_json()})


def main(arguments: list[str]) -> int:
    """Write the source of a federation.toml; return the exit status."""
    layout = arguments[2:] == ["--layout"]
    path, out = Path(arguments[0]), Path(arguments[1])
    try:
        config = load_federation(path)
        if layout:
            facts = _layout(config, base=path.parent)
        else:
            with redirect_stdout(sys.stderr):  # torch says there what it downloads
                begun = start(config, base=path.parent)
            write_source(out / SOURCE, begun.release)
            facts = _facts(begun.config, begun.release.schema, begun.travelling)
            facts["hash"] = begun.release.hash
        write_json(out / FACTS, facts)
    except TransferlineError as error:
        sys.stdout.write(f"{error}\n")
        return 1
    return 0


def _layout(config: FederationConfig, *, base: Path) -> Mapping[str, Any]:
    _check_classes(config)
    config = settled(config, base=base)
    network = build_for(config, outputs=2)
    schema = first_release(network, config).schema
    return _facts(config, schema, what_travels(network, config))


def _facts(config: FederationConfig, schema: Schema, names: frozenset[str]) -> dict[str, Any]:
    return {
        "config": config.model_dump(mode="json"),
        "schema": json.loads(schema.to_json()),
        "travelling": sorted(names),
    }


def _check_classes(config: FederationConfig) -> None:
    if FEDERATED[config.method].head and not shared_outputs(config):
        raise ConfigError(
            f"classes must name the classes of every plant, because {config.method} shares the "
            "head, got none; name them, or use fedper"
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
