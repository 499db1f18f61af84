"""The accountants against published figures, against each other, and against the closed form."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.optimize import brentq
from scipy.stats import norm

from common import privacy
from common.config import FederationConfig
from common.config.privacy import honest, objection
from common.errors import StateError
from common.privacy import MEANINGLESS, Cost, cost_of, epsilon
from common.secagg.roster import threshold
from common.tasks import KINDS

COSTS = st.builds(
    Cost,
    noise_multiplier=st.floats(0.8, 4.0),
    sample_rate=st.sampled_from([0.05, 0.3, 1.0]),
    steps=st.integers(1, 30),
)


def published(images: int, batch: int, noise: float, epochs: int) -> Cost:
    steps = math.ceil(epochs * images / batch)
    return Cost(noise_multiplier=noise, sample_rate=batch / images, steps=steps)


# Epsilon by the conversion of Abadi et al. 2016, as tensorflow/privacy published it: the table in
# tutorials/README.md (MNIST; noise 1.12 for 60 epochs, "2.92"), the tutorial's run with noise 1.1
# ("3.0"), and the cases of compute_dp_sgd_privacy_test.py.
@pytest.mark.parametrize(
    ("cost", "delta", "value", "within"),
    [
        (published(60_000, 256, 1.12, 60), 1e-5, 2.92, 0.005),
        (published(60_000, 256, 1.1, 60), 1e-5, 3.0, 0.02),
        (published(60_000, 150, 1.3, 15), 1e-5, 0.941870567, 1e-6),
        (published(100_000, 100, 1.0, 30), 1e-7, 1.70928734, 1e-6),
    ],
)
def test_published_values(cost: Cost, delta: float, value: float, within: float) -> None:
    # They are of the first conversion (Mironov 2017), which dp-accounting has no more.
    account = privacy._composed(privacy._rdp(), privacy._grouped([cost]))
    curve = zip(account.orders, account._rdp, strict=True)
    classic = min(rdp + math.log(1 / delta) / (order - 1) for order, rdp in curve)
    assert classic == pytest.approx(value, abs=within)
    # Today's conversion (Canonne et al. 2020) is tighter, and distributions are tighter still.
    found = epsilon([cost], delta=delta)
    assert found.pld < found.rdp < classic


def test_later_published_value() -> None:
    """The same case of tensorflow/privacy's test after the tighter conversion came in."""
    assert epsilon([published(60_000, 150, 1.3, 15)], delta=1e-5).rdp == pytest.approx(
        0.7242234026109595, abs=1e-4
    )


@pytest.mark.parametrize("noise", [0.5, 1.0, 3.0])
def test_one_gaussian_against_the_closed_form(noise: float) -> None:
    """Balle and Wang 2018, https://arxiv.org/abs/1805.06530, theorem 8."""

    def excess(value: float) -> float:
        ratio = 1 / noise
        return float(
            norm.cdf(ratio / 2 - value / ratio)
            - math.exp(value) * norm.cdf(-ratio / 2 - value / ratio)
            - 1e-5
        )

    exact = brentq(excess, 1e-6, 100)
    found = epsilon([Cost(noise_multiplier=noise)], delta=1e-5)
    assert exact <= found.pld <= exact + 1e-3
    assert found.pld <= found.rdp


@settings(max_examples=4, deadline=None)
@given(costs=st.lists(COSTS, min_size=1, max_size=2), more=COSTS)
def test_distributions_are_tighter_and_rounds_add_up(costs: list[Cost], more: Cost) -> None:
    before, after = epsilon(costs, delta=1e-5), epsilon([*costs, more], delta=1e-5)
    assert before.pld <= before.rdp + 1e-9
    assert before.value < after.value
    assert before.rdp < after.rdp


@settings(max_examples=3, deadline=None)
@given(cost=COSTS)
def test_delta_and_noise(cost: Cost) -> None:
    assert epsilon([cost], delta=1e-6).value > epsilon([cost], delta=1e-4).value
    louder = Cost(
        noise_multiplier=2 * cost.noise_multiplier,
        sample_rate=cost.sample_rate,
        steps=cost.steps,
    )
    assert epsilon([louder], delta=1e-5).value < epsilon([cost], delta=1e-5).value


def test_order_and_grouping_do_not_matter() -> None:
    one, other = Cost(noise_multiplier=1.0, sample_rate=0.1, steps=10), Cost(noise_multiplier=2.0)
    twenty = Cost(noise_multiplier=1.0, sample_rate=0.1, steps=20)
    assert epsilon([one, other, one], delta=1e-5) == epsilon([other, twenty], delta=1e-5)


def test_nothing_costs_nothing_and_no_noise_is_told_as_such() -> None:
    assert epsilon([], delta=1e-5).value == 0.0
    assert cost_of(FederationConfig()) is None
    quiet = epsilon([Cost(noise_multiplier=0.01, sample_rate=0.5, steps=1000)], delta=1e-5)
    assert quiet.value > MEANINGLESS
    assert quiet.pld == quiet.rdp


def settings_of(**tables: dict[str, object]) -> FederationConfig:
    return FederationConfig.model_validate({"min_plants": 5, **tables})


def test_settings_say_the_cost() -> None:
    record = settings_of(
        privacy={"unit": "record", "noise_multiplier": 1.5, "sample_rate": 0.25, "steps": 7}
    )
    assert cost_of(record) == Cost(noise_multiplier=1.5, sample_rate=0.25, steps=7)
    plant = settings_of(privacy={"unit": "plant", "noise_multiplier": 3.0})
    assert cost_of(plant) == Cost(noise_multiplier=3.0)
    assert cost_of(plant, contributions=2) == Cost(noise_multiplier=3.0)


def test_sums_that_can_be_subtracted_cost_by_the_plants_own_noise() -> None:
    config = settings_of(
        privacy={"unit": "plant", "noise_multiplier": 3.0},
        secure_aggregation={"enabled": True, "bits": 20, "bound": 30.0},
    )
    assert cost_of(config) == Cost(noise_multiplier=3.0)
    again = cost_of(config, contributions=2)
    assert again == Cost(noise_multiplier=3.0 / math.sqrt(2))


@given(plants=st.integers(3, 100))
def test_honest_plants_are_the_threshold_less_those_who_may_help_the_centre(plants: int) -> None:
    least = threshold(plants)
    assert honest(plants) == least - (2 * least - plants - 1)
    assert 1 <= honest(plants) <= honest(plants + 1)


@pytest.mark.parametrize(
    ("tables", "why"),
    [
        ({"training": {"batch_norm": "adapt"}}, "batch_norm must be 'frozen'"),
        ({"update": {"form": "top_k"}}, "error_feedback must be false"),
        ({"server": {"rule": "norm_bound"}}, "rule must be another than norm_bound"),
        ({"secure_aggregation": {"enabled": True}}, "bits must be at most 20"),
        ({"secure_aggregation": {"enabled": True, "bits": 20}}, "bound must be at least 6.66"),
        (
            {"secure_aggregation": {"enabled": True, "bits": 4, "bound": 10.0}},
            "noise must be at least 4 steps of the fixed point a plant, got 0.49",
        ),
    ],
)
def test_settings_that_let_something_through_are_refused(
    tables: dict[str, dict[str, object]], why: str
) -> None:
    with pytest.raises(ValidationError, match=why):
        settings_of(privacy={"unit": "plant"}, **tables)


@pytest.mark.parametrize(
    ("fields", "why"),
    [({"method": "fedrep"}, "use fedper"), ({"method": "simclr"}, "the others of its batch"),
     ({"task": "tabular"}, "unit 'plant'")],
)  # fmt: skip
def test_methods_and_tasks_that_look_at_all_records_are_refused(
    fields: dict[str, str], why: str
) -> None:
    config = settings_of(privacy={"unit": "record"})
    assert objection(config) == ""
    assert why in objection(config.model_copy(update=fields))


@pytest.mark.parametrize("task", sorted(KINDS.keys() - {"image-classification"}))
def test_only_images_can_hide_one_record(task: str) -> None:
    """Scales, fills and stems of other data are fitted on all records without noise."""
    fields: dict[str, object] = {"task": task, "privacy": {"unit": "record"}}
    with pytest.raises(ValidationError, match="statistics of all records"):
        FederationConfig.model_validate(fields)
    FederationConfig.model_validate(fields | {"privacy": {"unit": "plant"}})


@given(cost=COSTS)
def test_saved_and_loaded(cost: Cost) -> None:
    assert Cost.from_json(cost.to_json()) == cost


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"noise_multiplier": 0, "sample_rate": 1, "steps": 1}',
     '{"noise_multiplier": 1, "sample_rate": 2, "steps": 1}'],
)  # fmt: skip
def test_damaged_costs_are_refused(text: str) -> None:
    with pytest.raises(StateError, match="cost of a round"):
        Cost.from_json(text)
