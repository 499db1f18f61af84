"""Invitations as the operator sees them: tokens for plants, printed once and kept nowhere."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from common.errors import ConfigError
from common.pki import check_name, fingerprint
from common.terminal import errors, print_json
from common.token import Token
from server.centre import Centre
from server.state.tables import utcnow

LONGEST = timedelta(days=30)  #: that a token lasts: it is a secret that lies about


@dataclass(frozen=True, kw_only=True)
class Invitations:
    """What the operator asks for.

    Attributes
    ----------
    names : of the plants.
    valid : how long the tokens may be used.
    readmit : for plants that were revoked.
    """

    names: tuple[str, ...]
    valid: timedelta
    readmit: bool = False

    @classmethod
    def of(cls, names: Sequence[str], *, valid: str = "24h", readmit: bool = False) -> Invitations:
        """Read what was typed.

        Raises
        ------
        ConfigError, IdentityError
            If a name cannot be one or is given twice, or the time is none.
        """
        for name in names:
            check_name(name)
        if len(set(names)) < len(names):
            raise ConfigError(f"plants must be named once each, got {' '.join(names)}")
        return cls(names=tuple(names), valid=_duration(valid), readmit=readmit)


def show(centre: Centre, asked: Invitations, *, as_json: bool = False) -> None:
    """Make tokens and print them: to standard output nothing else, so that they can be piped.

    One plant's is the token alone, those of several have the plant's name before them.

    Raises
    ------
    IdentityError
        If a plant is enrolled, or is revoked and not to be readmitted, or the reverse; plants
        before it are invited.
    """
    several = len(asked.names) > 1
    if as_json:
        facts = [
            {"plant": one.plant, "token": one.text(), "expires": one.expires.isoformat()}
            for one in _tokens(centre, asked)
        ]
        print_json(facts if several else facts[0])
        return
    for token in _tokens(centre, asked):
        sys.stdout.write(f"{token.plant} {token.text()}\n" if several else f"{token.text()}\n")
    folder = "./PLANT" if several else shlex.quote(f"./{asked.names[0]}")
    errors().print(
        f"for {', '.join(asked.names)}, once{' each' if several else ''}, until "
        f"{token.expires:%Y-%m-%d %H:%M} UTC; at the plant:\n"
        f"  transferline-plant join --token TOKEN --data FOLDER --dir {folder}",
        soft_wrap=True,
    )


def _tokens(centre: Centre, asked: Invitations) -> Iterator[Token]:
    authority = fingerprint(centre.authority().pem)
    invited = {token.plant for token in centre.registry.invitations()}
    for plant in asked.names:
        secret = centre.registry.invite(plant, valid=asked.valid, readmit=asked.readmit)
        if plant in invited:
            errors().print(f"the earlier token of {plant} is no longer good")
        yield Token(
            secret=secret,
            authority=authority,
            plant=plant,
            address=centre.config.enrolment,
            expires=utcnow() + asked.valid,
        )


def _duration(text: str) -> timedelta:
    found = re.fullmatch(r"(\d{1,5})([mhd])", text)
    if found is None:
        raise ConfigError(f"--valid must be a number and m, h or d, got {text!r}; try 24h")
    unit = {"m": "minutes", "h": "hours", "d": "days"}[found[2]]
    valid = timedelta(**{unit: int(found[1])})
    if not timedelta(0) < valid <= LONGEST:
        raise ConfigError(
            f"--valid must be at most {LONGEST.days}d and longer than nothing, got {text}; invite "
            "again when the plant is ready"
        )
    return valid
