"""How it looks: at most 80 columns on a terminal, whole lines elsewhere."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from client.console import screens
from client.console.checks import Check, State
from client.console.preview import preview
from client.console.views import Model
from client.desk.ledger import Answer
from client.personal import Version
from client.tasks.data import Skipped
from common.config import FederationConfig, PlantConfig, PolicySection
from common.terminal import console

LONG = "the link runs as a user who can read the images of line 3, the keys and the models " * 2
SECTION = PolicySection(bandwidth=2.0)


def screen(*, width: int = 80) -> Console:
    return Console(file=StringIO(), force_terminal=True, width=width, color_system=None)


def lines(out: Console) -> list[str]:
    assert isinstance(out.file, StringIO)
    return out.file.getvalue().splitlines()


def show(what: Any, *arguments: Any, **words: Any) -> list[str]:
    """Return the lines on a terminal, none of which may be too wide or end in blanks."""
    out = screen()
    what(out, *arguments, **words)
    shown = lines(out)
    assert max(map(len, shown)) <= screens.WIDTH
    return shown


def test_a_check_is_a_line_and_what_to_do() -> None:
    shown = show(screens.show_check, Check(name="link", state=State.FAIL, says=LONG, do=LONG))
    assert shown[0].startswith("fail  link       the link runs")
    assert shown[1].startswith(" " * 17 + "keys") or shown[1].startswith(" " * 17)
    assert any(line.startswith(" " * 17 + "→ the link") for line in shown)


def test_off_a_terminal_a_line_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    screens.show_check(console(), Check(name="link", state=State.FAIL, says=LONG.strip()))
    assert capsys.readouterr().out == f"fail  link       {LONG.strip()}\n"


def test_brackets_are_no_markup() -> None:
    shown = show(screens.put, "class scratch [deep] of [red]", indent=4, first="[a]")
    assert shown == ["[a] class scratch [deep] of [red]"]


@pytest.mark.parametrize("backbone", ["densenet121", "mobilenet_v2"])
def test_every_tensor_is_shown(backbone: str) -> None:
    config = FederationConfig(backbone=backbone)
    found = preview(config, classes=2)
    settings = PlantConfig(name="ash", data="x", policy=SECTION)
    shown = show(screens.show_preview, found, settings=settings, config=config)
    joined = "".join(line.strip() for line in shown)
    assert all(tensor.name in joined for tensor in found.tensors)
    assert any(f"{found.size:,}  {len(found.tensors)} tensors in all" in line for line in shown)
    assert shown[-1] == f"takes     {found.size / 2e6:.0f} s at 2 MB/s"


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("image-classification", "fedper on mobilenet_v2, 96 pixels"),
        ("tabular", "fedper on resnet_mlp"),
        ("text-classification", "fedper on text_cnn"),
    ],
)
def test_what_is_of_images_is_said_of_images_alone(task: str, says: str) -> None:
    config = FederationConfig.model_validate({"task": task})
    settings = PlantConfig(name="ash", data="x")
    shown = show(screens.show_preview, preview(config, classes=2), settings=settings, config=config)
    assert f"settings  {says}" in shown
    images = says.endswith("pixels")
    assert any(line.startswith("stays     images, file names") for line in shown) == images
    assert any("its own columns" in line for line in shown) == (task == "tabular")


@pytest.mark.parametrize(("count", "says"), [(1, ""), (5, "; and 2 more")])
def test_joining_names_files_that_cannot_be_used(count: int, says: str) -> None:
    skipped = [Skipped(file=f"crack/{number}.png", why="broken") for number in range(count)]
    found: Any = SimpleNamespace(
        settings=PlantConfig(name="ash", data="x"),
        data=SimpleNamespace(skipped=skipped),
        problem="",
        moved={},
    )
    said = " ".join(show(screens.show_joined, found, folder=Path("ash")))
    named = "; ".join(f"{one.file}: broken" for one in skipped[:3])
    assert f"{count} of the files cannot be used: {named}{says} all are listed by" in said


def test_preview_says_that_data_and_link_share_a_user() -> None:
    config = FederationConfig()
    found = preview(config, classes=2)
    for link, shared in (({}, True), ({"user": "link"}, False), ({"listen": "10.0.0.1:1"}, False)):
        settings = PlantConfig.model_validate({"name": "ash", "data": "x", "link": link})
        shown = show(screens.show_preview, found, settings=settings, config=config)
        assert any("data and link share a user" in line for line in shown) == shared


@pytest.mark.parametrize(
    ("states", "says"),
    [
        ("ok skip ok", "all is well"),
        ("ok warn", "1 warning: this plant can take part"),
        ("fail warn warn fail", "2 failures and 2 warnings: this plant cannot take part yet"),
        ("fail", "1 failure: this plant cannot take part yet"),
    ],
)
def test_the_verdict(states: str, says: str) -> None:
    found = [Check(name="x", state=State(one), says="") for one in states.split()]
    assert screens.verdict(found) == says


def answer(outcome: str, reason: str = "") -> Answer:
    return Answer(
        at=datetime(2026, 11, 20, 12, tzinfo=UTC),
        run="run-20261120-1842",
        round=1200,
        kind="train",
        release="",
        digest="",
        repeated=False,
        outcome=outcome,
        reason=reason,
        head='{"scores": {"trained": {"balanced_accuracy": 0.9}}}',
        received=1,
        sent=250_000_000,
        seconds=12000.0,
    )


def test_a_reason_has_lines_of_its_own() -> None:
    shown = show(screens.show_history, [answer("done"), answer("declined", LONG)])
    assert len(shown[0]) == len(shown[1]) == len(shown[2])
    assert shown[1].split()[-6:] == ["done", "0.900", "12000", "s", "250.0", "MB"]
    assert all(line.startswith(" " * 13) for line in shown[3:])


def test_why_rounds_with_noise_have_no_score() -> None:
    one = replace(answer("done"), head="{}")
    shown = show(screens.show_history, [one], private={one.run})
    assert shown[1].split()[-6:] == ["done", "-", "12000", "s", "250.0", "MB"]
    assert "rounds with noise send no score" in shown[3]
    assert len(show(screens.show_history, [one])) == 2


def test_models_have_a_star_and_a_reason() -> None:
    version = Version(
        number=12, kind="federated", run="run-1", round=7, basis="", scores={}, judged=""
    )
    model = Model(version=version, made=datetime.now(UTC), deployed=True, why=LONG)
    shown = show(screens.show_models, [model])
    assert shown[1].startswith("*       12  ")
    assert shown[1].endswith("    -  a release of run run-1")
    assert shown[3].startswith("* version 12 inspects parts: the link")
