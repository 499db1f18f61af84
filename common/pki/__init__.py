"""Who is who: the federation's CA, the certificates it issues, and what they are verified against.

Covered: a certificate counts only if a pinned CA issued it (or a successor that a pinned CA vouches
for, while it is being replaced), for the role that is asked for, at a time that is passed in.

Not covered: revocation. A certificate is short-lived; who is revoked meanwhile says the centre's
registry, and nobody but the centre has to know.
"""

from common.pki.authority import Authority
from common.pki.certificate import (
    TOLERANCE,
    Certificate,
    Role,
    check_name,
    fingerprint,
    read_certificate,
)
from common.pki.keys import load_identity, make_identity, make_link_key, make_request
from common.pki.trust import Trust

__all__ = [
    "TOLERANCE",
    "Authority",
    "Certificate",
    "Role",
    "Trust",
    "check_name",
    "fingerprint",
    "load_identity",
    "make_identity",
    "make_link_key",
    "make_request",
    "read_certificate",
]
