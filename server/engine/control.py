"""Submits Flower runs and registers nodes: the Control API, without the ``flwr`` command.

A run's code is a pointer: the bundle that Flower ships holds one ``pyproject.toml``, which names
the installed `server.app` and `client.app`, so what runs is what each side has installed. Building
it in memory and calling StartRun takes 0.1 s, against 2.4 s for ``flwr run``, which walks the
folder tree. The modules of flwr that are used here are private to it, hence its exact pin.

Control has no authentication of its own: whoever reaches it can submit code. It belongs on
loopback, behind the inner key (`server.engine.inner`).
"""

from __future__ import annotations

import hashlib
import json
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.cli.build import build_fab_from_files
from flwr.cli.cli_client_interceptor import CliClientHttpInterceptor
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    StreamLogsRequest,
    UnregisterNodeRequest,
)
from flwr.proto.federation_config_pb2 import SimulationConfig
from flwr.supercore.constant import NodeStatus
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.fab import Fab
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, uses_nist_ec_curve

from common.closing import Closing
from common.errors import EngineError, IdentityError
from server.engine.inner import Inner

#: Run-config's keys and defaults: Flower refuses a key that the bundle does not declare.
RUN_CONFIG = {"home": "", "prepare": "", "run": "", "fence": ""}

BUNDLE = """\
[project]
name = "transferline"
version = "0.1.0"
description = "Points at the installed package"
license = "LicenseRef-None"

[tool.flwr.app]
publisher = "transferline"
fab-include = ["pyproject.toml"]

[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "client.app:app"

[tool.flwr.app.config]
{config}
"""


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """Where a run stands.

    Attributes
    ----------
    finished : nothing more will happen.
    failed : finished without success.
    details : Flower's own words on it; may be "".
    """

    finished: bool
    failed: bool = False
    details: str = ""


@dataclass(frozen=True, kw_only=True)
class Node:
    """A SuperNode that may connect.

    Attributes
    ----------
    public_key : PEM, as `public_key` makes it of the OpenSSH line.
    online : it has been heard lately.
    """

    node_id: int
    public_key: bytes
    online: bool


class Control(Closing):
    """A connection to the Control API of a SuperLink on loopback; a context manager.

    Parameters
    ----------
    address : host and port, for example ``127.0.0.1:8000``.
    authority : PEM file of the CA of SuperLink's certificate; None: it speaks plain HTTP, as in
        simulation.
    inner : the key that SuperLink asks for, if it asks for one.
    """

    def __init__(
        self, address: str, *, authority: Path | None = None, inner: Inner | None = None
    ) -> None:
        self.address = address
        self._url = f"{'http' if authority is None else 'https'}://{address}"
        verify = _context(authority, inner) if authority is not None else True
        self._client = ControlHttpClient(
            self._url, interceptors=[CliClientHttpInterceptor()], verify=verify
        )
        self._health = httpx.Client(verify=verify, timeout=2.0)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()
        self._health.close()

    def is_up(self) -> bool:
        """Return whether a SuperLink answers at the address."""
        with suppress(httpx.HTTPError):
            return self._health.get(f"{self._url}/health").is_success
        return False

    def start(
        self, settings: Mapping[str, str], *, simulation: SimulationConfig | None = None
    ) -> int:
        """Submit a run.

        Parameters
        ----------
        settings : run-config; keys must be in `RUN_CONFIG`.
        simulation : number of nodes and what Ray gets, on a SuperLink in simulation mode.

        Returns
        -------
        int
            Flower's id of the run.

        Raises
        ------
        EngineError
            If SuperLink cannot be reached or refuses the run.
        """
        content = bundle()
        fab = Fab(hashlib.sha256(content).hexdigest(), content, {})
        request = StartRunRequest(
            fab=fab_to_proto(fab),
            override_config=user_config_to_proto(dict(settings)),
            override_federation_config=simulation,
        )
        with self._translated("refused the run"):
            answer = self._client.StartRun(request)
        if not answer.HasField("run_id"):
            raise EngineError(f"SuperLink at {self.address} refused the run without a reason")
        return int(answer.run_id)

    def status(self, run: int) -> RunStatus:
        """Ask where a run stands.

        Raises
        ------
        EngineError
            If SuperLink does not answer or does not know the run.
        """
        with self._translated("does not answer"):
            runs = self._client.ListRuns(ListRunsRequest(run_id=run)).run_dict
        if run not in runs:
            raise EngineError(f"SuperLink at {self.address} does not know run {run}")
        status = runs[run].status
        finished = status.status == "finished"
        return RunStatus(
            finished=finished,
            failed=finished and status.sub_status != "completed",
            details=status.details,
        )

    def active(self) -> list[int]:
        """Return the ids of the runs that have not ended.

        Raises
        ------
        EngineError
            If SuperLink does not answer.
        """
        with self._translated("does not answer"):
            runs = self._client.ListRuns(ListRunsRequest()).run_dict
        return [int(run) for run, found in runs.items() if found.status.status != "finished"]

    def output(self, run: int) -> Iterator[str]:
        """Yield what a run's process has written, until the run ends."""
        with suppress(httpx.HTTPError):
            for part in self._client.StreamLogs(StreamLogsRequest(run_id=run)):
                yield part.log_output

    def stop(self, run: int) -> None:
        """Ask SuperLink to end a run; one that has ended already stays as it is."""
        with suppress(httpx.HTTPError):
            self._client.StopRun(StopRunRequest(run_id=run))

    def register(self, link_key: str, *, name: str) -> int:
        """Let the SuperNode with this key connect; the same key again gives the same node.

        Parameters
        ----------
        link_key : public key in OpenSSH format, on a NIST curve.
        name : shown in Flower's own listings.

        Returns
        -------
        int
            Its node id, 64 bits without sign.

        Raises
        ------
        IdentityError
            If it is no such key, or one that was unregistered: that is for good.
        EngineError
            If SuperLink does not answer.
        """
        key = public_key(link_key)
        with suppress(_TakenError), self._translated("refused the node"):
            try:
                return int(
                    self._client.RegisterNode(
                        RegisterNodeRequest(public_key=key, name=name)
                    ).node_id
                )
            except httpx.HTTPStatusError as error:
                if _code(error) == ApiErrorCode.PUBLIC_KEY_ALREADY_IN_USE:
                    raise _TakenError from error
                raise
        for node in self.nodes():
            if node.public_key == key:
                return node.node_id
        raise IdentityError(
            "link key must be new, got one that was revoked; make another with "
            "`transferline-plant join`"
        )

    def unregister(self, node_id: int) -> None:
        """Cut a SuperNode off, at once and for good; one that is gone already stays so.

        Raises
        ------
        EngineError
            If SuperLink does not answer.
        """
        with self._translated("did not cut the node off"):
            try:
                self._client.UnregisterNode(UnregisterNodeRequest(node_id=node_id))
            except httpx.HTTPStatusError as error:
                if _code(error) != ApiErrorCode.NODE_NOT_FOUND:
                    raise

    def nodes(self) -> list[Node]:
        """Return the SuperNodes that are registered.

        Raises
        ------
        EngineError
            If SuperLink does not answer.
        """
        with self._translated("does not answer"):
            found = self._client.ListNodes(ListNodesRequest()).nodes_info
        return [
            Node(
                node_id=int(node.node_id),
                public_key=bytes(node.public_key),
                online=node.status == NodeStatus.ONLINE,
            )
            for node in found
            if node.status != NodeStatus.UNREGISTERED
        ]

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except (httpx.HTTPError, ValueError) as error:
            raise EngineError(f"SuperLink at {self.address} {what}: {error}") from error


class _TakenError(Exception):
    """The key is registered already."""


def public_key(link_key: str) -> bytes:
    """Return a SuperNode's public key as SuperLink keeps it: PEM.

    Parameters
    ----------
    link_key : in OpenSSH format.

    Raises
    ------
    IdentityError
        If it is not an EC key on a NIST curve.
    """
    try:
        key = load_ssh_public_key(link_key.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise IdentityError("link key must be a public key in OpenSSH format, got none") from error
    if not isinstance(key, EllipticCurvePublicKey) or not uses_nist_ec_curve(key):
        raise IdentityError("link key must be an EC key on a NIST curve, got another kind")
    return public_key_to_bytes(key)


def bundle() -> bytes:
    """Build the Flower App Bundle: ``pyproject.toml`` and the index that Flower adds."""
    config = "\n".join(f"{key} = {json.dumps(value)}" for key, value in RUN_CONFIG.items())
    files = {"pyproject.toml": BUNDLE.format(config=config).encode()}
    content, _ = build_fab_from_files(files)
    return content


def _context(authority: Path, inner: Inner | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=str(authority))
    except (OSError, ssl.SSLError) as error:
        raise IdentityError(f"{authority} must hold the CA's certificate, got {error}") from error
    if inner is not None:
        inner.show_in(context)
    return context


def _code(error: httpx.HTTPStatusError) -> int | None:
    found = FlowerError.from_json(error.response.text)
    return None if found is None else int(found.code)
