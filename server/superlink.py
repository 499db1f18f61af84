"""``flower-superlink`` with more patience, for `up`.

Flower gives up on a ServerApp that has not reported 30 s after it was claimed, and starts another
one beside it. On a busy machine the imports alone take longer. Flower 1.41 has no setting for it.
"""

from __future__ import annotations

from flwr.supercore.corestate import sql_corestate
from flwr.superlink.cli.flower_superlink import flower_superlink

PATIENCE = 120  #: seconds

if __name__ == "__main__":
    names = vars(sql_corestate)
    assert "HEARTBEAT_DEFAULT_INTERVAL" in names
    names["HEARTBEAT_DEFAULT_INTERVAL"] = PATIENCE
    flower_superlink()
