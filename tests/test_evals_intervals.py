import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evals.intervals import (
    Estimate,
    bootstrap_mean,
    bootstrap_statistic,
    by_prompt,
    paired_difference,
    perplexity,
    win_rate,
)
from models.errors import DataError, NumericsError


def test_the_interval_of_many_normal_values_is_the_textbook_one():
    values = np.random.default_rng(1).normal(3.0, 2.0, 4000)
    got = bootstrap_mean(values)
    half = 1.96 * values.std(ddof=1) / math.sqrt(4000)
    assert got.mean == pytest.approx(values.mean())
    assert (got.low, got.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.15 * half)


def test_ninety_five_of_a_hundred_intervals_hold_the_truth():
    generator = np.random.default_rng(2)
    held = sum(
        got.low <= 0.3 <= got.high
        for got in (bootstrap_mean(generator.random(80) < 0.3, n_resamples=400) for _ in range(300))
    )
    # binomial(300, 0.95) has mean 285 and deviation 3.8; the percentile interval is a little short
    assert 268 <= held <= 299


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40))
def test_the_mean_lies_in_its_interval_and_the_interval_in_the_range(values):
    got = bootstrap_mean(values, n_resamples=50)
    slack = 1e-9 * max(map(abs, values))
    assert min(values) - slack <= got.low <= got.mean <= got.high <= max(values) + slack and got.n == len(values)


def test_same_values_and_seed_give_the_same_interval():
    values = [0.0, 1.0, 1.0, 0.5, 0.2]
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(values, seed=3)


def test_large_inputs_are_resampled_in_pieces(monkeypatch):
    monkeypatch.setattr("evals.intervals.CHUNK", 7)
    got = bootstrap_mean([0.0, 1.0, 1.0], n_resamples=999)
    assert 0.0 <= got.low < got.mean < got.high <= 1.0


@pytest.mark.parametrize("values", [[0.1], [0.1, 0.1, 0.1]])
def test_values_that_do_not_vary_have_a_point_for_an_interval(values):
    got = bootstrap_mean(values)
    assert (got.low, got.high) == pytest.approx((0.1, 0.1)) and got.low <= got.mean <= got.high


def test_a_paired_difference_sees_what_two_intervals_hide():
    theirs = np.linspace(-10, 10, 60)
    ours = theirs + np.tile([0.5, 1.5], 30)
    got = paired_difference(ours, theirs)
    assert got.mean == pytest.approx(1.0) and got.above_zero and not got.below_zero
    assert bootstrap_mean(ours).low < bootstrap_mean(theirs).high


def test_a_win_rate_counts_ties_half():
    got = win_rate([1.0, 2.0, 3.0, 0.0], [0.0, 2.0, 1.0, 5.0])
    assert (got.mean, got.n) == (0.625, 4)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=20))
def test_win_rates_of_both_sides_add_up_to_one(scores):
    ours, theirs = zip(*scores, strict=True)
    assert win_rate(ours, theirs).mean + win_rate(theirs, ours).mean == pytest.approx(1.0)


def test_samples_of_one_prompt_are_averaged_first():
    assert by_prompt([1.0, 5.0, 3.0, 7.0], [8, 2, 8, 2]) == [2.0, 6.0]


def test_no_values_are_no_estimate():
    with pytest.raises(DataError, match="at least one row"):
        bootstrap_mean([])


def test_a_value_that_is_no_number_is_named():
    with pytest.raises(NumericsError, match="value 1 of 2"):
        bootstrap_mean([0.0, math.nan])


@pytest.mark.parametrize("compare", [paired_difference, win_rate])
def test_comparisons_need_the_same_prompts(compare):
    with pytest.raises(DataError, match="2 and 1 values"):
        compare([1.0, 2.0], [1.0])


def test_as_dict_is_what_the_results_file_holds():
    assert Estimate(0.5, 0.4, 0.6, 10).as_dict() == {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 10}


def test_a_statistic_of_sums_that_is_a_mean_has_the_interval_of_the_mean():
    values = np.random.default_rng(4).normal(3.0, 2.0, 2000)
    rows = np.stack([values, np.ones(2000)], axis=1)
    got, want = bootstrap_statistic(rows, lambda sums: sums[..., 0] / sums[..., 1]), bootstrap_mean(values)
    assert got.mean == pytest.approx(want.mean) and got.n == 2000
    assert (got.low, got.high) == pytest.approx((want.low, want.high), abs=0.15 * (want.high - want.low))


def test_a_paired_difference_of_statistics_is_drawn_by_the_same_rows():
    theirs = [(2.0, 1), (40.0, 5), (3.0, 7)]
    ours = [(nll + n * math.log(2), n) for nll, n in theirs]  # every token half as likely
    assert bootstrap_statistic(theirs, perplexity, minus=theirs) == Estimate(0.0, 0.0, 0.0, 3)
    gain, own = bootstrap_statistic(ours, perplexity, minus=theirs), bootstrap_statistic(theirs, perplexity)
    assert (gain.mean, gain.low, gain.high) == pytest.approx((own.mean, own.low, own.high))


def test_a_statistic_of_no_rows_or_of_rows_that_are_not_numbers_is_refused():
    with pytest.raises(DataError, match="at least one row"):
        bootstrap_statistic(np.empty((0, 2)), perplexity)
    with pytest.raises(NumericsError):
        bootstrap_statistic([(math.nan, 1)], perplexity)
