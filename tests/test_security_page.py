"""docs/security.md names a test for each defence; each of them must be there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "security.md"

#: Where a test is that is named without its file (as the page says).
USUAL = "test_common_secagg.py"


def named() -> list[tuple[str, str]]:
    """Return (file, test) of everything in code type that looks like a test; test may be empty."""
    text = PAGE.read_text(encoding="utf-8")
    found = []
    for code in re.findall(r"`(?:tests/\w+/)?(test_[\w:.]+)`", text):
        file, _, test = code.partition("::") if ".py" in code else (USUAL, "", code)
        found.append((file, test))
    return found


def test_every_test_that_the_page_names_is_there() -> None:
    files = {path.name: path for path in (ROOT / "tests").rglob("test_*.py")}
    missing = [
        f"{file}::{test}"
        for file, test in named()
        if file not in files
        or (test and f"def {test}(" not in files[file].read_text(encoding="utf-8"))
    ]
    assert missing == []
    assert len(named()) > 60
