"""Submits Flower runs and asks after them: the Control API, without the ``flwr`` command.

A run's code is a pointer: the bundle that Flower ships holds one ``pyproject.toml``, which names
the installed `server.app` and `client.app`, so what runs is what each side has installed. Building
it in memory and calling StartRun takes 0.1 s, against 2.4 s for ``flwr run``, which walks the
folder tree. The modules of flwr that are used here are private to it, hence its exact pin.

Control has no authentication: whoever reaches the address can submit code. It belongs on loopback.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import httpx
from flwr.cli.build import build_fab_from_files
from flwr.cli.cli_client_interceptor import CliClientHttpInterceptor
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListRunsRequest,
    StartRunRequest,
    StopRunRequest,
    StreamLogsRequest,
)
from flwr.proto.federation_config_pb2 import SimulationConfig
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab

from common.errors import EngineError

#: Run-config's keys and defaults: Flower refuses a key that the bundle does not declare.
RUN_CONFIG = {"home": "", "prepare": ""}

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


class Control:
    """A connection to the Control API of a SuperLink on loopback; a context manager.

    Parameters
    ----------
    address : host and port, for example ``127.0.0.1:8000``.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._client = ControlHttpClient(
            f"http://{address}", interceptors=[CliClientHttpInterceptor()]
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()

    def is_up(self) -> bool:
        """Return whether a SuperLink answers at the address."""
        with suppress(httpx.HTTPError):
            return httpx.get(f"http://{self.address}/health", timeout=1.0).is_success
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
        try:
            answer = self._client.StartRun(request)
        except httpx.HTTPError as error:
            raise EngineError(f"SuperLink at {self.address} refused the run: {error}") from error
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
        try:
            runs = self._client.ListRuns(ListRunsRequest(run_id=run)).run_dict
        except httpx.HTTPError as error:
            raise EngineError(f"SuperLink at {self.address} does not answer: {error}") from error
        if run not in runs:
            raise EngineError(f"SuperLink at {self.address} does not know run {run}")
        status = runs[run].status
        finished = status.status == "finished"
        return RunStatus(
            finished=finished,
            failed=finished and status.sub_status != "completed",
            details=status.details,
        )

    def output(self, run: int) -> Iterator[str]:
        """Yield what a run's process has written, until the run ends."""
        with suppress(httpx.HTTPError):
            for part in self._client.StreamLogs(StreamLogsRequest(run_id=run)):
                yield part.log_output

    def stop(self, run: int) -> None:
        """Ask SuperLink to end a run; one that has ended already stays as it is."""
        with suppress(httpx.HTTPError):
            self._client.StopRun(StopRunRequest(run_id=run))


def bundle() -> bytes:
    """Build the Flower App Bundle: ``pyproject.toml`` and the index that Flower adds."""
    config = "\n".join(f"{key} = {json.dumps(value)}" for key, value in RUN_CONFIG.items())
    files = {"pyproject.toml": BUNDLE.format(config=config).encode()}
    content, _ = build_fab_from_files(files)
    return content
