import math

import pytest
import torch
from golden import assert_near, boolean, cases, double
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import DataError
from reward.judged_pairs import Labels
from reward.losses import (
    accuracy_sums,
    bradley_terry_loss,
    combine_axes,
    cost_loss,
    kwise_pairs_loss,
    kwise_sums,
    multi_axis_loss,
    plackett_luce_sums,
    regression_sums,
    soft_bradley_terry,
)
from reward.metrics import pair_accuracy


def one_judge(sums, scores, labels, labelled, tree, **options):
    return sums(scores, Labels(labels[None], labelled[None], tree), **options)


def kwise_axes_loss(*batch, axis_weights=None, n_prompts=None, **options):
    sums = one_judge(kwise_sums, *batch, **options)
    return combine_axes(sums["loss"], sums["n_prompts"] if n_prompts is None else n_prompts, axis_weights)


def plackett_luce_axes_loss(*batch, **options):
    sums = one_judge(plackett_luce_sums, *batch, **options)
    return combine_axes(sums["loss"], sums["n_prompts"])


def softplus(x):
    return math.log1p(math.exp(x))


@pytest.mark.parametrize(("inputs", "expected"), cases("bt_loss"))
def test_bradley_terry_reference_numbers(inputs, expected):
    chosen, rejected = double(inputs["chosen"], grad=True), double(inputs["rejected"], grad=True)
    margin = double(inputs["margin"]) if "margin" in inputs else None
    smoothing = inputs.get("label_smoothing", 0.0)
    loss = bradley_terry_loss(
        chosen,
        rejected,
        margin=margin,
        label_smoothing=smoothing,
        weight=double(inputs["weight"]) if "weight" in inputs else None,
        center=inputs.get("center_coef", 0.0),
    )
    loss.backward()
    assert_near(loss, expected["loss"])
    assert_near(chosen.grad, expected["grad_chosen"])
    assert_near(rejected.grad, expected["grad_rejected"])
    shifted = chosen - rejected - (0.0 if margin is None else margin)
    assert_near(soft_bradley_terry(shifted, 1.0 - smoothing), expected["per_pair"])
    assert_near(pair_accuracy((chosen - rejected).detach()).accuracy, expected["accuracy"])


def test_bradley_terry_by_hand():
    # -ln sigmoid(1) = 0.3132617, -ln sigmoid(0) = ln 2, -ln sigmoid(-2) = 2.1269280
    loss = bradley_terry_loss(double([2.0, 1.0, 0.0]), double([1.0, 1.0, 2.0]))
    assert loss.item() == pytest.approx((0.31326169 + math.log(2) + 2.12692801) / 3)


def test_a_thousand_apart_neither_overflows_nor_vanishes():
    assert soft_bradley_terry(torch.tensor([-1000.0, 1000.0])).tolist() == [1000.0, 0.0]


def test_a_margin_asks_for_more():
    loss = bradley_terry_loss(double([2.0]), double([0.0]), margin=double([3.0]))
    assert_near(loss, softplus(1.0))


def test_centring_adds_the_mean_square_of_the_sum():
    plain, centred = (bradley_terry_loss(double([2.0]), double([1.0]), center=c) for c in (0.0, 0.01))
    assert_near(centred - plain, 0.01 * 9.0)


@pytest.mark.parametrize(("inputs", "expected"), cases("bt_soft"))
def test_soft_label_reference_numbers(inputs, expected):
    a, b = double(inputs["a"], grad=True), double(inputs["b"], grad=True)
    per_pair = soft_bradley_terry(a - b, double(inputs["p_a"]))
    per_pair.mean().backward()
    assert_near(per_pair, expected["per_pair"])
    assert_near(per_pair.mean(), expected["loss"])
    assert_near(a.grad, expected["grad_a"])
    assert_near(b.grad, expected["grad_b"])


@given(st.floats(-30, 30), st.floats(0, 1))
def test_swapping_the_sides_and_the_label_changes_nothing(delta, p):
    assert_near(soft_bradley_terry(double(delta), p), soft_bradley_terry(double(-delta), 1.0 - p).item())


@pytest.mark.parametrize(("inputs", "expected"), cases("multi_axis_bt"))
def test_multi_axis_reference_numbers(inputs, expected):
    a, b = double(inputs["scores_a"], grad=True), double(inputs["scores_b"], grad=True)
    labels = [[math.nan if label is None else label for label in row] for row in inputs["labels"]]
    labelled = double(labels).isnan().logical_not()
    result = multi_axis_loss(a, b, double(labels), labelled, axis_weights=double(inputs["axis_weight"]))
    result.loss.backward()
    assert_near(result.loss, expected["loss"])
    assert_near(result.per_axis, [value or 0.0 for value in expected["per_axis"]])
    assert_near(a.grad, expected["grad_a"])
    assert_near(b.grad, expected["grad_b"])


def test_an_axis_without_labels_leaves_the_mean_of_the_others():
    scores = double([[1.0, 5.0]]), double([[0.0, -5.0]])
    result = multi_axis_loss(*scores, double([[1.0, 0.0]]), boolean([[1, 0]]))
    assert_near(result.loss, softplus(-1.0))


def test_no_label_at_all_is_an_exact_zero_with_a_gradient():
    scores = double([[1.0, 2.0]], grad=True)
    loss = multi_axis_loss(scores, double([[0.0, 0.0]]), double([[1.0, 1.0]]), boolean([[0, 0]])).loss
    loss.backward()
    assert loss.item() == 0.0 and scores.grad.tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize(("inputs", "expected"), cases("kwise_pairs"))
def test_kwise_reference_numbers(inputs, expected):
    scores = [double(row, grad=True) for row in inputs["rewards"]]
    result = kwise_pairs_loss(scores, [torch.tensor(row) for row in inputs["ranks"]])
    result.prompt_mean.backward()
    assert_near(result.prompt_mean, expected["loss_prompt_mean"])
    assert_near(result.pair_mean, expected["loss_pair_mean"])
    assert result.pairs_per_prompt == expected["pairs_per_prompt"]
    assert_near(torch.stack(result.per_prompt), expected["per_prompt"])
    for row, want in zip(scores, expected["grad_prompt_mean"], strict=True):
        if want is not None:
            assert_near(row.grad, want)


@pytest.mark.parametrize(("inputs", "expected"), cases("kwise_pairs"))
def test_the_tree_batch_has_the_kwise_reference_numbers(inputs, expected):
    tree = torch.tensor([prompt for prompt, row in enumerate(inputs["rewards"]) for _ in row])
    scores = double([[value] for row in inputs["rewards"] for value in row], grad=True)
    labels = -double([[rank] for row in inputs["ranks"] for rank in row])
    batch = (scores, labels, torch.ones_like(labels, dtype=torch.bool), tree)
    loss = kwise_axes_loss(*batch)
    loss.backward()
    assert_near(loss, expected["loss_prompt_mean"])
    assert one_judge(accuracy_sums, *batch)["n_pairs"].tolist() == [sum(expected["pairs_per_prompt"])]
    want = [
        row or [0.0] * len(rewards)
        for row, rewards in zip(expected["grad_prompt_mean"], inputs["rewards"], strict=True)
    ]
    assert_near(scores.grad[:, 0], [value for row in want for value in row])


def test_kwise_by_hand():
    # scores 2, 1, 0 in rank order: pairs 1, 2 and 1 apart
    result = kwise_pairs_loss([double([2.0, 1.0, 0.0])], [torch.tensor([1, 2, 3])])
    assert_near(result.prompt_mean, (2 * softplus(-1.0) + softplus(-2.0)) / 3)


def test_kwise_of_two_is_bradley_terry():
    loss = kwise_axes_loss(double([[0.3], [1.1]]), double([[1.0], [0.0]]), boolean([[1], [1]]), torch.tensor([0, 0]))
    assert_near(loss, bradley_terry_loss(double([0.3]), double([1.1])).item())


def random_batch(seed):
    generator = torch.Generator().manual_seed(seed)
    tree = torch.randint(0, 4, (13,), generator=generator)
    scores = torch.randn(13, 3, dtype=torch.float64, generator=generator)
    labels = torch.randint(0, 3, (13, 3), generator=generator).double()
    labelled = torch.rand(13, 3, generator=generator) < 0.7
    return scores, labels.masked_fill(labelled.logical_not(), torch.nan), labelled, tree


def loop_over_prompts(scores, labels, labelled, tree, weights):
    total, weight_sum = scores.sum() * 0, 0.0
    for axis in range(3):
        rows = [torch.nonzero((tree == prompt) & labelled[:, axis]).flatten() for prompt in tree.unique()]
        result = kwise_pairs_loss([scores[r, axis] for r in rows], [-labels[r, axis] for r in rows])
        if result.per_prompt:
            total, weight_sum = total + weights[axis] * result.prompt_mean, weight_sum + weights[axis]
    return total / weight_sum if weight_sum else total


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_the_tree_batch_equals_a_loop_over_its_prompts(seed):
    scores, labels, labelled, tree = random_batch(seed)
    ours, loop = scores.clone().requires_grad_(), scores.clone().requires_grad_()
    weights = double([1.0, 0.5, 2.0])
    loss = kwise_axes_loss(ours, labels, labelled, tree, axis_weights=weights)
    want = loop_over_prompts(loop, labels, labelled, tree, weights.tolist())
    loss.backward()
    want.backward()
    torch.testing.assert_close(loss, want, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.grad, loop.grad, rtol=1e-12, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_micro_batches_of_whole_prompts_add_up_to_the_batch(seed):
    scores, labels, labelled, tree = random_batch(seed)
    whole = kwise_axes_loss(scores, labels, labelled, tree, center=0.01)
    n_prompts = one_judge(kwise_sums, scores, labels, labelled, tree)["n_prompts"]
    parts = [
        kwise_axes_loss(scores[part], labels[part], labelled[part], tree[part], center=0.01, n_prompts=n_prompts)
        for part in (tree < 2, tree >= 2)
    ]
    assert_near(sum(parts), whole.item())


def test_row_order_does_not_matter():
    scores, labels, labelled, tree = random_batch(3)
    shuffled = torch.randperm(13, generator=torch.Generator().manual_seed(1))
    loss = kwise_axes_loss(scores, labels, labelled, tree)
    again = kwise_axes_loss(scores[shuffled], labels[shuffled], labelled[shuffled], tree[shuffled])
    assert_near(again, loss.item())


def test_a_batch_without_a_strict_pair_is_an_exact_zero_with_a_gradient():
    scores = torch.ones(2, 3, requires_grad=True)
    batch = (scores, torch.ones(2, 3), torch.ones(2, 3, dtype=torch.bool), torch.tensor([0, 0]))
    loss = kwise_axes_loss(*batch)
    loss.backward()
    assert loss.item() == 0.0 and scores.grad.abs().sum() == 0
    assert one_judge(kwise_sums, *batch)["n_prompts"].tolist() == [0, 0, 0]


def test_sums_count_a_tie_of_scores_as_half_right():
    labels = double([[2.0], [1.0], [0.0]])
    sums = one_judge(accuracy_sums, double([[1.0], [1.0], [0.0]]), labels, labels > -1, torch.tensor([0, 0, 0]))
    # pairs: a tie, and two won by 1; each weighs a third
    assert_near(sums["correct"], [2.5 / 3])
    assert_near(sums["tied"], [1 / 3])
    assert_near(sums["margin"], [2 / 3])


def test_label_smoothing_puts_a_share_on_the_other_side():
    labels = double([[1.0], [0.0]])
    sums = one_judge(kwise_sums, double([[2.0], [0.0]]), labels, labels > -1, torch.tensor([0, 0]), label_smoothing=0.1)
    assert_near(sums["loss"], [0.9 * softplus(-2.0) + 0.1 * softplus(2.0)])


def test_axes_combine_by_weight_over_those_present():
    # (1 * 6/3 + 3 * 8/2) / (1 + 3); the last axis has no label
    assert_near(combine_axes(double([6, 8, 0]), double([3, 2, 0]), double([1, 3, 9])), 3.5)


def test_listwise_with_two_responses_is_pairwise():
    scores, labels = double([[0.2, 1.0], [0.9, -1.0]]), double([[1.0, 1.0], [0.0, 0.0]])
    batch = (scores, labels, labels > -1, torch.tensor([0, 0]))
    assert_near(plackett_luce_axes_loss(*batch), kwise_axes_loss(*batch).item())


def test_listwise_divides_by_places_and_then_by_prompts():
    scores = torch.zeros(5, 1, dtype=torch.float64)
    labels = double([[3.0], [2.0], [1.0], [1.0], [0.0]])
    result = plackett_luce_axes_loss(scores, labels, labels > -1, torch.tensor([0, 0, 0, 1, 1]))
    assert_near(result, (math.log(6) / 2 + math.log(2) / 1) / 2)


def test_listwise_of_first_places_is_softmax_cross_entropy():
    scores, labels = double([[0.0], [1.0], [2.0]]), double([[0.0], [1.0], [2.0]])
    result = plackett_luce_axes_loss(scores, labels, labels > -1, torch.tensor([0, 0, 0]), top=1)
    assert_near(result, math.log(math.e**2 + math.e + 1) - 2)


def test_listwise_without_labels_is_zero_and_ties_are_refused():
    scores, labels = torch.zeros(2, 1, requires_grad=True), torch.ones(2, 1)
    loss = plackett_luce_axes_loss(scores, labels, labels < 0, torch.tensor([0, 0]))
    loss.backward()
    assert loss.item() == 0.0
    with pytest.raises(DataError, match="share a rank"):
        plackett_luce_axes_loss(scores, labels, labels > 0, torch.tensor([0, 0]))


@pytest.mark.parametrize(("inputs", "expected"), cases("cost_loss"))
def test_cost_reference_numbers(inputs, expected):
    names = ("more_harmful", "less_harmful", "sign_more", "sign_less")
    per_pair = cost_loss(*(double(inputs[name]) for name in names))
    assert_near(per_pair, expected["per_pair"])
    assert_near(per_pair.mean(), expected["loss"])


def test_cost_by_hand():
    # ranked right by 2, and both on their side of zero by 1
    per_pair = cost_loss(double([1.0]), double([-1.0]), double([1.0]), double([-1.0]))
    assert_near(per_pair, [softplus(-2.0) + 2 * softplus(-1.0)])


# --- options of the K-wise loss, by hand -----------------------------------------------------------------------------


def test_a_margin_grows_with_the_distance_of_the_labels():
    batch = (double([[2.0], [0.0], [1.0]]), double([[3.0], [1.0], [1.0]]), boolean([[1]] * 3), torch.tensor([0, 0, 0]))
    # pairs 2 and 1 apart in scores, labels 2 apart in both
    want = (softplus(-(2 - 0.5 * 2)) + softplus(-(1 - 0.5 * 2))) / 2
    assert_near(kwise_axes_loss(*batch, margin=0.5), want)


def test_ties_are_left_out_or_draw_scores_together():
    scores = double([[3.0], [1.0], [0.0]], grad=True)
    batch = (scores, double([[1.0], [1.0], [0.0]]), boolean([[1]] * 3), torch.tensor([0, 0, 0]))
    strict = softplus(-3.0) + softplus(-1.0)
    assert_near(kwise_axes_loss(*batch), strict / 2)
    loss = kwise_axes_loss(*batch, ties=True)
    assert_near(loss, (strict + 0.5 * (softplus(-2.0) + softplus(2.0))) / 3)
    only_tie = (scores, double([[1.0], [1.0], [0.0]]), boolean([[1], [1], [0]]), torch.tensor([0, 0, 0]))
    kwise_axes_loss(*only_tie, ties=True).backward()
    # d/dx of half a softplus each way is sigmoid(2) - 1/2
    pull = 1 / (1 + math.exp(-2.0)) - 0.5
    assert_near(scores.grad[:, 0], [pull, -pull, 0.0])


def judges(*votes, tree):
    labels = double(votes)[:, :, None]
    return Labels(labels.nan_to_num(), labels.isnan().logical_not(), torch.tensor(tree))


def test_votes_are_soft_labels_and_what_nobody_compared_is_no_pair():
    nan = math.nan
    labels = judges([1, 0, nan], [1, 0, nan], [0, 1, nan], [0, nan, 1], tree=[0, 0, 0])
    sums = kwise_sums(double([[2.0], [0.0], [1.0]]), labels)
    # 0 beats 1 with 2 of 3 votes, 2 beats 0 with the one vote there is, 1 and 2 were never compared
    first = 2 / 3 * softplus(-2.0) + 1 / 3 * softplus(2.0)
    assert_near(sums["loss"], [(first + softplus(1.0)) / 2])
    smooth = kwise_sums(double([[2.0], [0.0], [1.0]]), labels, label_smoothing=0.1)["loss"]
    # with smoothing .1 a share p becomes .1 + .8 p
    first = (0.1 + 0.8 * 2 / 3) * softplus(-2.0) + (0.9 - 0.8 * 2 / 3) * softplus(2.0)
    assert_near(smooth, [(first + 0.9 * softplus(1.0) + 0.1 * softplus(-1.0)) / 2])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_a_judge_who_votes_twice_changes_nothing(seed):
    scores, labels, labelled, tree = random_batch(seed)
    once = kwise_sums(scores, Labels(labels[None], labelled[None], tree), center=0.1, margin=0.3, ties=True)
    twice = Labels(labels[None].expand(2, -1, -1), labelled[None].expand(2, -1, -1), tree)
    assert_near(kwise_sums(scores, twice, center=0.1, margin=0.3, ties=True)["loss"], once["loss"].tolist())


def test_the_whole_order_of_two_is_a_centred_pair_too():
    batch = (double([[0.2], [0.9]]), double([[1.0], [0.0]]), boolean([[1], [1]]), torch.tensor([0, 0]))
    assert_near(plackett_luce_axes_loss(*batch, center=0.1), kwise_axes_loss(*batch, center=0.1).item())


@pytest.mark.parametrize(("inputs", "expected"), cases("pl_nll"))
def test_listwise_reference_numbers(inputs, expected):
    scores = double(inputs["s"], grad=True)
    labels = torch.zeros(len(scores), 1, dtype=torch.float64)
    labels[inputs["order"], 0] = -double(list(range(len(scores))))
    top = inputs.get("topk")
    places = min(len(scores) - 1, top or len(scores))
    tree = torch.zeros(len(scores), dtype=torch.long)
    loss = plackett_luce_axes_loss(scores[:, None], labels, torch.ones_like(labels).bool(), tree, top=top) * places
    loss.backward()
    assert_near(loss, expected["loss"])
    assert_near(scores.grad, expected["grad"])


def test_a_regression_is_the_squared_distance_where_there_is_a_label():
    scores = double([[1.0], [0.5], [3.0], [0.0]], grad=True)
    labels = judges([0, 1, math.nan, 0.5], [1, math.nan, math.nan, 0.5], tree=[0, 0, 0, 1])
    sums = regression_sums(scores, labels)
    # judges' means 0.5, 1, none and 0.5; the first prompt has two labelled responses, the second one
    assert_near(sums["loss"], [(0.25 + 0.25) / 2 + 0.25])
    assert sums["n_prompts"].tolist() == [2]
    sums["loss"].sum().backward()
    assert_near(scores.grad[:, 0], [0.5, -0.5, 0.0, -1.0])
