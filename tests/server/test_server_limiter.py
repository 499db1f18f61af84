"""How often somebody may knock, by a clock that the test sets."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from server import limiter
from server.limiter import Limiter, address_of


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2030, 5, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def admitted(door: Limiter, peer: str, times: int) -> int:
    return sum(door.admit(peer) for _ in range(times))


def test_so_many_at_once_and_so_many_a_minute(clock: Clock) -> None:
    door = Limiter(6, clock=clock)
    assert admitted(door, "a", 20) == 6
    clock.forward(9.9)
    assert admitted(door, "a", 20) == 0
    clock.forward(0.2)
    assert admitted(door, "a", 20) == 1
    clock.forward(3600)
    assert admitted(door, "a", 20) == 6


def test_one_address_does_not_keep_another_out(clock: Clock) -> None:
    door = Limiter(6, clock=clock)
    assert admitted(door, "a", 10_000) == 6
    assert admitted(door, "b", 20) == 6


def test_all_together_are_limited_too(clock: Clock) -> None:
    door = Limiter(6, clock=clock)
    assert sum(admitted(door, f"peer-{n}", 6) for n in range(50)) == 60
    clock.forward(1)
    assert sum(admitted(door, f"other-{n}", 6) for n in range(50)) == 1


def test_a_clock_that_is_set_back_neither_blocks_nor_opens(clock: Clock) -> None:
    door = Limiter(6, clock=clock)
    assert admitted(door, "a", 20) == 6
    clock.forward(-7200)
    assert admitted(door, "a", 20) == 0
    clock.forward(20)
    assert admitted(door, "a", 20) == 2


def test_memory_is_bounded(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limiter, "PEERS", 50)
    door = Limiter(600, clock=clock)
    for number in range(500):
        assert door.admit(f"peer-{number}")
    assert len(door._left) == 50
    assert "" in door._left


@pytest.mark.parametrize(
    ("peer", "counted"),
    [
        ("ipv4:192.0.2.7:50000", "192.0.2.7"),
        ("ipv6:%5B::1%5D:50000", "::/64"),
        ("ipv6:%5B2001:db8:1:2:3:4:5:6%5D:50000", "2001:db8:1:2::/64"),
        ("ipv6:%5B2001:db8:1:2:ffff::%5D:1", "2001:db8:1:2::/64"),
        ("ipv6:%5B::ffff:192.0.2.7%5D:50000", "192.0.2.7"),
        ("ipv6:%5Bfe80::1%25eth0%5D:50000", "fe80::/64"),
        ("unix:", "unix:"),
        ("", ""),
    ],
)
def test_an_address_counts_whatever_its_port(peer: str, counted: str) -> None:
    assert address_of(peer) == counted
