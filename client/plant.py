"""A plant: order in, answer out. The parts are in the files beside this one.

A plant's folder holds all that it knows, so that the process may be killed at any moment::

    plant.toml                 name, data folder and what is in it, margin of the no-harm rule
    personal/<n>/              personal parts of rounds, and whole models that were candidates
    personal/deployed.json     which model inspects parts now, and why
    outbox/                    answers given, so that the same order gets the same bytes
    cache/                     data as it was read

Everything random comes from (seed, round, plant), so an order that is asked again after a crash is
trained again to the same bytes.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from client import adoption
from client.clock import Clock
from client.desk.outbox import Outbox
from client.desk.policy import hides
from client.desk.spending import Spending
from client.device import choose_device, gpu_memory
from client.earlier import asked_again, start_anew
from client.exchange import assemble, cut_update, head_arrived, own_part
from client.fitting import misfit, network_for, paired_of, predicted_of, read_by
from client.layout import open_settings
from client.methods import FEDERATED, Work, alone
from client.origin import basis, judged_examples, seed_of
from client.personal import EVIDENCE, PersonalStore, Version
from client.protection import protect
from client.selection import Evidence, judged
from client.tasks import PlantData, Task, task_of
from client.tasks.meaning import Meaning
from client.tasks.metrics import Prediction
from client.training import Trainer
from common.agreed import at_plant
from common.backbone import Network, read_tensors, write_tensors
from common.config import FederationConfig, PlantConfig, load_plant
from common.errors import DataError, PolicyError, TransferlineError, UpdateError
from common.files import write_atomic
from common.forms import Turn
from common.orders import Kind, Order, Outcome, Release, Reply
from common.sharing import FEDERATED as SHARING
from common.toml import commented

log = logging.getLogger(__name__)

#: Name under which what the last update left out lies beside the personal part.
LEFT = "update.left"

Scores = dict[str, dict[str, float]]


@cache
def open_plant(folder: Path) -> Plant:
    """Open a plant once a process: its data stays in memory, on the device, between rounds."""
    return Plant.open(folder)


@dataclass(kw_only=True)
class Plant:
    """One plant, open in this process.

    Attributes
    ----------
    folder : the plant's own; see the top of this file.
    settings : what is in plant.toml.
    facts : of the last order that was worked out, for the plant itself (`client.desk.ledger`); they
        never travel.
    """

    folder: Path
    settings: PlantConfig
    facts: dict[str, Any] = field(default_factory=dict)
    _data: dict[str, PlantData] = field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, folder: Path) -> Plant:
        """Open a plant's folder.

        Raises
        ------
        ConfigError
            If plant.toml is missing or wrong.
        """
        return cls(folder=folder, settings=open_settings(folder))

    @classmethod
    def create(cls, folder: Path, settings: PlantConfig) -> Plant:
        """Write plant.toml into a new folder, or the same one into an old folder, and open it."""
        text = commented(PlantConfig, title="plant.toml: what stays at the plant", values=settings)
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

    @property
    def spending(self) -> Spending:
        return Spending(self.folder)

    def answer(self, order: Order, release: Release) -> Reply:
        """Answer one order; every failure is an answer too, with the plant's state as it was.

        The same order again gets the same answer. An order that is not for this plant, does not
        fit the release, or is another one for an answered round is declined.
        """
        try:
            self._check(order, release)
            if (kept := self.outbox.find(order)) is not None:
                return kept
            work_out = self._train if order.kind is Kind.TRAIN else self._adopt
            policy = load_plant(self.folder / "plant.toml").policy
            if order.kind is Kind.TRAIN:
                self.spending.charge(order, policy)
            with gpu_memory():
                reply = work_out(order, release)
            if hides(order.config, policy):
                reply = self._hidden(reply)
            if order.kind is Kind.TRAIN:
                self.spending.sending(order)
            self.outbox.put(order, reply)
        except PolicyError as error:
            log.warning("%s: round %d: %s", self.name, order.round, error)
            return self._reply(order, outcome=Outcome.DECLINED, reason=str(error))
        except TransferlineError as error:
            log.warning("%s: round %d: %s", self.name, order.round, error)
            outcome = Outcome.DECLINED if isinstance(error, UpdateError) else Outcome.FAILED
            return self._reply(order, outcome=outcome, reason=error.code)
        return reply

    def train_alone(self, method: str, *, source: Release, config: FederationConfig) -> Version:
        """Train a whole model from the source release at this plant only, and keep it.

        A model that was trained from the same source, settings and data is not trained again. The
        ``local`` model is deployed where there is none, or one from other images: it is what the
        federation must not worsen.

        Raises
        ------
        TransferlineError
            If the data, the settings or the training fail; the plant's state is as it was.
        """
        made_from = basis(method, release=source, config=config, data=self.data(config))
        version = self.store.find(kind=method, basis=made_from)
        if version is None:
            with gpu_memory():
                work = self._work(source, config, moment=method)
                evidence = alone(method, task=config.task)(work)
                version = self._keep(work, evidence, kind=method, made_from=made_from)
        if method == "local":
            adoption.begin(self.store, version)
        return version

    def test(
        self, version: int, *, config: FederationConfig, indices: Tensor | None = None
    ) -> Prediction:
        """Judge the test examples, or others, with a stored whole model; for the report only."""
        data = self.data(config)
        indices = data.test if indices is None else indices
        network = self.model(version, config=config)
        predicted = self._trainer(config, seed=0).predict(network, indices)
        return predicted_of(data, indices, predicted)

    def model(self, version: int, *, config: FederationConfig) -> Network:
        """Return a stored whole model, as it was made: today's data has no say in it."""
        meaning = Meaning.of(self.store.version(version).meaning, where=f"model {version}")
        network = self.network(config, meaning=meaning)
        write_tensors(network, self.store.model(version))
        return network

    def data(self, config: FederationConfig) -> PlantData:
        """Load the plant's data once; it stays in memory."""
        key = read_by(config)
        if key not in self._data:
            folder = (self.folder / self.settings.data).resolve()
            data = self.task(config).load(folder, cache=self.folder / "cache")
            self._data[key] = data.to(choose_device(self.settings.device))
        return self._data[key]

    def _train(self, order: Order, release: Release) -> Reply:
        """Evaluate the release, train from it, store the personal part, return the update."""
        clock, config = Clock(), order.config
        scores: Scores = {}
        with clock("alone"):
            if (local := self._local(release, config)) is not None:
                scores["local"] = dict(local.scores)
        meaning, unit = self.data(config).text, config.privacy.unit
        # Private steps go on from private steps alone: a head, or a rest of an update, that was
        # made without their noise would carry every image into what is sent.
        before = self.store.before(
            run=order.run,
            round=order.round,
            meaning=meaning,
            unit=unit if unit == "record" else None,
        )
        work = self._work(release, config, moment=order.round, personal=before)
        left = work.extra.pop(LEFT, None)
        with clock("evaluate"):
            if not work.first:
                scores["incoming"] = work.trainer.validate(work.network)
        with clock("train"):
            FEDERATED[config.method].train(work)
            scores["trained"] = work.trainer.validate(work.network)
        with clock("protect"):
            trained, weight = work.snapshot(), len(work.train)
            if config.private:
                # A count of images would tell of one; so plants count alike.
                weight = config.server.max_weight
            update = cut_update(work.network, trained, release, config=config, weight=weight)
            turn = Turn(run=order.run, round=order.round)
            sent = protect(update, config, turn=turn, left=left)
        kept = {} if sent.left is None else {LEFT: sent.left}
        self.store.add(
            {**own_part(work.network, trained, config=config), **work.extra, **kept},
            kind="round",
            run=order.run,
            round=order.round,
            basis=order.release,
            scores=scores["trained"],
            meaning=meaning,
            unit=unit,
        )
        self._note(work.trainer, seconds=clock.seconds["train"])
        return self._reply(
            order,
            payload=sent.payload,
            schema=update.schema.digest,
            weight=update.weight,
            scores=scores,
            seconds=clock.seconds,
        )

    def _hidden(self, reply: Reply) -> Reply:
        """Keep scores, durations and verdicts here; return the reply without them."""
        said = {"scores": reply.scores, "seconds": reply.seconds, "notes": reply.notes}
        self.facts |= {name: found for name, found in said.items() if found}
        return replace(reply, scores={}, seconds={}, notes={})

    def _local(self, release: Release, config: FederationConfig) -> Version | None:
        """Return the model that the federation must not worsen.

        It is trained if there is none yet, and anew if the labelled examples are others than it was
        judged on: only on the same ones can a release be compared with it.
        """
        found = [version for version in self.store.versions() if version.kind == "local"]
        newest, source = found[-1] if found else None, None
        if config.methods.local_first and self.store.deployed() is None:
            source = release
        elif config.methods.local_first and newest is not None:
            source = start_anew(self, newest, release, config)
        if source is None:
            return newest
        return self.train_alone("local", source=source, config=config)

    def _adopt(self, order: Order, release: Release) -> Reply:
        """Fine-tune the release at the plant, and deploy it if the no-harm rule allows."""
        clock, config = Clock(), order.config
        meaning = self.data(config).text
        before = self.store.before(run=order.run, round=order.round, meaning=meaning)
        work = self._work(release, config, moment="adopt", personal=before)
        scores: Scores = {}
        with clock("evaluate"):
            if not work.first:
                FEDERATED[config.method].start(work)
                scores["incoming"] = work.trainer.validate(work.network)
        with clock("tune"):
            candidate = self._tune(order, release, work)
        with clock("adopt"):
            margin = self.settings.adoption_margin
            paired = paired_of(work.trainer.task, work.trainer.data)
            again = partial(asked_again, self, judged=candidate.judged)
            now = adoption.decide(self.store, candidate, paired=paired, margin=margin, again=again)
        self._note(work.trainer, seconds=clock.seconds["tune"])
        scores["tuned"] = dict(candidate.scores)
        scores["deployed"] = dict(self.store.version(now.version).scores)
        notes = {"adopted": now.version == candidate.number, **asdict(now)}
        return self._reply(order, scores=scores, seconds=clock.seconds, notes=notes)

    def _tune(self, order: Order, release: Release, work: Work) -> Version:
        """Make a candidate from the release; one made before the process was killed will do."""
        config = order.config
        kind = f"federated/{order.run}/{order.round}/{config.method}"
        made_from = basis(kind, release=release, config=config, data=work.trainer.data)
        version = self.store.find(kind="federated", basis=made_from)
        if version is None:
            tune = "fine_tune" if config.methods.personal_fine_tune else "head_only"
            evidence = alone(tune, task=config.task)(work)
            version = self._keep(work, evidence, kind="federated", made_from=made_from, order=order)
        return version

    def _note(self, trainer: Trainer, *, seconds: float) -> None:
        """Keep what the plant's own metrics show of an order; of training only if there was any."""
        self.facts = {"data": trainer.data.counts}
        if trainer.seen:
            self.facts["training"] = {
                "seconds": seconds,
                "images": trainer.seen,
                "images_per_second": round(trainer.seen / max(seconds, 1e-3), 1),
                "loss": trainer.loss,
            }

    def _check(self, order: Order, release: Release) -> None:
        if self.name not in order.cohort:
            raise UpdateError(f"order must name this plant in its cohort, got {order.cohort}")
        if release.hash != order.release:
            raise UpdateError(
                f"release must have the hash of the order {order.release[:12]}, got "
                f"{release.hash[:12]}"
            )
        shares = SHARING[order.config.method].head
        if shares and (problem := misfit(self.data(order.config), order.config)):
            raise DataError(f"{problem}; use fedper")

    def _work(
        self,
        release: Release,
        config: FederationConfig,
        *,
        moment: int | str,
        personal: Version | None = None,
    ) -> Work:
        """Put a release and, over it, the plant's own part into a network."""
        network = self.network(config)
        kept = {} if personal is None else self.store.load(personal)
        extra = assemble(network, release, personal=kept)
        seed = seed_of(config, moment=moment, plant=self.name)
        return Work(
            network=network,
            trainer=self._trainer(config, seed=seed),
            first=personal is None and not head_arrived(release),
            extra=extra,
        )

    def network(self, config: FederationConfig, *, meaning: Meaning | None = None) -> Network:
        """Build the network of this plant's data, or of another meaning, with random weights."""
        meaning, device = meaning or self.data(config), choose_device(self.settings.device)
        return network_for(at_plant(config, self.settings), meaning, device=device)

    def _trainer(self, config: FederationConfig, *, seed: int) -> Trainer:
        device = choose_device(self.settings.device)
        task, data = self.task(config), self.data(config)
        return Trainer(task=task, data=data, config=config, device=device, seed=seed)

    def task(self, config: FederationConfig) -> Task:
        return task_of(config, self.settings)

    def _keep(
        self,
        work: Work,
        evidence: Evidence,
        *,
        kind: str,
        made_from: str,
        order: Order | None = None,
    ) -> Version:
        """Store the whole network as a candidate, with its evidence."""
        data = work.trainer.data
        return self.store.add(
            {**read_tensors(work.network), EVIDENCE: evidence},
            kind=kind,
            run=order.run if order else "",
            round=order.round if order else 0,
            basis=made_from,
            scores=work.trainer.quick_scores(torch.from_numpy(evidence), judged(data)),
            judged=judged_examples(data),
            config=work.trainer.config.model_dump_json(),
            meaning=data.text,
        )

    def _reply(self, order: Order, *, outcome: Outcome = Outcome.DONE, **rest: object) -> Reply:
        return Reply(
            plant=self.name,
            run=order.run,
            round=order.round,
            release=order.release,
            outcome=outcome,
            **rest,  # type: ignore[arg-type]
        )
