import itertools
import math

import pytest
import torch
from golden import assert_near, cases, double
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import DataError
from reward.metrics import best_of_n, correlation, ensemble, kendall_tau, pair_accuracy, top1


def test_accuracy_counts_ties_half_and_strict_not_at_all():
    got = pair_accuracy(double([1.0, 2.0, 0.0, -1.0]))
    assert got == (0.625, 0.5, 0.25, 0.5, 4)


def test_a_constant_model_is_at_chance():
    assert pair_accuracy(torch.zeros(7)).accuracy == 0.5


def test_accuracy_of_no_pairs_is_not_made_up():
    with pytest.raises(DataError):
        pair_accuracy(double([]))


@pytest.mark.parametrize(
    ("scores", "want"),
    [([1, 2, 3], 1.0), ([3, 2, 1], -1.0), ([1, 3, 2], 1 / 3), ([1, 1, 2], 2 / math.sqrt(2 * 3)), ([5, 5, 5], None)],
)
def test_kendall_tau_by_hand(scores, want):
    got = kendall_tau(double(scores), double([1, 2, 3]))
    assert got == want if want is None else got == pytest.approx(want)


@pytest.mark.parametrize(
    ("scores", "gold", "want"), [([3, 1, 2], [9, 0, 1], 1.0), ([3, 3, 2], [9, 0, 1], 0.5), ([1, 3, 2], [9, 9, 1], 1.0)]
)
def test_top1_shares_ties(scores, gold, want):
    assert top1(double(scores), double(gold)) == want


@pytest.mark.parametrize(("inputs", "expected"), cases("bon"))
def test_best_of_n_reference_numbers(inputs, expected):
    got = best_of_n(double(inputs["scores_proxy"]), double(inputs["scores_gold"]), n=inputs["n"])
    assert_near(got.proxy, expected["expected_proxy"])
    assert_near(got.gold, expected["expected_gold"])
    assert_near(got.kl, expected["kl"])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), min_size=1, max_size=7), st.data())
def test_best_of_n_is_the_mean_over_all_subsets(samples, data):
    n = data.draw(st.integers(1, len(samples)))
    golds = []
    for subset in itertools.combinations(samples, n):
        top = max(proxy for proxy, _ in subset)
        tied = [gold for proxy, gold in subset if proxy == top]
        golds.append(sum(tied) / len(tied))
    proxy, gold = zip(*samples, strict=True)
    assert best_of_n(double(proxy), double(gold), n=n).gold == pytest.approx(sum(golds) / len(golds))


def test_best_of_one_is_the_mean_at_no_kl():
    got = best_of_n(double([1, 2, 3]), double([6, 0, 3]), n=1)
    assert (got.proxy, got.gold, got.kl) == (pytest.approx(2), pytest.approx(3), 0.0)


@pytest.mark.parametrize("n", [0, 4])
def test_best_of_n_needs_enough_samples(n):
    with pytest.raises(DataError, match="1 <= n <= 3"):
        best_of_n(double([1, 2, 3]), double([1, 2, 3]), n=n)


@pytest.mark.parametrize(("inputs", "expected"), cases("ensemble"))
def test_ensemble_reference_numbers(inputs, expected):
    got = ensemble(double(inputs["rewards"]), uncertainty_coef=inputs["uncertainty_coef"])
    assert_near(got.mean, expected["mean"])
    assert_near(got.worst, expected["min"])
    assert_near(got.cautious, expected["uwo"])


def test_ensemble_by_hand():
    got = ensemble(double([[0.0], [4.0]]), uncertainty_coef=0.25)
    # mean 2, population variance 4, standard deviation 2
    assert [float(x) for x in got] == [2.0, 0.0, 1.0, 1.5, 2.0]


def test_correlation_by_hand():
    assert correlation(double([1, 2, 3]), double([2, 4, 6])) == pytest.approx(1.0)
    assert correlation(double([0, 1, 0, 1]), double([0, 0, 1, 1])) == pytest.approx(0.0)
    assert correlation(double([1, 1]), double([2, 4])) is None
