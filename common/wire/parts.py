"""What a transport carries, whatever it means: two texts and the bytes of one flat vector.

Apart from `common.wire.messages`, so that the bridge (`client.app`), which only passes parts on,
imports neither numpy nor pydantic.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Parts:
    """One order or one reply, packed.

    Attributes
    ----------
    head : JSON text.
    vector : little-endian float32 values, or None where there are none.
    seal : signed envelope (`common.wire.seals`), JSON text; "" in simulation.
    """

    head: str
    vector: bytes | None = None
    seal: str = ""
