"""The centre's part of a secure sum, tied to rounds; the protocol itself is `common.secagg`."""
