import math

import pytest
import torch
from golden import assert_near, cases, double
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import DataError
from reward.calibration import (
    affine_stats,
    brier_score,
    calibrate,
    expected_calibration_error,
    fit_temperature,
    normalise,
    pair_nll,
    quality,
    reliability_bins,
    winner_confidence,
)


@pytest.mark.parametrize(("inputs", "expected"), cases("ece"))
def test_calibration_error_reference_numbers(inputs, expected):
    probability, correct = double(inputs["prob"]), double(inputs["correct"])
    assert_near(expected_calibration_error(probability, correct, n_bins=inputs["n_bins"]), expected["ece"])
    assert_near(brier_score(probability, correct), expected["brier"])


def test_bins_are_closed_on_the_right_and_zero_is_in_the_first():
    bins = reliability_bins(double([0.0, 0.2, 0.4, 0.6000001, 1.0]), double([1, 0, 1, 1, 1]), n_bins=5)
    assert bins.count.tolist() == [2, 1, 0, 1, 1]
    assert bins.accuracy.tolist() == [0.5, 1.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize("n_bins", [3, 5, 10, 15, 20])
def test_every_edge_lies_in_the_bin_it_closes(n_bins):
    edges = double([i / n_bins for i in range(1, n_bins + 1)])
    assert reliability_bins(edges, torch.ones(n_bins), n_bins=n_bins).count.tolist() == [1] * n_bins


def test_calibration_error_by_hand():
    # one bin: says 0.8, right 3 of 4 times; the other: says 0.6, always wrong
    confidence, correct = double([0.8] * 4 + [0.6]), double([1, 1, 1, 0, 0])
    assert_near(expected_calibration_error(confidence, correct, n_bins=2), abs(3 / 5 - (4 * 0.8 + 0.6) / 5))


@pytest.mark.parametrize(("inputs", "expected"), cases("pair_nll_temperature"))
def test_temperature_reference_numbers(inputs, expected):
    assert_near(pair_nll(double(inputs["delta"]), temperature=inputs["temperature"]), expected["nll"])


def test_fitted_temperature_by_hand():
    # deltas 2, 2, 2, -2: three in four right, so sigmoid(2 / T) = 3/4 and T = 2 / ln 3
    assert fit_temperature(double([2.0, 2.0, 2.0, -2.0])) == pytest.approx(2 / math.log(3), rel=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30))
def test_no_temperature_nearby_has_a_lower_nll(deltas):
    delta = double(deltas)
    temperature = fit_temperature(delta)
    best = pair_nll(delta, temperature=temperature)
    for other in (0.01, temperature * 0.9, temperature * 1.1, 100.0):
        assert best <= pair_nll(delta, temperature=min(max(other, 0.01), 100.0)) + 1e-9


def test_pairs_all_right_want_the_lowest_temperature_and_all_wrong_the_highest():
    assert fit_temperature(double([1.0, 2.0])) == pytest.approx(0.01)
    assert fit_temperature(double([-1.0, -2.0])) == pytest.approx(100.0)


def test_a_temperature_needs_pairs():
    with pytest.raises(DataError, match="0 pairs"):
        fit_temperature(double([]))


def test_confidence_is_in_the_winner_and_a_tie_is_half_right():
    confidence, right = winner_confidence(double([math.log(3), -math.log(3), 0.0]))
    assert_near(confidence, [0.75, 0.75, 0.5])
    assert right.tolist() == [1.0, 0.0, 0.5]


def test_temperature_repairs_overconfidence_on_pairs_apart():
    generator = torch.Generator().manual_seed(0)
    margins = torch.rand(4000, generator=generator, dtype=torch.float64) * 4
    won = torch.rand(4000, generator=generator, dtype=torch.float64) < torch.sigmoid(margins)
    # the truth is sigmoid(margin), the model claims sigmoid(3 * margin)
    delta = 3 * torch.where(won, margins, -margins)
    result = calibrate(delta[:2000], delta[2000:])
    assert result.temperature == pytest.approx(3.0, rel=0.1)
    assert result.after.ece < 0.03 < result.before.ece
    assert result.after.nll < result.before.nll and result.after.brier < result.before.brier
    assert result.bins.count.sum() == 2000


def test_quality_of_a_constant_model_is_chance():
    got = quality(double([0.0, 0.0]))
    assert (got.nll, got.brier, got.ece) == (pytest.approx(math.log(2)), 0.25, 0.0)


@pytest.mark.parametrize(("inputs", "expected"), cases("reward_affine"))
def test_normalisation_reference_numbers(inputs, expected):
    rewards = double(inputs["rewards"])
    assert_near(normalise(rewards, inputs["mean"]), expected["centred"])
    assert_near(normalise(rewards, inputs["mean"], inputs["std"]), expected["normalised"])


def test_normalised_reference_completions_have_mean_zero_and_spread_one():
    rewards = double([[3.0, 10.0], [1.0, 10.0], [-1.0, 10.0]])
    stats = affine_stats(rewards)
    assert (stats.mean, stats.std, stats.n) == ((1.0, 10.0), (2.0, 1.0), 3)
    assert_near(normalise(rewards, double(stats.mean), double(stats.std)), [[1, 0], [0, 0], [-1, 0]])


def test_one_completion_is_too_few_to_normalise():
    with pytest.raises(DataError, match="at least 2"):
        affine_stats(double([[1.0, 2.0, 3.0]]))
