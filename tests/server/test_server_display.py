"""What an operator reads of a run where there is no terminal."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from common.orders import Kind
from server.console.display import Display, closed_line
from server.events import ReplyArrived, RoundClosed, RoundStarted, Waiting

CLOSED = RoundClosed(
    round=1, rounds=2, kind=Kind.TRAIN, outcome="committed", reason="", release="ab" * 32,
    seconds=12.34, counted=2,
)  # fmt: skip


def test_each_round_and_each_reply_that_does_not_count_is_a_line() -> None:
    out = io.StringIO()
    with Display(Console(file=out, width=200)) as display:
        display(Waiting(round=1, connected=1, needed=2))
        display(Waiting(round=1, connected=1, needed=2))
        display(RoundStarted(round=1, rounds=2, kind=Kind.TRAIN, cohort=("ash", "elm")))
        display(ReplyArrived(round=1, plant="ash", outcome="done", reason="", seconds=3.0))
        declined = "hours must be [22:00-06:00]"
        display(
            ReplyArrived(round=1, plant="elm", outcome="declined", reason=declined, seconds=3.0)
        )
        display(CLOSED)
    assert out.getvalue().splitlines() == [
        "1 of 2 plants connected",
        "asked ash, elm",
        "round 1: elm declined: hours must be [22:00-06:00]",
        "round 1/2 committed: 2 replies, release abababababab, 12.3 s",
    ]


def test_a_skipped_round_says_why_and_one_reply_is_one() -> None:
    skipped = replace(CLOSED, outcome="skipped", counted=1, reason="1 of 2 replies counted")
    said = "round 1/2 skipped: 1 of 2 replies counted, release abababababab, 12.3 s"
    assert closed_line(skipped) == said
    adopted = replace(CLOSED, kind=Kind.ADOPT, counted=1)
    assert closed_line(adopted) == "adoption committed: 1 reply, release abababababab, 12.3 s"
