"""``transferline-plant join``: from a token and a folder of data to a plant's folder.

The centre is reached first; then images are read, before the token is used, so that a plant that
cannot train does not spend it. Other data can be read only when the federation has said what its
task is: what does not fit then is told in one line, and ``check`` tells it again until it is mended
in plant.toml or the data.
``plant.toml`` comes last: a folder without it holds no plant, and the same command may be given
again, with the same token, until it is there (`client.joining.enrolment` keeps the keys meanwhile).

A plant that was revoked and readmitted joins again in its own folder: it gets new keys, and keeps
its settings, models and ledger.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from client.fitting import misfit, read
from client.joining import enrolment
from client.joining.line import pinned_authority
from client.layout import (
    FEDERATION,
    SETTINGS,
    Account,
    account,
    hand_over,
    holds_plant,
    keep,
    lay_out,
    open_settings,
)
from client.link.files import LINK, hand_settings
from client.tasks import TASKS
from client.tasks.data import PlantData, Progress
from client.tasks.folder import find
from client.tasks.images import Selection, load_images
from common.config import FederationConfig, PlantConfig
from common.errors import ConfigError, DataError
from common.tasks import KINDS
from common.token import Token
from common.toml import commented, validate

TITLE = "plant.toml: what this plant knows of itself, and what it will not do for anybody"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What the engineer says at joining.

    Attributes
    ----------
    folder : of the plant.
    data : folder of the data (images: one folder a class); None to join again after a readmission.
    link_user : user that the link runs as, name or number; "" for a trial.
    good : the class of good parts, or "".
    classes : class folders to use; empty for all.
    """

    token: Token
    folder: Path
    data: Path | None
    link_user: str = ""
    good: str = ""
    classes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Membership:
    """What came of it.

    Attributes
    ----------
    settings : as in plant.toml.
    federation : the federation's settings.
    data : what the plant has to train on, None where it was not read.
    moved : addresses that the centre has now and plant.toml has not, by key.
    problem : why the plant's data does not fit the federation's task; "" if it does.
    """

    settings: PlantConfig
    federation: FederationConfig
    data: PlantData | None
    moved: dict[str, str]
    problem: str = ""


def join(
    entry: Entry,
    *,
    progress: Progress | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Membership:
    """Join a federation.

    Parameters
    ----------
    progress : called with (files done, files in all) while images are read.

    Raises
    ------
    ConfigError
        If the folder holds a plant already, or an option is wrong; the token is not used.
    DataError
        If the images are not fit for training; the token is not used.
    IdentityError, EngineError, StateError
        As `client.joining.enrolment.join`.
    """
    if holds_plant(entry.folder):
        raise ConfigError(
            f"{entry.folder} must be a new folder, it holds a plant already; choose another with "
            "--dir, or give --readmitted if the operator has readmitted this plant"
        )
    if entry.data is None:
        raise ConfigError("data must be given: --data FOLDER (of images: with one folder a class)")
    link = _link_account(entry.link_user)
    settings = _settings(entry, entry.data.resolve())
    is_new = not entry.folder.exists()
    enrolment.check_time(entry.token, entry.folder, at=clock())
    images = _look(settings)  # tells most mistakes before anything is made
    pinned_authority(entry.token, clock=clock)  # reading images takes longest
    with ExitStack() as undo:
        # Ctrl-C too: a folder half made would be in the way of the next try.
        if is_new:
            undo.callback(shutil.rmtree, entry.folder, ignore_errors=True)
        lay_out(entry.folder, link=None)
        cache = entry.folder / "cache"
        data = _read(settings, cache=cache, progress=progress) if images else None
        undo.pop_all()
    told = enrolment.join(entry.token, entry.folder, clock=clock)
    federation = _federation(told)
    places = {"federation": told.federation, "fleet": told.fleet, "enrolment": told.enrolment}
    centre = settings.centre.model_copy(update=places)
    settings = settings.model_copy(update={"name": told.plant, "centre": centre})
    keep(entry.folder / FEDERATION, told.task)
    hand_settings(entry.folder.absolute(), settings, link=None)
    if link is not None:
        hand_over(entry.folder / LINK, to=link)
    keep(entry.folder / SETTINGS, commented(PlantConfig, title=TITLE, values=settings))
    problem = ""
    if not images or KINDS[federation.task].family != "image":
        data, problem = _fit(settings, federation, entry.folder)
    problem = problem or (misfit(data, federation) if data is not None else "")
    return Membership(
        settings=settings, federation=federation, data=data, moved={}, problem=problem
    )


def join_again(
    entry: Entry, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> Membership:
    """Join with new keys in the folder of a plant that was readmitted; the rest stays as it is.

    Raises
    ------
    ConfigError
        If the folder holds no plant.
    IdentityError, EngineError, StateError
        As `client.joining.enrolment.join`.
    """
    settings = open_settings(entry.folder)
    link = _link_account(settings.link.user)
    told = enrolment.join(entry.token, entry.folder, clock=clock)
    federation = _federation(told)
    keep(entry.folder / FEDERATION, told.task)
    if link is not None:
        hand_over(entry.folder / LINK, to=link)
    now = {"fleet": told.fleet, "enrolment": told.enrolment}
    moved = {key: at for key, at in now.items() if getattr(settings.centre, key) != at}
    return Membership(settings=settings, federation=federation, data=None, moved=moved)


def _settings(entry: Entry, data: Path) -> PlantConfig:
    """Check what can be checked before anybody is asked."""
    if entry.folder.resolve().is_relative_to(data):
        raise ConfigError(
            f"plant's folder must lie outside the data, got {entry.folder} in {data}; choose "
            "another with --dir"
        )
    values: dict[str, Any] = {
        "name": entry.token.plant,
        "data": str(data),
        "good": entry.good,
        "classes": list(entry.classes),
        "link": {"user": entry.link_user},
    }
    return validate(PlantConfig, values, name="join")


def _look(settings: PlantConfig) -> bool:
    """Say whether the data is images, which can be read before the task is known.

    Raises
    ------
    DataError
        If the folder holds the data of no task.
    """
    data = Path(settings.data)
    others = [kind for name, kind in TASKS.items() if not KINDS[name].images]
    try:
        names, _ = find(data, classes=settings.classes, fewest=1)
    except DataError:
        if data.is_dir() and not settings.classes and any(kind.is_plant(data) for kind in others):
            return False
        raise
    # Good parts alone are one class: whether they will do, only the task can say.
    return len(names) > 1


def _fit(
    settings: PlantConfig, federation: FederationConfig, folder: Path
) -> tuple[PlantData | None, str]:
    """Read the data by the federation's task, which is known only now; or say why not."""
    try:
        return read(settings, federation, folder=folder, cache=folder / "cache"), ""
    except (DataError, ConfigError) as error:
        return None, str(error)


def _read(settings: PlantConfig, *, cache: Path, progress: Progress | None) -> PlantData:
    """Read all images, as a round would but for their size, which only the centre can say."""
    chosen = Selection(
        classes=settings.classes,
        good=settings.good,
        image_size=FederationConfig.model_fields["image_size"].default,
    )
    return load_images(Path(settings.data), selection=chosen, cache=cache, progress=progress)


def _link_account(user: str) -> Account | None:
    """Return whom the link's folder is for; None for a trial, where it is the plant's own."""
    if not user:
        return None
    found = account(user)
    if os.geteuid() not in (0, found.uid):
        raise ConfigError(
            f"link.user needs root to hand the link's folder over, got {user!r}; start as root, "
            "or leave it out for a trial"
        )
    return found


def _federation(told: enrolment.Joined) -> FederationConfig:
    try:
        return FederationConfig.model_validate_json(told.task)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "settings"
        raise ConfigError(
            f"federation's {where} must be known to this version of the program, it says: "
            f"{first['msg']}; install the centre's version, then join with the same token"
        ) from error
