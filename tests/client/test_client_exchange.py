"""Every tensor of a network either travels or stays at the plant, under every method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from client.exchange import assemble, cut_update, head_arrived, own_part
from client.methods import FEDERATED
from common.backbone import Part, build, has_norm, parts, read_tensors
from common.config import FederationConfig
from common.errors import UpdateError
from common.orders import Release

ReleaseOf = Callable[..., Release]
Change = Callable[..., FederationConfig]


@pytest.mark.parametrize("personal_norm", [False, True])
@pytest.mark.parametrize("method", FEDERATED)
def test_what_travels_and_what_stays(
    small_config: FederationConfig,
    release_of: ReleaseOf,
    changed: Change,
    method: str,
    personal_norm: bool,
) -> None:
    config = changed(small_config, method=method, methods={"personal_norm": personal_norm})
    network = build(config.backbone, classes=2, image_size=32)
    release, known = release_of(config), parts(network)
    trained = {name: value + np.float32(0.5) for name, value in read_tensors(network).items()}
    update = cut_update(network, trained, release, config=config, weight=7)
    own = own_part(network, trained, config=config)

    sent = set(update.schema.shapes)
    assert sent.isdisjoint(own)
    assert sent | own.keys() == known.keys()
    stays = {known[name] for name in own}
    expected = set() if method in ("fedavg", "fedprox") else {Part.HEAD}
    assert stays == expected | ({Part.NORM} if personal_norm or method == "fedbn" else set())
    body = update.schema.unflatten(update.vector)["backbone.conv1.0.weight"]
    np.testing.assert_allclose(body, 0.5, atol=1e-6)
    assert update.weight == 7


def test_own_part_lies_over_the_release(
    small_config: FederationConfig, release_of: ReleaseOf, changed: Change
) -> None:
    config = changed(small_config, method="fedbn")
    network = build(config.backbone, classes=2, image_size=32)
    before = read_tensors(network)
    own = own_part(network, before, config=config)
    method_part = {"ditto.head.bias": np.ones(2, np.float32)}
    release = release_of(config, shift=0.25)
    extra = assemble(network, release, personal={**own, **method_part})
    after, known = read_tensors(network), parts(network)
    assert extra.keys() == method_part.keys()
    for name, value in after.items():
        shift = 0.25 if known[name] is Part.BODY else 0.0
        np.testing.assert_allclose(value, before[name] + np.float32(shift), atol=1e-6)


def test_a_backbone_without_norm_keeps_its_head_alone(
    small_config: FederationConfig, changed: Change
) -> None:
    config = changed(small_config, method="fedbn", backbone="squeezenet1_1")
    network = build(config.backbone, classes=2, image_size=32)
    assert not has_norm(network)
    assert set(own_part(network, read_tensors(network), config=config)) == {
        "head.weight",
        "head.bias",
    }


def test_a_release_must_hold_the_whole_backbone(
    small_config: FederationConfig, release_of: ReleaseOf
) -> None:
    network = build(small_config.backbone, classes=2, image_size=32)
    release = release_of(small_config)
    names = list(release.schema.shapes)
    schema = release.schema.subset(frozenset(names[1:]))
    part = replace(release, schema=schema, vector=np.zeros(schema.size, np.float32))
    with pytest.raises(UpdateError, match=f"every tensor of the backbone, got none for {names[0]}"):
        assemble(network, part, personal={})


def test_a_head_of_zeros_is_no_head(
    small_config: FederationConfig, release_of: ReleaseOf, changed: Change
) -> None:
    assert not head_arrived(release_of(small_config))
    release = release_of(changed(small_config, method="fedavg"))
    assert not head_arrived(release)
    assert head_arrived(replace(release, vector=release.vector + np.float32(1)))
