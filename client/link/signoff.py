"""Signs a SuperNode off that was killed, and becomes the next.

``python -m client.link.signoff CENTRE CA KEY NODE COMMAND...``. SuperLink takes a node that did not
sign off for connected until two heartbeats are missing, and refuses its next SuperNode for that
minute. So where a SuperNode was killed, or the power was cut, the link sends first what the
SuperNode could not, with the same key. Whether it helped shows when the next one connects.

The modules of flwr that are used here are private to it, hence its exact pin.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.proto.fleet_pb2 import DeactivateNodeRequest
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor


def sign_off(centre: str, *, authority: Path, key: Path, node: int) -> bool:
    """Tell the centre that a node is gone; return whether it has taken note.

    Parameters
    ----------
    centre : address of the edge, ``host:port``.
    authority : the pinned CA, PEM.
    key : the link's private key, OpenSSH format.
    """
    try:
        secret = load_ssh_private_key(key.read_bytes(), None)
        if not isinstance(secret, EllipticCurvePrivateKey):
            return False
        with FleetHttpClient.from_server_address(
            centre,
            False,
            str(authority),
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="SuperNode"),
                NodeAuthHttpInterceptor(secret, secret.public_key()),
            ],
        ) as client:
            client.DeactivateNode(DeactivateNodeRequest(node_id=node))
    except (OSError, ValueError, httpx.HTTPError, RuntimeError) as error:
        sys.stderr.write(f"node {node} is not signed off: {error}\n")
        return False
    return True


if __name__ == "__main__":
    _, address, ca, link_key, number, *command = sys.argv
    sign_off(address, authority=Path(ca), key=Path(link_key), node=int(number))
    os.execvp(command[0], command)
