"""What every configuration file is made of: frozen tables that refuse unknown keys."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Rate = Annotated[float, Field(gt=0, le=1)]


def _several_names(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(names) == 1:
        raise ValueError(f"must be at least two classes, got {list(names)}; or leave it empty")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"must be distinct names, got {twice[0]!r} twice")
    return names


# A TOML array is a list; strictness about the container would refuse it, that about what is
# inside stays.
ClassNames = Annotated[tuple[str, ...], Strict(False), AfterValidator(_several_names)]
Channels = Annotated[tuple[float, float, float], Strict(False)]
Spreads = Annotated[tuple[Positive, Positive, Positive], Strict(False)]


class Section(BaseModel):
    """A table of the file: frozen, and unknown keys are refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True
    )
