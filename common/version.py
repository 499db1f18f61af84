"""Which Transferline this is."""

from importlib.metadata import PackageNotFoundError, version


def program_version() -> str:
    """Return the version of Transferline that is installed; "checkout" where none is."""
    try:
        return version("transferline")
    except PackageNotFoundError:
        return "checkout"
