"""The size of a payload is known before it comes."""

from common.errors import UpdateError


def exactly(payload: bytes, size: int) -> memoryview:
    """Return a view of a payload of so many bytes.

    Raises
    ------
    UpdateError
        If it has fewer or more.
    """
    if len(payload) != size:
        raise UpdateError(f"update must have {size} bytes in its form, got {len(payload)}")
    return memoryview(payload)
