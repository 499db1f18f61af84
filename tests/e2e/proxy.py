"""A small TCP proxy that does to connections what networks do: delay, cut, throttle, lose.

It runs in a thread of its own, so that a test that waits for something else can change the weather
meanwhile. Everything is per proxy, not per connection: a plant has a proxy of its own.

The faults:

- `delay`: each piece is held back for some seconds.
- `throttle`: at most so many bytes a second and direction.
- `cut`: open connections are reset, new ones are reset at once; what a dead uplink looks like.
- `black_hole`: connections stay open and new ones are accepted, but nothing passes; what a firewall
  that has lost its state looks like.
- `half_close`: the far side of open connections is reset, the near side hears nothing of it; new
  connections work. This is the half-open connection that a client must notice by itself.
- `cut_after`: the first connection that carries so many bytes in one direction is reset there.
- `restore`: all of the above ends. What was held back is delivered.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Self, TypeVar

from common.closing import Closing

PIECE = 64 * 1024  #: bytes read at once
T = TypeVar("T")


class Way(Enum):
    """Direction of bytes: up to the target, or down from it."""

    UP = "up"
    DOWN = "down"


@dataclass(frozen=True)
class Address:
    """Where to listen or to connect."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    @classmethod
    def of(cls, text: str) -> Address:
        host, _, port = text.rpartition(":")
        return cls(host, int(port))


@dataclass
class Weather:
    """What the proxy does to bytes at the moment."""

    delay: float = 0.0  #: seconds
    rate: float = 0.0  #: bytes a second; 0 means as fast as it goes
    passing: bool = True
    refusing: bool = False
    limit: tuple[Way, int] | None = None  #: reset the connection after so many bytes that way


@dataclass
class Counts:
    """What went through, in bytes and connections."""

    up: int = 0
    down: int = 0
    connections: int = 0
    resets: int = 0


@dataclass(eq=False)
class Connection:
    """Two streams and the bytes carried each way."""

    near: asyncio.StreamWriter
    far: asyncio.StreamWriter
    carried: dict[Way, int] = field(default_factory=lambda: dict.fromkeys(Way, 0))
    deaf: bool = False  #: the far side is gone and the near side does not know


class Proxy(Closing):
    """A proxy on a free port of loopback, as a context manager.

    Parameters
    ----------
    target : ``host:port`` to connect to; it need not be there yet.
    """

    def __init__(self, target: str) -> None:
        self.target = Address.of(target)
        self.counts = Counts()
        self._weather = Weather()
        self._open: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._changed = self._call(self._event)
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, "127.0.0.1", 0), self._loop
        ).result()
        self.address = Address(*self._server.sockets[0].getsockname()[:2])
        return self

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # -- faults, each takes effect before the call returns ---------------------------------------

    def delay(self, seconds: float) -> None:
        self._set(delay=seconds)

    def throttle(self, rate: float) -> None:
        self._set(rate=rate)

    def black_hole(self) -> None:
        self._set(passing=False)

    def cut(self) -> None:
        self._set(refusing=True)
        self._call(self._reset_all)

    def cut_after(self, size: int, *, way: Way = Way.UP) -> None:
        self._set(limit=(way, size))

    def half_close(self) -> None:
        self._call(self._deafen)

    def restore(self) -> None:
        """End every fault. Connections that were half closed are reset: nothing is behind them."""
        self._call(self._reset_deaf)
        self._set(delay=0.0, rate=0.0, passing=True, refusing=False, limit=None)

    def open(self) -> int:
        """Return how many connections are open."""
        return self._call(lambda: len(self._open))

    # -- in the loop's thread ---------------------------------------------------------------------

    def _call(self, what: Callable[[], T]) -> T:
        async def called() -> T:
            return what()

        return asyncio.run_coroutine_threadsafe(called(), self._loop).result()

    def _event(self) -> asyncio.Event:
        return asyncio.Event()

    def _set(self, **weather: Any) -> None:
        def change() -> None:
            for name, value in weather.items():
                assert hasattr(self._weather, name)
                setattr(self._weather, name, value)
            self._changed.set()
            self._changed = asyncio.Event()

        self._call(change)

    def _reset_all(self) -> None:
        for connection in list(self._open):
            self._reset(connection)

    def _reset_deaf(self) -> None:
        for connection in [connection for connection in self._open if connection.deaf]:
            self._reset(connection)

    def _deafen(self) -> None:
        for connection in self._open:
            connection.deaf = True
            abort(connection.far)

    def _reset(self, connection: Connection) -> None:
        self.counts.resets += 1
        self._open.discard(connection)
        for writer in (connection.near, connection.far):
            abort(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._connect(reader, writer)
        except asyncio.CancelledError:
            abort(writer)  # the proxy ends
        finally:
            self._tasks.discard(task)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._weather.refusing:
            self.counts.resets += 1
            abort(writer)
            return
        await self._until_passing()
        try:
            back, far = await asyncio.open_connection(self.target.host, self.target.port)
        except OSError:
            abort(writer)
            return
        self.counts.connections += 1
        connection = Connection(writer, far)
        self._open.add(connection)
        try:
            await asyncio.gather(
                self._carry(connection, Way.UP, reader, far),
                self._carry(connection, Way.DOWN, back, writer),
            )
        finally:
            self._open.discard(connection)
            for end in (writer, far):
                end.close()

    async def _carry(
        self,
        connection: Connection,
        way: Way,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        """Carry one direction until its end, or until the connection is reset."""
        with contextlib.suppress(OSError):
            while piece := await reader.read(PIECE):
                await self._hold_back(len(piece))
                if connection.deaf:
                    continue
                limit = self._weather.limit
                if limit and limit[0] is way and connection.carried[way] + len(piece) > limit[1]:
                    self._weather.limit = None
                    self._reset(connection)
                    return
                connection.carried[way] += len(piece)
                self._count(way, len(piece))
                writer.write(piece)
                await writer.drain()
            if not connection.deaf:
                writer.write_eof()
                return
        if connection.deaf and way is Way.DOWN:
            await asyncio.Event().wait()  # until the proxy ends or the near side gives up

    def _count(self, way: Way, size: int) -> None:
        if way is Way.UP:
            self.counts.up += size
        else:
            self.counts.down += size

    async def _hold_back(self, size: int) -> None:
        if self._weather.delay:
            await asyncio.sleep(self._weather.delay)
        if self._weather.rate:
            await asyncio.sleep(size / self._weather.rate)
        await self._until_passing()

    async def _until_passing(self) -> None:
        while not self._weather.passing:
            await self._changed.wait()

    async def _end(self) -> None:
        self._server.close()
        self._reset_all()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)


def abort(writer: asyncio.StreamWriter) -> None:
    """Reset a connection: the other side sees an error, not an orderly end."""
    handle = writer.get_extra_info("socket")
    if handle is not None and handle.fileno() >= 0:
        linger = struct.pack("ii", 1, 0)
        with contextlib.suppress(OSError):
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()
