"""``flower-superlink`` with more patience, for the ``flower`` engine.

SuperLink gives up on a simulation process that has not reported 30 s after it was claimed, and
starts another one beside it. On a busy machine the imports alone take longer, so processes pile up
until nothing moves: ten were seen. Flower 1.41 has no setting for it.
"""

from __future__ import annotations

from flwr.supercore.corestate import in_memory_corestate
from flwr.superlink.cli.flower_superlink import flower_superlink

PATIENCE = 120  #: seconds

if __name__ == "__main__":
    names = vars(in_memory_corestate)
    assert "HEARTBEAT_DEFAULT_INTERVAL" in names
    names["HEARTBEAT_DEFAULT_INTERVAL"] = PATIENCE
    flower_superlink()
