"""A plant: order in, answer out. The parts are in the files beside this one.

A plant's folder holds all that it knows, so that the process may be killed at any moment::

    plant.toml                 name, data folder, classes, margin of the no-harm rule
    personal/<n>/              personal parts of rounds, and whole models that were candidates
    personal/deployed.json     which model inspects parts now, and why
    outbox/                    answers given, so that the same order gets the same bytes
    cache/                     decoded images

Everything random comes from (seed, round, plant), so an order that is asked again after a crash is
trained again to the same bytes.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from client import adoption
from client.methods import ALONE, FEDERATED, Work
from client.outbox import Outbox
from client.personal import EVIDENCE, Arrays, PersonalStore, Version
from client.protection import protect
from client.selection import Evidence, judged
from client.tasks import TASKS
from client.tasks.images import ImageData, ImageTask, Selection
from client.tasks.metrics import Prediction
from client.training import Trainer, choose_device, quick_scores
from common.backbone import Network, build, read_tensors, travelling, write_tensors
from common.config import FederationConfig, PlantConfig
from common.errors import ConfigError, TransferlineError, UpdateError
from common.files import write_atomic
from common.orders import Kind, Order, Outcome, Release, Reply
from common.sharing import FEDERATED as SHARING
from common.toml import literal, read_toml, validate
from common.update import Schema, Update

log = logging.getLogger(__name__)

Scores = dict[str, dict[str, float]]


@cache
def open_plant(folder: Path) -> Plant:
    """Open a plant once a process: dataset, network and device stay warm between rounds."""
    return Plant.open(folder)


@dataclass(kw_only=True)
class Plant:
    """One plant, open in this process."""

    folder: Path
    settings: PlantConfig
    _data: dict[int, ImageData] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path) -> Plant:
        """Open a plant's folder.

        Raises
        ------
        ConfigError
            If plant.toml is missing or wrong.
        """
        path = folder / "plant.toml"
        return cls(folder=folder, settings=validate(PlantConfig, read_toml(path), name=str(path)))

    @classmethod
    def create(cls, folder: Path, settings: PlantConfig) -> Plant:
        """Write plant.toml into a new folder, or the same one into an old folder, and open it."""
        text = "".join(
            f"{name} = {literal(value)}\n"
            for name, value in settings.model_dump(mode="json").items()
            if value is not None
        )
        write_atomic(folder / "plant.toml", text.encode())
        return cls.open(folder)

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def store(self) -> PersonalStore:
        return PersonalStore(self.folder / "personal")

    @property
    def outbox(self) -> Outbox:
        return Outbox(self.folder / "outbox")

    # -- what engines call -------------------------------------------------------------------

    def answer(self, order: Order, release: Release) -> Reply:
        """Answer one order; every failure is an answer too, with the plant's state as it was."""
        try:
            self._check(order, release)
            if (kept := self.outbox.find(order)) is not None:
                return kept
            reply = self._train(order, release) if order.kind is Kind.TRAIN else self._adopt(
                order, release
            )
            self.outbox.put(order, reply)
        except TransferlineError as error:
            log.warning("%s: round %d: %s", self.name, order.round, error)
            outcome = Outcome.DECLINED if isinstance(error, UpdateError) else Outcome.FAILED
            return self._reply(order, outcome=outcome, reason=error.code)
        return reply

    def train_alone(self, method: str, *, source: Release, config: FederationConfig) -> Version:
        """Train a whole model from the source release at this plant only, and keep it.

        The first model a plant ever has is deployed; it is what the federation must not worsen.
        """
        basis = _basis(method, source, config)
        version = self.store.find(kind=method, basis=basis)
        if version is None:
            work = self._work(source, config, seed=self._seed(config, method))
            evidence = ALONE[method](work)
            version = self._keep(work, evidence, kind=method, basis=basis)
        if method == "local" and self.store.deployed() is None:
            self.store.deploy(version, why="trained at this plant alone")
        return version

    def test(self, version: int, *, config: FederationConfig) -> Prediction:
        """Judge the test images with a stored model; for the report only."""
        data = self.data(config)
        network = self._network(config)
        write_tensors(network, self.store.model(version))
        probabilities = self._trainer(config, seed=0).predict(network, data.test)
        index = data.test.cpu()
        return Prediction(
            truth=data.labels[index].cpu().numpy(),
            probabilities=probabilities.numpy(),
            files=tuple(data.files[i] for i in index.tolist()),
        )

    def data(self, config: FederationConfig) -> ImageData:
        """Load the plant's data once; it stays in memory."""
        size = config.image_size
        if size not in self._data:
            folder = (self.folder / self.settings.data).resolve()
            data = self.task(config).load(folder, cache=self.folder / "cache")
            self._data[size] = data.to(choose_device(self.settings.device))
        return self._data[size]

    # -- the two kinds of order --------------------------------------------------------------

    def _train(self, order: Order, release: Release) -> Reply:
        """Evaluate the release, train from it, store the personal part, return the update."""
        clock = Clock()
        config = order.config
        before = self.store.before(run=order.run, round=order.round)
        work = self._work(release, config, seed=self._seed(config, order.round), personal=before)
        scores: Scores = {}
        with clock("evaluate"):
            if not work.first:
                scores["incoming"] = work.trainer.validate(work.network)
        with clock("train"):
            FEDERATED[config.method].train(work)
            scores["trained"] = work.trainer.validate(work.network)
        with clock("protect"):
            trained = read_tensors(work.network)
            update = protect(self._cut(trained, release, work, config), config)
        self.store.add(
            {**self._own(trained, work, config), **work.extra},
            kind="round",
            run=order.run,
            round=order.round,
            basis=order.release,
            scores=scores["trained"],
        )
        return self._reply(
            order,
            vector=update.vector,
            schema=update.schema.digest,
            weight=update.weight,
            scores=scores,
            seconds=clock.seconds,
        )

    def _adopt(self, order: Order, release: Release) -> Reply:
        """Fine-tune the release at the plant, and deploy it if the no-harm rule allows."""
        clock = Clock()
        config = order.config
        before = self.store.before(run=order.run, round=order.round)
        work = self._work(release, config, seed=self._seed(config, "adopt"), personal=before)
        scores: Scores = {}
        with clock("evaluate"):
            if not work.first:
                FEDERATED[config.method].start(work)
                scores["incoming"] = work.trainer.validate(work.network)
        with clock("tune"):
            tune = "fine_tune" if config.methods.personal_fine_tune else "head_only"
            evidence = ALONE[tune](work)
        with clock("adopt"):
            basis = _basis("federated", release, config)
            version = self._keep(work, evidence, kind="federated", basis=basis, order=order)
            notes = self._decide(version, work.trainer.data)
            scores["tuned"] = dict(version.scores)
            scores["deployed"] = dict(self.store.version(notes["version"]).scores)
        return self._reply(order, scores=scores, seconds=clock.seconds, notes=notes)

    def _decide(self, candidate: Version, data: ImageData) -> dict[str, Any]:
        """Apply the no-harm rule to a stored candidate."""
        store = self.store
        deployed = store.deployed()
        if deployed is None:
            store.deploy(candidate, why="the plant had no model before")
        elif deployed.version != candidate.number:
            current = store.version(deployed.version)
            verdict = adoption.judge(
                store.evidence(current),
                store.evidence(candidate),
                data.labels[judged(data)].cpu().numpy(),
                margin=self.settings.adoption_margin,
            )
            store.deploy(candidate if verdict.adopt else current, why=verdict.why)
        now = store.deployed()
        assert now is not None
        adopted = now.version == candidate.number
        return {"adopted": adopted, "source": now.source, "why": now.why, "version": now.version}

    # -- parts -------------------------------------------------------------------------------

    def _check(self, order: Order, release: Release) -> None:
        if self.name not in order.cohort:
            raise UpdateError(f"order must name this plant in its cohort, got {order.cohort}")
        if release.hash != order.release:
            raise UpdateError(
                f"release must have the hash of the order {order.release[:12]}, got "
                f"{release.hash[:12]}"
            )
        classes = order.config.classes
        if SHARING[order.config.method].head and classes != self.data(order.config).classes:
            raise UpdateError(
                f"classes must be {list(classes)} for {order.config.method}, got "
                f"{list(self.data(order.config).classes)}; use fedper"
            )

    def _work(
        self,
        release: Release,
        config: FederationConfig,
        *,
        seed: int,
        personal: Version | None = None,
    ) -> Work:
        """Put a release and, over it, the plant's own part into a network."""
        network = self._network(config)
        write_tensors(network, release.schema.unflatten(release.vector))
        extra: Arrays = {}
        if personal is not None:
            kept = self.store.load(personal)
            known = {name for name in kept if name in read_names(network)}
            write_tensors(network, {name: kept[name] for name in known})
            extra = {name: value for name, value in kept.items() if name not in known}
        return Work(
            network=network,
            trainer=self._trainer(config, seed=seed),
            first=personal is None and not _head_arrived(release),
            extra=extra,
        )

    def _network(self, config: FederationConfig) -> Network:
        data = self.data(config)
        network = build(config.backbone, classes=len(data.classes), image_size=config.image_size)
        network.to(choose_device(self.settings.device), memory_format=torch.channels_last)
        return network

    def _trainer(self, config: FederationConfig, *, seed: int) -> Trainer:
        device = choose_device(self.settings.device)
        task, data = self.task(config), self.data(config)
        return Trainer(task=task, data=data, config=config, device=device, seed=seed)

    def task(self, config: FederationConfig) -> ImageTask:
        settings = self.settings
        if config.mean is None or config.std is None:
            raise ConfigError("mean and std must be set before training; take those of the weights")
        return TASKS[config.task](
            selection=Selection(
                classes=settings.classes,
                good=settings.good,
                labels_per_class=settings.labels_per_class,
                test_per_class=settings.test_per_class,
                image_size=config.image_size,
                seed=settings.seed,
            ),
            mean=config.mean,
            std=config.std,
            augment=config.training.augment,
            false_reject_budget=config.false_reject_budget,
        )

    def _cut(
        self, trained: Arrays, release: Release, work: Work, config: FederationConfig
    ) -> Update:
        """Trained minus released values of the tensors that travel."""
        head = SHARING[config.method].head
        names = travelling(work.network, head=head, norm=config.norm_travels)
        schema = release.schema.subset(names)
        released = release.schema.unflatten(release.vector)
        change = {name: trained[name] - released[name] for name in schema.shapes}
        return Update(schema=schema, vector=schema.flatten(change), weight=len(work.train))

    def _own(self, trained: Arrays, work: Work, config: FederationConfig) -> Arrays:
        """The personal part: every tensor that does not travel."""
        head = SHARING[config.method].head
        names = travelling(work.network, head=head, norm=config.norm_travels)
        own = {name: value for name, value in trained.items() if name not in names}
        return own or {"none": np.zeros(1, np.float32)}

    def _keep(
        self,
        work: Work,
        evidence: Evidence,
        *,
        kind: str,
        basis: str,
        order: Order | None = None,
    ) -> Version:
        """Store the whole network as a candidate, with its evidence."""
        data = work.trainer.data
        truth = data.labels[judged(data)].cpu()
        return self.store.add(
            {**read_tensors(work.network), EVIDENCE: evidence},
            kind=kind,
            run=order.run if order else "",
            round=order.round if order else 0,
            basis=basis,
            scores=quick_scores(torch.from_numpy(evidence), truth),
        )

    def _seed(self, config: FederationConfig, moment: object) -> int:
        text = f"{config.seed}/{moment}/{self.name}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")

    def _reply(
        self, order: Order, *, outcome: Outcome = Outcome.DONE, **rest: object
    ) -> Reply:
        return Reply(
            plant=self.name,
            run=order.run,
            round=order.round,
            release=order.release,
            outcome=outcome,
            **rest,  # type: ignore[arg-type]
        )


class Clock:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.seconds[phase] = round(time.monotonic() - start, 3)


def read_names(network: Network) -> set[str]:
    """Names of all tensors that a network's snapshot has."""
    return set(Schema.of(read_tensors(network)).shapes)


def _head_arrived(release: Release) -> bool:
    """Whether the release brings a trained head."""
    place = {name: where for name, _, where in release.schema.slices()}
    return "head.weight" in place and bool(np.any(release.vector[place["head.weight"]]))


def _basis(kind: str, release: Release, config: FederationConfig) -> str:
    """Names what a stored model was made from: nothing else changes its bytes."""
    used = {"backbone", "image_size", "mean", "std", "seed", "threads", "training", "methods"}
    text = f"{kind}/{release.hash}/{config.model_dump_json(include=used)}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]
