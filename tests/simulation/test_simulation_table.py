"""The table for the terminal: fits 80 columns, plain where the output is no terminal."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from simulation.table import print_table


def printed(results: Any, *, width: int, terminal: bool = False) -> str:
    file = io.StringIO()
    colours = "standard" if terminal else "auto"
    print_table(
        results, Console(file=file, width=width, force_terminal=terminal, color_system=colours)
    )
    return file.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_every_plant_and_the_mean_fit(made_up_results: Any, width: int) -> None:
    results = made_up_results(rounds=0)
    text = printed(results, width=width)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    for plant in results.plants:
        assert plant in text
    assert "\n runs local" in text
    assert "86.7-91.3" in text
    assert "+1.8 to +4.4" in text
    assert "mean" in text


def test_output_that_is_no_terminal_is_plain_ascii(made_up_results: Any) -> None:
    text = printed(made_up_results(rounds=0), width=80)
    assert "\x1b" not in text
    assert text.replace("─", "-").isascii()


def test_gain_is_signed_and_coloured(made_up_results: Any) -> None:
    text = printed(made_up_results(rounds=0), width=120, terminal=True)
    assert "\x1b[1;32m+3.1" in text
    assert "-0.4" in text
    assert "-0.0" not in text


def test_pooled_is_left_out_where_it_was_not_run(made_up_results: Any) -> None:
    assert "pooled" not in printed(made_up_results(rounds=0, pooled=False), width=80)


def test_markup_in_a_name_is_text_and_a_long_name_folds(made_up_results: Any) -> None:
    products = {"[red]x": ("a", "b"), "a_plant_with_a_very_long_name_indeed": ("a", "b")}
    text = printed(made_up_results(products=products, rounds=0), width=80)
    assert "[red]x" in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
