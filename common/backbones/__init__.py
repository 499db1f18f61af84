"""Families of backbones by name, one a kind of input; `common.tasks` says which task takes which.

A new backbone is one file here and a line in its family's table; a new family is a file with a
`Family` and a line in `FAMILIES`. The parts of a network (`common.backbone.Network`) are

- the **backbone**, shared: the same tensors at every plant, whatever its data;
- the **head**, personal unless the method lets it travel: features to class scores or numbers;
- the **stem**, where the family has one: what a plant's own columns go through before the backbone.
  It never travels.
"""

from __future__ import annotations

from common.backbones.anomaly import PATCHES
from common.backbones.family import Body, Channels, Family, FittedHead, Own, Plain
from common.backbones.image import IMAGE
from common.backbones.series import SERIES
from common.backbones.table import TABLE
from common.backbones.text import TEXT

__all__ = ["FAMILIES", "Body", "Channels", "Family", "FittedHead", "Own", "Plain"]

FAMILIES: dict[str, Family] = {
    "image": IMAGE,
    "patches": PATCHES,
    "series": SERIES,
    "table": TABLE,
    "text": TEXT,
}
