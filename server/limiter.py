"""How often somebody may knock: token buckets by address, and one for all together.

Not covered: how many connections there are, which is for the firewall.
"""

from __future__ import annotations

import ipaddress
import threading
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime
from urllib.parse import unquote

IN_ALL = 10  #: how many times the attempts of one address all together may make
PEERS = 4096  #: addresses that are remembered


class Limiter:
    """How often an address, and all together, may ask: so many at once, and so many a minute.

    Parameters
    ----------
    per_minute : for one address.
    clock : the time; a step back counts as no time passed.
    """

    def __init__(self, per_minute: int, *, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._limits = {"": float(IN_ALL * per_minute)}
        self._default = float(per_minute)
        self._left: OrderedDict[str, tuple[float, datetime]] = OrderedDict()
        self._lock = threading.Lock()

    def admit(self, peer: str) -> bool:
        """Count an attempt; False if it is one too many. What is refused is not counted."""
        with self._lock:
            now = self._clock()
            for name in (peer, ""):
                if self._tokens(name, now) < 1.0:
                    return False
            for name in (peer, ""):
                self._left[name] = (self._tokens(name, now) - 1.0, now)
                self._left.move_to_end(name)
            while len(self._left) > PEERS:
                self._left.popitem(last=False)
            return True

    def _tokens(self, name: str, now: datetime) -> float:
        limit = self._limits.get(name, self._default)
        left, before = self._left.get(name, (limit, now))
        if now < before:  # or a clock that was set back would keep everybody out until then
            self._left[name] = left, now
        return min(limit, left + max(0.0, (now - before).total_seconds()) * limit / 60.0)


def address_of(peer: str) -> str:
    """Return whose attempts count together: an IPv4 address, or an IPv6 network of 64 bits.

    Parameters
    ----------
    peer : as gRPC writes it: ``ipv4:192.0.2.1:50000``, ``ipv6:%5B2001:db8::1%5D:50000``.
    """
    host = unquote(peer).partition(":")[2].rpartition(":")[0].strip("[]")
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return peer
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return str(ipaddress.ip_network((address, 64), strict=False))
        address = address.ipv4_mapped
    return str(address)
