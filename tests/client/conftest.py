"""A plant of the small ones, orders for it, and data that needs no files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from client.layout import keep, lay_out
from client.plant import Plant
from client.tasks.data import PlantData
from client.tasks.images import ImageTask, Selection
from client.training import Trainer
from common.backbone import Network, build, read_tensors
from common.config import CentreSection, FederationConfig, PlantConfig
from common.orders import Kind, Order, Release
from common.pki import Authority, Role, Trust, make_identity
from common.sharing import FEDERATED
from common.signing import Signer
from common.toml import commented
from common.update import Schema
from common.wire.messages import pack_order
from common.wire.parts import Parts
from common.wire.seals import seal_order

HALF = (0.5, 0.5, 0.5)


def change(config: FederationConfig, **fields: Any) -> FederationConfig:
    """Change settings; those of a table are given as ``training={...}``."""
    tables = {
        name: getattr(config, name).model_copy(update=value)
        for name, value in fields.items()
        if isinstance(value, dict)
    }
    return config.model_copy(update=fields | tables)


@pytest.fixture(scope="session")
def changed() -> Callable[..., FederationConfig]:
    return change


@pytest.fixture
def plant_of(small_plants: Path, tmp_path: Path) -> Callable[..., Plant]:
    """Return ``plant_of(name="ash", **settings)``, which makes and opens a plant's folder."""

    def make(name: str = "ash", *, folder: str = "", **settings: Any) -> Plant:
        config = PlantConfig(name=name, data=str(small_plants / name), device="cpu", **settings)
        return Plant.create(tmp_path / (folder or name), config)

    return make


@pytest.fixture(scope="session")
def release_of() -> Callable[..., Release]:
    """Return ``release_of(config, number=0, shift=0.0)``: source weights, plus a constant."""

    def make(config: FederationConfig, *, number: int = 0, shift: float = 0.0) -> Release:
        network = build(config.backbone, classes=2, image_size=config.image_size)
        tensors = {n: v for n, v in read_tensors(network).items() if not n.startswith("head.")}
        if FEDERATED[config.method].head:
            tensors["head.weight"] = np.zeros((2, network.features), np.float32)
            tensors["head.bias"] = np.zeros(2, np.float32)
        schema = Schema.of(tensors)
        vector = schema.flatten(tensors) + np.float32(shift)
        return Release(number=number, schema=schema, vector=vector)

    return make


@pytest.fixture(scope="session")
def order_for() -> Callable[..., Order]:
    """Return ``order_for(config, release, round=1, **fields)``."""

    def make(config: FederationConfig, release: Release, **fields: Any) -> Order:
        settings: dict[str, Any] = {
            "run": "seed-0",
            "round": 1,
            "kind": Kind.TRAIN,
            "release": release.hash,
            "cohort": ("ash", "elm", "oak"),
            "deadline": 60.0,
            "config": config,
        }
        return Order(**(settings | fields))

    return make


def toy_data(*, train: int = 24, held: int = 8, folds: int = 1) -> PlantData:
    """Make two classes, in turns, that differ in brightness; all images are labelled."""
    count = train + held
    labels = torch.arange(count) % 2
    noise = torch.randn((count, 3, 32, 32), generator=torch.Generator().manual_seed(1))
    images = (100 + 60 * labels[:, None, None, None] + 20 * noise).clamp(0, 255).byte()
    every = torch.arange(count)
    if folds == 1:
        pairs = [(every[:train], every[train:])]
    else:
        parts = [every[every // 2 % folds == fold] for fold in range(folds)]
        pairs = [(every[~torch.isin(every, held)], held) for held in parts]
    return PlantData(
        classes=("dark", "light"),
        good="",
        inputs=images,
        targets=labels,
        names=tuple(f"{number}.png" for number in range(count)),
        train=pairs[0][0],
        validation=pairs[0][1],
        test=every[:0],
        folds=tuple(pairs),
    )


class Tiny(nn.Module):
    """Two stages with batch norm, and dropout; identity in the place of the class layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.BatchNorm2d(4), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(4, 8, 3, stride=4), nn.BatchNorm2d(8), nn.ReLU())
        self.drop = nn.Dropout(0.1)

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.second(self.first(images))
        features: Tensor = self.drop(10 * maps.mean((2, 3)))
        return features


@pytest.fixture
def tiny() -> Callable[[], Network]:
    """Return what builds a network of 400 parameters, always the same."""

    def make() -> Network:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return Network(Tiny(), features=8, classes=2)

    return make


@pytest.fixture(scope="session")
def toy() -> Callable[..., PlantData]:
    return toy_data


@pytest.fixture
def trainer_of(small_config: FederationConfig) -> Callable[..., Trainer]:
    """Return ``trainer_of(data=None, seed=0, privacy={}, **training)``."""

    def make(
        data: PlantData | None = None,
        *,
        seed: int = 0,
        privacy: dict[str, Any] | None = None,
        **training: Any,
    ) -> Trainer:
        augment = training.get("augment", 1.0)
        return Trainer(
            task=ImageTask(
                selection=Selection(),
                mean=HALF,
                std=HALF,
                augment=augment,
                label_smoothing=training.get("label_smoothing", 0.1),
            ),
            data=data or toy_data(),
            config=change(small_config, training=training, privacy=privacy or {}),
            device=torch.device("cpu"),
            seed=seed,
        )

    return make


@dataclass(frozen=True, kw_only=True)
class Centre:
    """A federation's CA, and the key that signs its orders."""

    authority: Authority
    release: Signer

    @property
    def trust(self) -> Trust:
        return Trust.of(self.authority.pem)

    def seal(self, order: Order, release: Release) -> Parts:
        """Return a signed order, with a nonce of its own."""
        return seal_order(pack_order(order, release), order, signer=self.release)

    def enrol(self, folder: Path, *, name: str, days: int = 30, at: datetime | None = None) -> None:
        """Write the identity of a plant into its folder."""
        key = make_identity(folder / "identity")
        at = at or datetime.now(UTC)
        pem = self.authority.issue(key.public_key(), name=name, role=Role.PLANT, days=days, at=at)
        (folder / "identity" / "identity.pem").write_text(pem)
        (folder / "identity" / "ca.pem").write_text(self.authority.pem)


def make_centre(folder: Path) -> Centre:
    """Make a CA and a release key."""
    authority = Authority.create(folder / "pki", federation="acme")
    key = make_identity(folder / "release")
    pem = authority.issue(key.public_key(), name="release", role=Role.RELEASE, days=30)
    return Centre(authority=authority, release=Signer(key=key, certificate=pem, name="release"))


@pytest.fixture(scope="session")
def centre(tmp_path_factory: pytest.TempPathFactory) -> Centre:
    """Return the centre of all signed orders."""
    return make_centre(tmp_path_factory.mktemp("centre"))


@pytest.fixture
def other_centre(tmp_path: Path) -> Centre:
    """Return a centre of a CA of its own."""
    return make_centre(tmp_path / "other-centre")


@pytest.fixture
def enrolled(plant_of: Callable[..., Plant], centre: Centre) -> Callable[..., Plant]:
    """Return ``enrolled(name="ash", **settings)``: as ``plant_of``, with an identity."""

    def make(name: str = "ash", **settings: Any) -> Plant:
        plant = plant_of(name, **settings)
        (plant.folder / "link").mkdir()
        centre.enrol(plant.folder, name=name)
        return plant

    return make


@pytest.fixture
def joined(
    small_plants: Path, small_config: FederationConfig, centre: Centre, tmp_path: Path
) -> Callable[..., Path]:
    """Return ``joined(name="ash", days=30, at=now, **settings)``: a folder after joining."""

    def make(
        name: str = "ash", *, days: int = 30, at: datetime | None = None, **settings: Any
    ) -> Path:
        folder = tmp_path / f"plant-{name}"
        lay_out(folder, link=None)
        centre.enrol(folder, name=name, days=days, at=at)
        keep(folder / "federation.json", small_config.model_dump_json())
        places = CentreSection(federation="acme", fleet="localhost:1", enrolment="localhost:1")
        told = {"name": name, "data": str(small_plants / name), "device": "cpu", "centre": places}
        config = PlantConfig(**(told | settings))
        keep(folder / "plant.toml", commented(PlantConfig, title="plant.toml", values=config))
        return folder

    return make


@pytest.fixture
def passable() -> Iterator[Path]:
    """Return a folder that other users can reach; those of pytest are closed to them."""
    with TemporaryDirectory(prefix="transferline-") as name:
        Path(name).chmod(0o711)
        yield Path(name)
