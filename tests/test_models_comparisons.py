import math

import pytest
import torch
from golden import assert_near, boolean, cases, double
from hypothesis import given
from hypothesis import strategies as st

from models.comparisons import plackett_luce_nll, ranked, strict_pairs
from models.errors import DataError


def pairs_of(labels, labelled, tree):
    found = strict_pairs(double(labels), boolean(labelled), torch.tensor(tree))
    return sorted(zip(found.better.tolist(), found.worse.tolist(), found.n_of_prompt.tolist(), strict=True))


def test_pairs_stay_inside_their_prompt():
    assert pairs_of([2, 1, 9, 8], [1, 1, 1, 1], [0, 0, 1, 1]) == [(0, 1, 1), (2, 3, 1)]


def test_ties_and_unlabelled_responses_make_no_pair():
    assert pairs_of([1, 1, math.nan, 0], [1, 1, 0, 1], [5, 5, 5, 5]) == [(0, 3, 2), (1, 3, 2)]


def test_prompts_without_a_strict_pair_are_not_counted():
    found = strict_pairs(double([1, 1, 2, 0, 7]), boolean([1] * 5), torch.tensor([0, 0, 3, 3, 4]))
    assert found.n_prompts.item() == 1


def test_no_pairs_at_all():
    found = strict_pairs(double([1, 1]), boolean([1, 1]), torch.tensor([0, 0]))
    assert len(found.better) == 0 and found.n_prompts.item() == 0


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.booleans()), min_size=1, max_size=14))
def test_pairs_are_those_of_two_nested_loops(responses):
    tree, labels, labelled = map(list, zip(*responses, strict=True))
    rows = range(len(tree))
    want = [
        (i, j)
        for i in rows
        for j in rows
        if tree[i] == tree[j] and labelled[i] and labelled[j] and labels[i] > labels[j]
    ]
    assert [(i, j) for i, j, _ in pairs_of(labels, labelled, tree)] == want


def test_ranked_sorts_each_prompt_and_pads():
    order = ranked(double([0, 2, 1, 5, 7, 3]), boolean([1, 1, 1, 1, 1, 1]), torch.tensor([0, 0, 0, 4, 4, 6]))
    assert order.rows.tolist() == [[1, 2, 0], [4, 3, 0]]
    assert order.keep.tolist() == [[True, True, True], [True, True, False]]


def test_a_tie_has_no_plackett_luce_order():
    with pytest.raises(DataError, match="prompt 3"):
        ranked(double([1, 1]), boolean([1, 1]), torch.tensor([3, 3]))


def test_a_tie_with_an_unlabelled_response_is_none():
    assert ranked(double([1, 1, 0]), boolean([1, 0, 1]), torch.tensor([0, 0, 0])).rows.tolist() == [[0, 2]]


@pytest.mark.parametrize(("inputs", "expected"), cases("pl_nll"))
def test_plackett_luce_reference_numbers(inputs, expected):
    s = double(inputs["s"], grad=True)
    loss = plackett_luce_nll(s[torch.tensor(inputs["order"])], top=inputs.get("topk"))
    loss.backward()
    assert_near(loss, expected["loss"])
    assert_near(s.grad, expected["grad"])


def test_plackett_luce_by_hand():
    # best to worst 2, 1, 0: ln(e^2 + e + 1) - 2 + ln(e + 1) - 1
    want = math.log(math.e**2 + math.e + 1) - 2 + math.log(math.e + 1) - 1
    assert_near(plackett_luce_nll(double([2.0, 1.0, 0.0])), want)


def test_first_place_alone_is_softmax_cross_entropy():
    want = math.log(math.e**2 + math.e + 1) - 2
    assert_near(plackett_luce_nll(double([2.0, 1.0, 0.0]), top=1), want)


def test_plackett_luce_of_two_is_bradley_terry():
    assert_near(plackett_luce_nll(double([1.5, 0.25])), math.log1p(math.exp(-1.25)))


@given(st.integers(1, 6))
def test_equal_scores_give_log_factorial(k):
    assert_near(plackett_luce_nll(double([0.7] * k)), math.log(math.factorial(k)))


def test_padding_changes_neither_value_nor_gradient():
    short, padded = double([2.0, -1.0], grad=True), double([[2.0, -1.0, 50.0, -50.0]], grad=True)
    plackett_luce_nll(short).backward()
    loss = plackett_luce_nll(padded, boolean([[1, 1, 0, 0]]))
    loss.sum().backward()
    assert_near(loss, [plackett_luce_nll(short).item()])
    assert_near(padded.grad, [[*short.grad.tolist(), 0.0, 0.0]])


def test_gradient_is_that_of_finite_differences():
    scores = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    keep = boolean([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]])
    assert torch.autograd.gradcheck(lambda s: plackett_luce_nll(s, keep), (scores,))
