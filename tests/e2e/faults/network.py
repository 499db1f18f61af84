"""Cut, lost, slow and half-open connections between plants and the centre's edge."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from tests.e2e.faults.kills import STAGES
from tests.e2e.moments import at
from tests.e2e.processes import wait_for
from tests.e2e.proxy import Proxy
from tests.e2e.scene import Case, Scene


def proxies(scene: Scene, side: str) -> list[Proxy]:
    """Return the proxies of one plant, or of all: the centre's own line."""
    plants = scene.plants.values() if side == "centre" else [scene.plant]
    return [plant.proxy for plant in plants if plant.proxy]


def restore(found: Iterable[Proxy]) -> None:
    """End all faults."""
    for proxy in found:
        proxy.restore()


def away(side: str, seconds: float, stage: str, *, how: str = "cut") -> Case:
    """Return the case: connections are cut, or swallow everything, for so long."""

    def inject(scene: Scene) -> None:
        at(STAGES[stage](scene), what=stage)
        found = proxies(scene, side)
        for proxy in found:
            getattr(proxy, how)()
        time.sleep(seconds)
        restore(found)

    word = "cut" if how == "cut" else "swallowing everything"
    whose = "the centre's network" if side == "centre" else "a plant's network"
    return Case(f"{whose} {word} for {seconds:.0f} s: {stage}", inject)


def half_open(side: str) -> Callable[[Scene], None]:
    """Return what resets the far side of connections; the near side hears nothing."""

    def inject(scene: Scene) -> None:
        at(STAGES["order sent"](scene), what="order")
        for proxy in proxies(scene, side):
            proxy.half_close()

    return inject


def broken_reply(scene: Scene) -> str | None:
    """Cut the connection that carries the reply, in its middle."""
    (proxy,) = proxies(scene, "plant")
    at(STAGES["reply filed"](scene), what="reply")
    resets = proxy.counts.resets
    proxy.cut_after(500_000)
    wait_for(lambda: proxy.counts.resets > resets, what="cut in the reply", seconds=600)
    proxy.restore()


def slow_line(side: str) -> Callable[[Scene], None]:
    """Return what makes lines of 100 kB/s with 0.2 s of delay, for a whole round."""

    def inject(scene: Scene) -> None:
        found = proxies(scene, side)
        for proxy in found:
            proxy.throttle(100_000)
            proxy.delay(0.2)
        scene.close(scene.round)
        restore(found)

    return inject


CASES = [
    *(
        away(side, seconds, stage)
        for side in ("plant", "centre")
        for seconds, stage in ((5, "training"), (60, "training"), (300, "order sent"))
    ),
    away("plant", 60, "reply on its way"),
    away("plant", 60, "training", how="black_hole"),
    away("centre", 60, "reply on its way", how="black_hole"),
    Case("half-open connections of a plant: order sent", half_open("plant")),
    Case("half-open connections at the centre's edge: order sent", half_open("centre")),
    Case("a reply cut in the middle", broken_reply),
    Case("a line of 100 kB/s with 0.2 s of delay", slow_line("plant")),
    Case("such lines for all plants at once", slow_line("centre")),
]
