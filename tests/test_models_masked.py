import pytest
import torch
from golden import assert_near, boolean, double

from models.masked import masked, masked_mean, over_ranks, ratio


def test_mean_counts_only_what_is_kept():
    assert_near(masked_mean(double([1.0, 2.0, 100.0]), boolean([1, 1, 0])), 1.5)


def test_micro_batches_with_the_steps_total_add_up_to_one_batch():
    first, second = double([[4.0, 0.0, 0.0]]), double([[1.0, 1.0, 1.0]])
    keep_first, keep_second = boolean([[1, 0, 0]]), boolean([[1, 1, 1]])
    # (4 + 1 + 1 + 1) / 4; the mean of the two means would be 2.5
    assert_near(masked_mean(first, keep_first, total=4) + masked_mean(second, keep_second, total=4), 1.75)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_any_mask_type_means_the_same(dtype):
    assert_near(masked_mean(double([3.0, 5.0]), torch.tensor([1, 0], dtype=dtype)), 3.0)


def test_nothing_to_count_is_an_exact_zero_with_a_gradient():
    x = double([1.0, 2.0], grad=True)
    loss = masked_mean(x, boolean([0, 0]))
    loss.backward()
    assert loss.item() == 0.0
    assert x.grad is not None and x.grad.tolist() == [0.0, 0.0]


def test_what_stands_outside_the_mask_reaches_neither_value_nor_gradient():
    x = double([torch.nan, torch.inf, 2.0], grad=True)
    kept = masked(x, boolean([0, 0, 1]))
    kept.sum().backward()
    assert kept.tolist() == [0.0, 0.0, 2.0] and x.grad.tolist() == [0.0, 0.0, 1.0]


def test_ratio_is_elementwise_and_zero_over_zero_is_zero():
    assert_near(ratio(double([6.0, 5.0]), double([3.0, 0.0])), [2.0, 0.0])


def test_without_a_process_group_the_sum_over_ranks_is_the_tensor():
    assert_near(over_ranks(double([1.0, 2.0])), [1.0, 2.0])
