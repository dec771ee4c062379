import math

import pytest
import torch
from golden import assert_near, boolean, cases, double
from hypothesis import given, settings
from hypothesis import strategies as st

from models.masked import masked_mean
from rl.losses import (
    AGGREGATIONS,
    aggregate,
    clipped_surrogate,
    clipped_value_error,
    policy_metrics,
    ppo_total,
    sequence_log_ratio,
)


@pytest.mark.parametrize(("inputs", "expected"), cases("ppo_policy"))
def test_policy_reference_numbers(inputs, expected):
    logprobs, keep = double(inputs["logp"], grad=True), boolean(inputs["mask"])
    log_ratio = logprobs - double(inputs["old_logp"])
    loss, clipped = clipped_surrogate(
        log_ratio,
        double(inputs["adv"]),
        clip_low=inputs["clip_low"],
        clip_high=inputs["clip_high"],
        dual_clip=inputs.get("dual_clip"),
    )
    assert_near(loss * keep, expected["per_token"])
    for how in AGGREGATIONS:
        assert_near(aggregate(loss, keep, how=how, norm_length=inputs.get("norm_len")), expected[how])
    aggregate(loss, keep, how="token_mean").backward()
    assert_near(logprobs.grad, expected["grad_token_mean"])
    metrics = policy_metrics(log_ratio, clipped, keep)
    assert_near(metrics["clip_fraction"], expected["clipfrac"])
    assert_near(metrics["approx_kl_k1"], expected["approx_kl_k1"])
    assert_near(metrics["approx_kl"], expected["approx_kl_k3"])
    assert_near(metrics["ratio"], expected["ratio_mean"])


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "moves"),
    [(1.5, 1.0, -1.2, False), (0.5, 1.0, -0.5, True), (1.5, -1.0, 1.5, True), (0.5, -1.0, 0.8, False)],
)
def test_the_clip_by_hand(ratio, advantage, loss, moves):
    log_ratio = double([[math.log(ratio)]], grad=True)
    got = clipped_surrogate(log_ratio, double([[advantage]]), clip_low=0.2, clip_high=0.2).loss
    got.sum().backward()
    assert_near(got, [[loss]])
    assert_near(log_ratio.grad, [[-advantage * ratio if moves else 0.0]])


def test_clip_higher_leaves_room_above_only():
    log_ratio = double([[math.log(2.0), math.log(0.5)]])
    got = clipped_surrogate(log_ratio, double([[1.0, -1.0]]), clip_low=0.2, clip_high=0.28).loss
    assert_near(got, [[-1.28, 0.8]])


def test_the_first_minibatch_has_ratio_one_and_nothing_clipped():
    logprobs, keep = double([[-1.0, -2.0]], grad=True), boolean([[1, 1]])
    log_ratio = logprobs - logprobs.detach()
    loss, clipped = clipped_surrogate(log_ratio, double([[2.0, -4.0]]), clip_low=0.2, clip_high=0.2)
    aggregate(loss, keep, how="token_mean").backward()
    metrics = policy_metrics(log_ratio, clipped, keep)
    assert (metrics["ratio"], metrics["clip_fraction"], metrics["approx_kl"]) == (1.0, 0.0, 0.0)
    assert logprobs.grad.tolist() == [[-1.0, 2.0]]


def test_dual_clip_bounds_what_one_bad_token_can_cost():
    log_ratio = double([[math.log(50.0)]], grad=True)
    got = clipped_surrogate(log_ratio, double([[-2.0]]), clip_low=0.2, clip_high=0.2, dual_clip=3.0).loss
    got.sum().backward()
    assert got.tolist() == [[6.0]] and log_ratio.grad.tolist() == [[0.0]]


def test_a_runaway_ratio_stays_finite():
    got = clipped_surrogate(torch.tensor([[500.0]]), torch.tensor([[-1.0]]), clip_low=0.2, clip_high=0.2)
    assert got.loss.isfinite().all()


def test_sequence_ratio_is_the_mean_of_the_kept_tokens():
    log_ratio = double([[0.2, 0.4, 9.0], [1.0, 1.0, 1.0]])
    assert_near(sequence_log_ratio(log_ratio, boolean([[1, 1, 0], [0, 0, 0]])), [[0.3] * 3, [0.0] * 3])


def test_aggregations_by_hand():
    loss, keep = double([[3.0, 7.0], [1.0, 1.0], [8.0, 8.0]]), boolean([[1, 0], [1, 1], [0, 0]])
    got = {how: aggregate(loss, keep, how=how, norm_length=4).item() for how in AGGREGATIONS}
    want = {
        "token_mean": 5 / 3,
        "seq_mean_token_mean": (3 + 1) / 2,
        "seq_mean_token_sum": (3 + 2) / 2,
        "dr_grpo": 5 / 12,
    }
    assert got == pytest.approx(want)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(sorted(AGGREGATIONS)))
def test_micro_batches_of_any_size_add_up_to_the_step(seed, how):
    generator = torch.Generator().manual_seed(seed)
    loss = torch.randn(6, 4, dtype=torch.float64, generator=generator)
    keep = torch.rand(6, 4, generator=generator) < 0.6
    split = int(torch.randint(1, 6, (), generator=generator))
    parts = [(loss[:split], keep[:split]), (loss[split:], keep[split:])]
    total = sum(AGGREGATIONS[how].denominator(part_keep, None) for _, part_keep in parts)
    together = sum(aggregate(part, part_keep, how=how, total=total) for part, part_keep in parts)
    assert_near(together, aggregate(loss, keep, how=how).item())


@pytest.mark.parametrize("how", AGGREGATIONS)
def test_nothing_kept_is_an_exact_zero_with_a_gradient(how):
    loss = torch.ones(2, 2, requires_grad=True)
    got = aggregate(loss, torch.zeros(2, 2, dtype=torch.bool), how=how)
    got.backward()
    assert got.item() == 0.0 and loss.grad.abs().sum() == 0


@pytest.mark.parametrize(("inputs", "expected"), cases("value_loss"))
def test_value_reference_numbers(inputs, expected):
    values, keep = double(inputs["values"], grad=True), boolean(inputs["mask"])
    loss, clipped = clipped_value_error(
        values, double(inputs["old_values"]), double(inputs["returns"]), clip=inputs["clip"]
    )
    mean = masked_mean(loss, keep)
    mean.backward()
    assert_near(mean, expected["loss"])
    assert_near(masked_mean(clipped.double(), keep), expected["clipfrac"])
    assert_near(values.grad, expected["grad"])


def test_the_value_clip_by_hand():
    # v = 1 moved from 0 by more than 0.2, and R = 1: the clipped error (0.2 - 1)^2 is the larger one
    loss, clipped = clipped_value_error(double([[1.0]]), double([[0.0]]), double([[1.0]]), clip=0.2)
    assert_near(loss, [[0.32]])
    assert clipped.tolist() == [[True]]


@pytest.mark.parametrize(("inputs", "expected"), cases("ppo_ptx"))
def test_ptx_reference_numbers(inputs, expected):
    ptx = masked_mean(double(inputs["ptx_nll"]), boolean(inputs["ptx_mask"]))
    assert_near(ptx, expected["ptx"])
    assert_near(ppo_total(double(inputs["pg_loss"]), ptx=ptx, ptx_coef=inputs["ptx_coef"]), expected["total"])


def test_the_total_rewards_entropy_and_charges_the_rest():
    got = ppo_total(double(1.0), 2.0, 3.0, 4.0, value_coef=0.5, entropy_coef=0.1, ptx_coef=0.25)
    assert_near(got, 1.0 + 1.0 - 0.3 + 1.0)
