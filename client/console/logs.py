"""The log of a plant's processes: lines on standard error, which systemd or a container keeps."""

from __future__ import annotations

import logging
import sys

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def log_to_stderr() -> None:
    """Write INFO and above, one line each; libraries only say what is wrong."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format=FORMAT)
    for layer in ("client", "common", "__main__"):
        logging.getLogger(layer).setLevel(logging.INFO)
