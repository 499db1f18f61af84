"""What a transport carries, whatever it means: two texts and bytes: a flat vector, or an update.

Apart from `common.wire.messages`, so that the bridge (`client.app`), which only passes parts on,
imports neither numpy nor pydantic.
"""

from __future__ import annotations

from dataclasses import dataclass

HEAD_LIMIT = 4 * 2**20  #: characters; the largest torchvision schema takes a twentieth
VECTOR_LIMIT = 4 * 2**30  #: bytes; vit_h_14 takes 2.5 GB


@dataclass(frozen=True, kw_only=True)
class Parts:
    """One order or one reply, packed.

    Attributes
    ----------
    head : JSON text.
    vector : of an order the release's values, little-endian float32; of a reply the update in its
        form (`common.forms`); None where there is none.
    seal : signed envelope (`common.wire.seals`), JSON text; "" in simulation.
    """

    head: str
    vector: bytes | None = None
    seal: str = ""
