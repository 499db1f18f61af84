"""The no-harm rule."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from client.adoption import CONFIDENCE, TWINS, Paired, Verdict, begin, quantile
from client.adoption import decide as decide_
from client.adoption import judge as judge_
from client.personal import EVIDENCE, Deployment, PersonalStore, Version
from client.tasks.classes import Classes

Drawn = tuple[Any, Any, Any]


@st.composite
def comparisons(draw: st.DrawFn) -> Drawn:
    """Two models' probabilities for 2 to 40 images of up to four classes, and the truth."""
    classes = draw(st.integers(2, 4))
    count = draw(st.integers(2, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    current, candidate = rng.dirichlet(np.ones(classes), size=(2, count)).astype(np.float32)
    return current, candidate, rng.integers(0, classes, count)


def towards(truth: Any, value: Any) -> Any:
    """Give the truth of two classes a probability."""
    rows = np.empty((len(truth), 2), np.float32)
    rows[np.arange(len(truth)), truth] = value
    rows[np.arange(len(truth)), 1 - truth] = 1 - rows[np.arange(len(truth)), truth]
    return rows


def paired(truth: Any) -> Paired:
    """Compare by the probability of the truth, as tasks of classes do."""
    task = Classes()
    return Paired(
        worth=lambda said: task.worth(said, truth, data=None),  # type: ignore[arg-type]
        strata=task.strata(truth),
        said=task.gained,
    )


def judge(current: Any, candidate: Any, truth: Any, *, margin: float) -> Verdict:
    worth = paired(truth).worth
    return judge_(worth(candidate) - worth(current), truth, margin=margin)


def decide(store: PersonalStore, candidate: Version, *, truth: Any, margin: float) -> Deployment:
    return decide_(store, candidate, paired=paired(truth), margin=margin)


TRUTH = np.arange(40) % 2
NOISE = np.random.default_rng(0).normal(0, 0.05, 40)


@given(comparisons())
def test_an_equal_candidate_is_adopted_at_margin_zero(drawn: Drawn) -> None:
    current, _, truth = drawn
    verdict = judge(current, current, truth, margin=0.0)
    assert verdict.gain == 0.0
    if len(truth) > len(set(truth)):
        assert verdict.low == 0.0
        assert verdict.adopt
    else:  # one image a class: nothing can be said
        assert not verdict.adopt


def test_a_clearly_worse_candidate_is_kept_out() -> None:
    verdict = judge(towards(TRUTH, 0.8 + NOISE), towards(TRUTH, 0.6 - NOISE), TRUTH, margin=0.05)
    assert not verdict.adopt
    assert verdict.gain == pytest.approx(-0.2 - 2 * NOISE.mean(), abs=1e-2)
    assert verdict.why.startswith("kept what it had: on 40 validation examples")


def test_a_clearly_better_candidate_is_adopted() -> None:
    verdict = judge(towards(TRUTH, 0.6 + NOISE), towards(TRUTH, 0.8 - NOISE), TRUTH, margin=0.0)
    assert verdict.adopt
    assert verdict.low > 0.1
    assert verdict.why.startswith("adopted:")


@given(comparisons(), st.floats(0, 1), st.floats(0, 1))
def test_a_bigger_margin_never_keeps_what_a_smaller_one_adopts(
    drawn: Drawn, one: float, other: float
) -> None:
    small, big = sorted((one, other))
    assert judge(*drawn, margin=big).adopt or not judge(*drawn, margin=small).adopt


@given(comparisons(), st.integers(0, 999))
def test_the_order_of_images_does_not_matter(drawn: Drawn, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(drawn[2]))
    one = judge(*drawn, margin=0.02)
    other = judge(*(part[order] for part in drawn), margin=0.02)
    assert other.gain == pytest.approx(one.gain, abs=1e-12)
    assert other.low == pytest.approx(one.low, abs=1e-9)


@given(comparisons())
def test_the_bound_is_below_the_gain(drawn: Drawn) -> None:
    verdict = judge(*drawn, margin=0.0)
    assert verdict.low <= verdict.gain
    assert -1 <= verdict.gain <= 1


def test_every_class_counts_the_same() -> None:
    truth = np.array([0] * 18 + [1] * 2)
    better = np.where(truth == 0, 0.6, 0.5)
    verdict = judge(towards(truth, 0.5 + 0 * better), towards(truth, better), truth, margin=0.0)
    assert verdict.gain == pytest.approx(0.05)


def test_one_class_is_an_ordinary_paired_test() -> None:
    truth = np.zeros(12, int)
    rng = np.random.default_rng(1)
    current, candidate = rng.uniform(0.2, 0.8, (2, 12))
    verdict = judge(towards(truth, current), towards(truth, candidate), truth, margin=0.0)
    error = (candidate - current).std(ddof=1) / math.sqrt(12)
    low = (candidate - current).mean() - stats.t.ppf(CONFIDENCE, 11) * error
    assert verdict.low == pytest.approx(low, abs=1e-5)


def test_a_rare_class_that_is_noisy_widens_the_bound() -> None:
    """At a true gain of 0 a model is adopted one time in five; by pooled variance alone in two."""
    rng = np.random.default_rng(0)
    strata = np.repeat([0, 1], [60, 5])
    drawn = rng.normal(0, np.repeat([0.02, 0.2], [60, 5]), (600, 65))
    verdicts = [judge_(one, strata, margin=0.0) for one in drawn]
    assert sum(verdict.adopt for verdict in verdicts) / len(verdicts) < 0.25
    one = drawn[0]
    parts = np.array([one[:60].var(ddof=1) / 60, one[60:].var(ddof=1) / 5])
    freedom = int(parts.sum() ** 2 / (parts**2 / [59, 4]).sum())
    width = stats.t.ppf(CONFIDENCE, freedom) * math.sqrt(parts.sum()) / 2
    assert verdicts[0].low == pytest.approx(verdicts[0].gain - width, abs=1e-4)
    alone = np.repeat([0, 1], [64, 1])  # its variance is that of the others
    verdict = judge_(one, alone, margin=0.0)
    width = stats.t.ppf(CONFIDENCE, 63) * one[:64].std(ddof=1) * math.sqrt(1 + 1 / 64) / 2
    assert verdict.low == pytest.approx(verdict.gain - width, abs=1e-5)


def test_few_images_say_nothing() -> None:
    truth = np.array([0, 1])
    verdict = judge(towards(truth, 0.1), towards(truth, 0.9), truth, margin=0.5)
    assert verdict.low == -math.inf
    assert not verdict.adopt


def test_quantile_is_students() -> None:
    for confidence in (CONFIDENCE, TWINS):
        for freedom in (1, 2, 3, 4, 5, 8, 20, 300):
            expected = stats.t.ppf(confidence, freedom)
            assert quantile(confidence, freedom=freedom) == pytest.approx(expected, abs=4e-4)


@pytest.mark.parametrize(("images", "source"), [(20, "federated"), (30, "local")])
def test_twins_must_differ_more_clearly(tmp_path: Path, images: int, source: str) -> None:
    """Evidence beyond the validation images is of cross-validation: the bar is higher."""
    store, truth = PersonalStore(tmp_path), np.arange(30) % 2
    # A gain with its bound above zero at 0.8 and below it at 0.9.
    gain = 0.026 + 0.1 * np.where(np.arange(30) % 4 < 2, 1, -1)
    for kind, values in (("local", np.full(30, 0.5)), ("federated", 0.5 + gain)):
        evidence = towards(truth, values)[:images]
        version = store.add(
            {EVIDENCE: evidence}, kind=kind, run="", round=0, basis="", judged="", scores={}
        )
        now = decide(store, version, truth=truth[:20], margin=0.0)
    assert now.source == source


def add(store: PersonalStore, right: float, *, kind: str, judged: str = "these") -> Version:
    return store.add(
        {EVIDENCE: towards(TRUTH, right + 0 * NOISE)},
        kind=kind,
        run="",
        round=0,
        basis=f"{kind}{right}",
        scores={},
        judged=judged,
    )


def test_what_is_deployed_follows_the_verdict(tmp_path: Path) -> None:
    store = PersonalStore(tmp_path)
    first = add(store, 0.7, kind="local")
    now = decide(store, first, truth=TRUTH, margin=0.0)
    assert (now.version, now.why) == (first.number, "the plant had no model before")

    worse = decide(store, add(store, 0.6, kind="federated"), truth=TRUTH, margin=0.05)
    assert (worse.version, worse.source) == (first.number, "local")
    assert worse.why.startswith("kept what it had")

    candidate = add(store, 0.75, kind="federated")
    better = decide(store, candidate, truth=TRUTH, margin=0.0)
    assert (better.version, better.source) == (candidate.number, "federated")
    assert decide(store, candidate, truth=TRUTH, margin=0.0) == better == store.deployed()


def test_evidence_on_other_images_is_not_compared(tmp_path: Path) -> None:
    store = PersonalStore(tmp_path)
    first = add(store, 0.5, kind="local", judged="those")
    decide(store, first, truth=TRUTH, margin=0.0)
    now = decide(store, add(store, 0.9, kind="federated"), truth=TRUTH, margin=0.0)
    assert now.version == first.number
    assert "the labelled examples are others" in now.why


@pytest.mark.parametrize(
    ("alone", "again", "adopted"),
    [
        (0.6, None, True),  # what it runs knows other classes
        (0.8, None, False),
        (0.6, 0.65, True),
        (0.6, 0.8, False),  # better than alone, and worse than what it runs
        (0.8, 0.6, False),
        (None, 0.6, True),
        (None, 0.8, False),
    ],
)
def test_on_other_images_a_release_must_match_the_plant_alone_and_what_it_runs(
    tmp_path: Path, alone: float | None, again: float | None, adopted: bool
) -> None:
    store = PersonalStore(tmp_path)
    add(store, 0.9, kind="local", judged="those")
    runs = add(store, 0.5, kind="federated", judged="those")
    store.deploy(runs, why="adopted then")
    if alone is not None:
        begin(store, add(store, alone, kind="local"))
    assert store.deployed() == Deployment(
        version=runs.number, source="federated", why="adopted then"
    )
    candidate = add(store, 0.7, kind="federated")
    now = decide_(
        store,
        candidate,
        paired=paired(TRUTH),
        margin=0.0,
        again=lambda version: None if again is None else towards(TRUTH, again + 0 * NOISE),
    )
    assert now.version == (candidate if adopted else runs).number
    assert "40 validation examples" in now.why


def test_what_was_trained_alone_takes_the_place_of_its_like(tmp_path: Path) -> None:
    store = PersonalStore(tmp_path)
    first, same = add(store, 0.5, kind="local"), add(store, 0.9, kind="local")
    for version in (first, same):
        begin(store, version)
    assert store.deployed() == Deployment(
        version=first.number, source="local", why="trained at this plant alone"
    )
    begin(store, other := add(store, 0.4, kind="local", judged="those"))
    now = store.deployed()
    assert now is not None
    assert now.version == other.number


def test_evidence_about_images_of_the_rounds_does_not_count(tmp_path: Path) -> None:
    """A candidate that only shines where its backbone was trained is not adopted."""
    store = PersonalStore(tmp_path)

    def stored(kind: str, clean: float, seen: float) -> Version:
        values = np.where(np.arange(40) < 20, clean, seen)
        evidence = {"head.bias": np.zeros(2, np.float32), EVIDENCE: towards(TRUTH, values)}
        return store.add(evidence, kind=kind, run="", round=0, basis="", judged="", scores={})

    decide(store, stored("local", 0.7, 0.5), truth=TRUTH[:20], margin=0.0)
    now = decide(store, stored("federated", 0.6, 1.0), truth=TRUTH[:20], margin=0.0)
    assert now.source == "local"


def test_after_a_rollback_the_next_candidate_is_compared_with_what_was_put_back(
    tmp_path: Path,
) -> None:
    store = PersonalStore(tmp_path)
    old, adopted = add(store, 0.9, kind="local"), add(store, 0.6, kind="federated")
    store.deploy(adopted, why="adopted")
    store.rollback(old.number)
    now = decide(store, add(store, 0.75, kind="federated"), truth=TRUTH, margin=0.0)
    assert now.version == old.number
    assert now.why.startswith("kept what it had")


def test_windows_of_one_unit_are_one_piece_of_evidence() -> None:
    """Forty windows that agree within four engines prove no more than four engines do."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(4), 10)
    difference = np.array([0.3, -0.3, 0.25, 0.1])[groups] + rng.normal(0, 0.01, 40)
    strata = np.zeros(40, dtype=np.int64)

    alone = judge_(difference, strata, margin=0.0)
    grouped = judge_(difference, strata, margin=0.0, groups=groups)

    assert alone.adopt
    assert not grouped.adopt
    assert grouped.gain == pytest.approx(alone.gain)
    assert "on 40 validation examples in 4 groups" in grouped.why
