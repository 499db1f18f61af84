"""``flower-superlink`` with more patience, for `up`.

Flower gives up on a ServerApp that has not reported 30 s after it was claimed, and starts another
one beside it. On a busy machine the imports alone take longer. And it refuses a SuperNode whose
clock is 5 s ahead of the centre's or 5 minutes behind; a plant's clock may be off as far as
elsewhere (`common.pki`). Flower 1.41 has no settings for either.
"""

from __future__ import annotations

from flwr.supercore.corestate import sql_corestate
from flwr.superlink.cli.flower_superlink import flower_superlink
from flwr.superlink.routers.fleet import node_auth

from common.pki import TOLERANCE

PATIENCE = 120  #: seconds


def _set(names: dict[str, object], name: str, value: object) -> None:
    assert name in names, f"another Flower: {name}"
    names[name] = value


if __name__ == "__main__":
    _set(vars(sql_corestate), "HEARTBEAT_DEFAULT_INTERVAL", PATIENCE)
    # A signed time is accepted from so many seconds ahead to twice as many behind.
    _set(vars(node_auth), "SYSTEM_TIME_TOLERANCE", int(TOLERANCE.total_seconds()))
    _set(vars(node_auth), "TIMESTAMP_TOLERANCE", int(TOLERANCE.total_seconds()))
    flower_superlink()
