"""``flwr-clientapp``, lean: what SuperExec starts for every message at a plant.

Takes the stock command's arguments and runs the same function of Flower's, but imports only that
function's module: the stock entry point also imports SuperLink's database and web server, 0.7 s of
processor time for every message.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from flwr.supernode.runtime.run_clientapp import run_clientapp


def main(*arguments: str) -> None:
    """Run one ClientApp process."""
    parser = argparse.ArgumentParser(prog="flwr-clientapp", description=__doc__)
    parser.add_argument("--runtime-api-address", required=True)
    parser.add_argument("--token", required=True)
    parser.add_argument("--insecure", action="store_true")
    parser.add_argument("--root-certificates", type=Path)
    parser.add_argument("--parent-pid", type=int)
    asked = parser.parse_args(arguments)
    run_clientapp(
        runtime_api_address=asked.runtime_api_address,
        token=asked.token,
        insecure=asked.insecure,
        certificates=asked.root_certificates.read_bytes() if asked.root_certificates else None,
        parent_pid=asked.parent_pid,
        runtime_dependency_install=False,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
