"""Charts: right places on the scale, figures in words, names that cannot break out."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulation import charts, notation
from simulation.charts import Scale
from simulation.results import Interval

FIGURES = st.floats(-1, 1).map(lambda value: round(value, 6))


@given(st.lists(FIGURES, min_size=1, max_size=8))
def test_scale_holds_all_values_between_round_ends(values: list[float]) -> None:
    scale = Scale.around(values)
    assert scale.low <= min(values) + 1e-9
    assert scale.high >= max(values) - 1e-9
    assert 2 <= len(scale.ticks) <= 8
    assert scale.ticks[0] == pytest.approx(scale.low)
    assert scale.ticks[-1] == pytest.approx(scale.high)
    assert all(0 <= scale(value) <= 100 for value in values)


def test_scale_of_nothing_is_from_0_to_1() -> None:
    assert (Scale.around([]).low, Scale.around([]).high) == (0, 1)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0234, "+2.3"), (-0.004, "−0.4"), (0.0, "0.0"), (-0.0001, "0.0"), (0.0004, "0.0")],
)
def test_points_have_a_sign_unless_zero(value: float, text: str) -> None:
    assert notation.points(value) == text


def test_bar_is_as_long_as_its_value() -> None:
    svg = ET.fromstring(charts.bar(Interval(value=0.8, low=0.75, high=0.9), label="a"))
    assert [rect.get("width") for rect in svg.iter("rect")] == ["100%", "80.0%"]
    whisker = next(svg.iter("line"))
    assert (whisker.get("x1"), whisker.get("x2")) == ("75.0%", "90.0%")
    assert svg.get("aria-label") == "a: 80.0 %, 95 % interval 75.0 to 90.0 %"


def test_forest_marks_harm() -> None:
    scale = Scale.around([-0.04, 0.04])
    harm = charts.forest(Interval(value=-0.02, low=-0.03, high=-0.01), scale=scale, label="a")
    noise = charts.forest(Interval(value=-0.02, low=-0.03, high=0.01), scale=scale, label="a")
    assert "dot bad" in harm
    assert "dot bad" not in noise


def test_curve_goes_up_with_the_score() -> None:
    scale = Scale.around([0.5, 0.9])
    svg = ET.fromstring(
        charts.curves({"trained": [(1, 0.5), (2, 0.9)]}, scale=scale, last=2, label="a")
    )
    first, second = (point.split(",") for point in next(svg.iter("polyline")).get("points").split())
    assert (float(first[0]), float(second[0])) == (0, 100)
    assert float(first[1]) == 100
    assert float(second[1]) == 0
    assert [float(str(dot.get("cy"))) for dot in svg.iter("circle")] == [130, 0]
    assert "trained from 50.0 to 90.0 %" in str(svg.get("aria-label"))


def test_a_label_cannot_break_out() -> None:
    svg = charts.share(0.5, label='"><script>x</script>')
    assert "<script" not in svg
    assert ET.fromstring(svg).get("aria-label") == '"><script>x</script>: 50.0 %'


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.8731, "0.873"), (-0.02, "−0.020"), (12.61, "12.61"), (123.45, "123.5"), (-4210.4, "−4210")],
)
def test_numbers_have_the_figures_that_tell(value: float, text: str) -> None:
    assert notation.Notation(share=False).score(value) == text


def test_a_bar_of_a_negative_score_ends_at_zero() -> None:
    scale = Scale(low=-0.5, high=1.0, step=0.5)
    told = notation.Notation(share=False)
    found = Interval(value=-0.3, low=-0.4, high=-0.2)
    svg = ET.fromstring(charts.bar(found, label="x", scale=scale, told=told))
    fill = next(one for one in svg if one.get("class") == "fill")
    ends = float(str(fill.get("x"))[:-1]), float(str(fill.get("width"))[:-1])
    assert ends == (scale(-0.3), pytest.approx(scale(0.0) - scale(-0.3)))
    assert "−0.300, 95 % interval" in str(svg.get("aria-label"))
