"""A federation.toml to begin with: every key that means something for its task, explained."""

from __future__ import annotations

from common.config.federation import FederationConfig
from common.tasks import foreign_keys
from common.toml import commented

_TITLE = "federation.toml: every key at its default. Change some, delete the rest."


def template(settings: FederationConfig | None = None, *, title: str = _TITLE) -> str:
    """Return a commented federation.toml of some settings; by default of images.

    Keys of other tasks are left out, and those of `[training]` have what the task begins with.
    """
    settings = settings or FederationConfig()
    return commented(
        FederationConfig, title=title, values=settings, without=foreign_keys(settings.task)
    )
