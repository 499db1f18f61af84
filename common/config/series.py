"""The tables ``[series]`` of federation.toml and plant.toml: sensor series."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, Strict, model_validator

from common.config.section import NotNegative, Section

Names = Annotated[tuple[str, ...], Strict(False)]

#: The front end `spectrogram`: samples in a frame, and between two frames.
FRAME, HOP = 64, 32


class SeriesSection(Section):
    """What every plant's windows have in common."""

    channels: Names = Field(
        (),
        description="Channels of the network's input, in this order; every plant must have them.",
        examples=[("vibration",)],
    )
    rate: NotNegative = Field(
        0.0,
        description="Samples a second that the network sees; faster recordings are resampled, "
        "slower ones refused. 0: as recorded.",
    )
    per_revolution: int = Field(
        0, ge=0, description="Order domain: samples a revolution of the shaft. 0: none."
    )
    speed: str = Field(
        "",
        description="Channel with the shaft's speed, revolutions a minute, for the order domain; "
        "empty: one number a file or plant.",
    )
    window: int = Field(1024, ge=8, description="Samples in a window.")
    stride: int = Field(
        0, ge=0, description="Samples between two windows; 0: as long as a window, no overlap."
    )
    front: Literal["none", "spectrum", "spectrogram"] = Field(
        "none",
        description="What the network sees of a window: the samples, the logarithm of its "
        "spectrum, or of its spectrum over time.",
    )
    normalise: Literal["plant", "window", "none"] = Field(
        "plant",
        description="Channels by the plant's training data, each window by itself, or not at all.",
    )
    typical: dict[str, float] = Field(
        default_factory=dict,
        description="Typical size of a channel, the median of its absolute values, by name: a "
        "plant that has 30 times more or less is told that its units may differ.",
        examples=[{"vibration": 0.2}],
    )
    gap: int = Field(
        8,
        ge=0,
        description="Longest run of missing samples that is filled; longer ones cut. A value that "
        "was filled in is never one to forecast.",
    )
    settings: Names = Field(
        (), description="Channels that tell operating conditions apart; they are no input."
    )
    conditions: int = Field(
        1,
        ge=1,
        le=50,
        description="Operating conditions: each plant finds so many in `settings`, and normalises "
        "in each.",
    )
    unit: str = Field(
        "",
        description="Column that tells units (engines, tools) apart; no unit is torn between "
        "training and test, so each class needs three. With `horizon` each is cut in time.",
    )
    label: str = Field(
        "label", description="Column with the class, where there is no folder a class."
    )
    target: str = Field("", description="Column that `series-regression` learns.")
    horizon: int = Field(
        0,
        ge=0,
        description="0: the target at the window's end. Above: its next so many values, a "
        "forecast; the last quarter of the time tests, files in the order of their names.",
    )
    cap: float | None = Field(
        None,
        gt=0,
        description="Targets above it count as it: of early life nobody can tell how long it "
        "lasts. It also turns on the NASA score.",
        examples=[125.0],
    )
    judge_end: bool = Field(
        False, description="Of files `test*`, judge each unit's last window only."
    )
    short: Literal["leave", "repeat"] = Field(
        "leave",
        description="A unit shorter than a window: leave it out, or repeat its first sample.",
    )

    @property
    def step(self) -> int:
        """Samples between two windows."""
        return self.stride or self.window

    @property
    def outputs(self) -> int:
        """Width of a head of numbers."""
        return max(1, self.horizon)

    @property
    def shape(self) -> tuple[int, int]:
        """Channels and length of what the backbone sees, after the front end."""
        if self.front == "spectrum":
            return len(self.channels), self.window // 2
        if self.front == "spectrogram":
            return len(self.channels) * (FRAME // 2), (self.window - FRAME) // HOP + 1
        return len(self.channels), self.window

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.rate and self.per_revolution:
            raise ValueError("rate must be 0 in the order domain, where per_revolution takes over")
        if self.front == "spectrogram" and self.window < 4 * FRAME:
            raise ValueError(
                f"window must be at least {4 * FRAME} samples for a spectrogram, got {self.window}"
            )
        if self.conditions > 1 and not self.settings:
            raise ValueError(
                "settings must name channels to find operating conditions in, got none"
            )
        twice = {*self.channels} & {*self.settings}
        if len(set(self.channels)) < len(self.channels) or twice:
            raise ValueError(f"channels must be distinct and not in settings, got {self.channels}")
        return self


class PlantSeriesSection(Section):
    """What one plant's recordings have of their own."""

    names: dict[str, str] = Field(
        default_factory=dict,
        description="What a channel of the federation is called in this plant's files, where that "
        "is another name.",
    )
    recorded: NotNegative = Field(
        0.0, description="Samples a second of the files, where they do not say it; 0: unknown."
    )
    conditions: int = Field(
        0,
        ge=0,
        le=50,
        description="Operating conditions of this plant; 0: as federation.toml says.",
    )
    rpm: NotNegative = Field(
        0.0, description="Speed of the shaft, where the files do not say it; 0: unknown."
    )
