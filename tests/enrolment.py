"""A centre's enrolment service as the tests use it, and somebody who writes to it by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc

from common.config import CentreConfig
from common.pki import (
    Authority,
    fingerprint,
    make_identity,
    make_link_key,
    make_request,
    read_certificate,
)
from common.signing import Signer, seal
from common.token import JOIN, PROTOCOL, RENEWAL, Token, join_fields
from common.wire import enrolment_pb2 as wire
from common.wire.enrolment_pb2_grpc import EnrolmentStub
from server.enrolment import Enrolment, serve
from server.state.registry import Registry
from server.state.store import Store

TASK = json.dumps({"method": "fedper"})
CENTRE = CentreConfig(
    name="acme",
    address="centre.example:8443",
    enrolment="localhost:8444",
    certificate_days=30,
    attempts_per_minute=1000,
)


class Clock:
    """The centre's, ahead of or behind the machine's."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


class Engine:
    """What the SuperLink knows, as `server.engine.control` says it: a key keeps its node."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.fault: Exception | None = None

    def register(self, link_key: str) -> int:
        if self.fault is not None:
            raise self.fault
        if link_key not in self.keys:
            self.keys.append(link_key)
        return 2**63 + self.keys.index(link_key)


@dataclass
class Centre:
    pki: Path
    registry: Registry
    engine: Engine
    clock: Clock
    address: str

    @property
    def authority(self) -> Authority:
        return Authority.open(self.pki)

    def invite(self, plant: str = "ash", **changes: Any) -> Token:
        settings = {"valid": timedelta(hours=24)} | changes
        return self.token(self.registry.invite(plant, **settings), plant)

    def token(self, secret: str, plant: str) -> Token:
        return Token(
            secret=secret,
            authority=fingerprint(self.authority.pem),
            plant=plant,
            address=self.address,
            expires=self.clock() + timedelta(hours=24),
        )

    def certify(self, authority: Authority) -> None:
        key, chain = authority.issue_tls(["localhost"], days=30)
        (self.pki / "server.key").write_text(key)
        (self.pki / "server.pem").write_text(chain)


@contextmanager
def running(home: Path, **changes: Any) -> Iterator[Centre]:
    """Start a centre's enrolment on a free port of loopback; with settings of CentreConfig."""
    clock, engine, pki = Clock(), Engine(), home / "pki"
    authority = Authority.create(pki, federation="acme")
    registry = Registry(Store(home), clock=clock)
    centre = Centre(pki=pki, registry=registry, engine=engine, clock=clock, address="")
    centre.certify(authority)
    service = Enrolment(
        registry,
        pki=pki,
        centre=CENTRE.model_copy(update=changes),
        task=lambda: TASK,
        register=engine.register,
        clock=clock,
    )
    server, port = serve(service, address="127.0.0.1:0", pki=pki)
    centre.address = f"localhost:{port}"
    try:
        yield centre
    finally:
        server.stop(0).wait()


class Stranger:
    """Somebody who writes to the service by hand: keys, and messages that can be spoilt."""

    def __init__(self, centre: Centre, folder: Path, *, name: str = "ash") -> None:
        self.centre, self.name = centre, name
        self.key = make_identity(folder)
        self.link_key = make_link_key(folder)
        self.request = make_request(self.key, name=name)
        self.certificate = ""

    def message(self, secret: str, **changes: Any) -> wire.JoinRequest:
        fields = join_fields(secret, request=self.request, link_key=self.link_key)
        sealed = seal(JOIN, fields, signer=Signer(key=self.key))
        settings = {
            "protocol": PROTOCOL, "token": secret, "request": self.request,
            "link_key": self.link_key, "seal": sealed,
        }  # fmt: skip
        return wire.JoinRequest(**(settings | changes))

    def send(self, message: wire.JoinRequest | wire.RenewRequest) -> Any:
        """Return the reply, or the word of refusal."""
        roots = grpc.ssl_channel_credentials(self.centre.authority.pem.encode())
        with grpc.secure_channel(self.centre.address, roots) as channel:
            stub = EnrolmentStub(channel)
            call = stub.Join if isinstance(message, wire.JoinRequest) else stub.Renew
            try:
                return call(message, timeout=20)
            except grpc.RpcError as error:
                return error.details()

    def join(self, secret: str, **changes: Any) -> Any:
        reply = self.send(self.message(secret, **changes))
        if not isinstance(reply, str):
            self.certificate = reply.certificate
        return reply

    def renewal(self, *, signer: Signer | None = None, **changes: Any) -> wire.RenewRequest:
        serial = read_certificate(self.certificate).serial
        signer = signer or Signer(key=self.key, certificate=self.certificate, name=self.name)
        fields = {"request": self.request, "serial": serial} | changes
        return wire.RenewRequest(protocol=PROTOCOL, request=seal(RENEWAL, fields, signer=signer))
