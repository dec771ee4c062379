import math

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from golden import assert_near, boolean, cases, double
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import ConfigError, NumericsError
from models.masked import over_ranks
from rl.advantages import (
    GROUP_ADVANTAGES,
    constant_groups,
    gae,
    overlong_penalty,
    rewards_to_go,
    terminal_scores,
    token_rewards,
    whiten,
)
from rl.kl import token_kl


@pytest.mark.parametrize(("inputs", "expected"), cases("gae"))
def test_gae_reference_numbers(inputs, expected):
    bootstrap = double(inputs["bootstrap"]) if inputs.get("bootstrap") else None
    got = gae(
        double(inputs["rewards"]),
        double(inputs["values"]),
        boolean(inputs["mask"]),
        gamma=inputs["gamma"],
        lam=inputs["lam"],
        bootstrap=bootstrap,
    )
    assert_near(got.advantages, expected["advantages"])
    assert_near(got.returns, expected["returns"])


def test_gae_by_hand():
    got = gae(double([[0.0, 1.0]]), double([[0.5, 0.5]]), boolean([[1, 1]]), gamma=0.9, lam=0.5)
    # the last: 1 - 0.5; the first: 0 + 0.9 * 0.5 - 0.5, and 0.45 times the last
    assert_near(got.advantages, [[-0.05 + 0.225, 0.5]])
    assert_near(got.returns, [[0.675, 1.0]])


rows = st.lists(st.tuples(st.floats(-3, 3), st.floats(-3, 3), st.booleans()), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(rows)
def test_gae_without_discount_is_reward_to_go_less_value(row):
    rewards, values, keep = zip(*row, strict=True)
    got = gae(double([rewards]), double([values]), boolean([keep]), gamma=1.0, lam=1.0)
    want = [
        sum(r for r, k in zip(rewards[t:], keep[t:], strict=True) if k) if keep[t] else 0.0 for t in range(len(row))
    ]
    assert_near(got.returns, [want])


@settings(max_examples=60, deadline=None)
@given(rows, st.floats(0.5, 1), st.floats(0, 1))
def test_tokens_that_do_not_count_are_as_if_cut_out(row, gamma, lam):
    rewards, values, keep = (double([column]) for column in zip(*row, strict=True))
    keep = keep.bool()
    kept = keep[0]
    got = gae(rewards, values, keep, gamma=gamma, lam=lam)
    short = gae(rewards[:, kept], values[:, kept], keep[:, kept], gamma=gamma, lam=lam) if kept.any() else None
    assert got.advantages[:, kept.logical_not()].eq(0).all()
    if short is not None:
        assert_near(got.advantages[:, kept], short.advantages.tolist())


def test_a_bootstrap_value_follows_the_last_kept_token():
    got = gae(
        double([[0.0, 9.0]]), double([[1.0, 9.0]]), boolean([[1, 0]]), gamma=0.5, lam=1.0, bootstrap=double([4.0])
    )
    assert_near(got.advantages, [[0.5 * 4.0 - 1.0, 0.0]])


def test_rewards_to_go_discount():
    assert_near(rewards_to_go(double([[1.0, 2.0, 4.0]]), boolean([[1, 1, 1]]), gamma=0.5), [[3.0, 4.0, 4.0]])


@pytest.mark.parametrize(("inputs", "expected"), cases("whiten"))
def test_whitening_reference_numbers(inputs, expected):
    got = whiten(
        double(inputs["x"]),
        boolean(inputs["mask"]),
        shift_mean=inputs["shift_mean"],
        unbiased=inputs["unbiased"],
    )
    assert_near(got, expected["out"])


def test_whitening_by_hand():
    # 1, 2, 3: mean 2, unbiased variance 1
    got = whiten(double([[1.0, 2.0, 3.0, 77.0]]), boolean([[1, 1, 1, 0]]))
    torch.testing.assert_close(got, double([[-1.0, 0.0, 1.0, 0.0]]), atol=1e-8, rtol=0)


def test_whitening_survives_a_large_mean_in_float32():
    got = whiten(torch.tensor([[1e6, 1e6 + 1, 1e6 + 2]]), boolean([[1, 1, 1]]))
    torch.testing.assert_close(got, torch.tensor([[-1.0, 0.0, 1.0]]))


def test_whitening_equal_values_gives_zero():
    assert whiten(double([[0.3, 0.3, 0.3]]), boolean([[1, 1, 1]])).tolist() == [[0.0, 0.0, 0.0]]


@pytest.mark.parametrize("keep", [[[0, 0]], [[1, 0]]])
def test_fewer_than_two_entries_cannot_be_whitened(keep):
    with pytest.raises(NumericsError, match="at least 2"):
        whiten(double([[1.0, 2.0]]), boolean(keep))


def whiten_shard(rank, shards, masks, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=len(shards))
    got = whiten(double(shards[rank]), boolean(masks[rank]), sum_over_ranks=over_ranks)
    torch.save(got, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_whiten_as_one(tmp_path):
    shards, masks = [[[1.0, 2.0]], [[3.0, 100.0]]], [[[1, 1]], [[1, 0]]]
    mp.start_processes(whiten_shard, (shards, masks, str(tmp_path)), nprocs=2, start_method="fork")
    got = torch.cat([torch.load(tmp_path / f"{rank}.pt") for rank in range(2)])
    assert_near(got, whiten(double([[1.0, 2.0], [3.0, 100.0]]), boolean([[1, 1], [1, 0]])).tolist())


@pytest.mark.parametrize(("inputs", "expected"), cases("dist_whiten"))
def test_whitening_over_ranks_reference_numbers(inputs, expected):
    """The ranks take turns: what the others contribute to each sum is worked out beside them."""
    shards, masks = [double(s) for s in inputs["shards"]], [boolean(m) for m in inputs["masks"]]
    kept = torch.cat([s[m] for s, m in zip(shards, masks, strict=True)])
    sums = [torch.stack([double(float(len(kept))), kept.sum()]), (kept - expected["mean"]).square().sum()]
    assert_near(sums[1] / (len(kept) - 1), expected["var"])
    for shard, mask, want in zip(shards, masks, expected["out"], strict=True):
        global_sums = iter(sums)
        assert_near(whiten(shard, mask, sum_over_ranks=lambda _, s=global_sums: next(s)), want)


@pytest.mark.parametrize(("inputs", "expected"), cases("reinforce_pp"))
def test_reinforce_pp_reference_numbers(inputs, expected):
    keep = boolean(inputs["mask"])
    returns = rewards_to_go(double(inputs["rewards"]), keep, gamma=inputs["gamma"])
    assert_near(returns, expected["returns"])
    assert_near(whiten(returns, keep), expected["advantages"])


@pytest.mark.parametrize(("inputs", "expected"), cases("group_adv"))
def test_group_advantages_reference_numbers(inputs, expected):
    scores, size = double(inputs["scores"]), inputs["group_size"]
    for name, advantages in GROUP_ADVANTAGES.items():
        assert_near(advantages(scores, group_size=size), expected[name])
    assert constant_groups(scores, group_size=size).tolist() == expected["zero_variance_groups"]


def test_group_advantages_by_hand():
    scores = double([0.0, 1.0, 5.0])
    assert_near(GROUP_ADVANTAGES["dr_grpo"](scores, group_size=3), [-2.0, -1.0, 3.0])
    assert_near(GROUP_ADVANTAGES["rloo"](scores, group_size=3), [0 - 3.0, 1 - 2.5, 5 - 0.5])
    assert_near(GROUP_ADVANTAGES["grpo"](scores, group_size=3), [x / (math.sqrt(7) + 1e-6) for x in (-2, -1, 3)])


@pytest.mark.parametrize("name", GROUP_ADVANTAGES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_group_of_equal_scores_teaches_exactly_nothing(name, dtype):
    scores = torch.tensor([0.1] * 3 + [0.7] * 3, dtype=dtype)
    assert GROUP_ADVANTAGES[name](scores, group_size=3).tolist() == [0.0] * 6


@pytest.mark.parametrize("name", GROUP_ADVANTAGES)
def test_a_group_of_one_has_no_baseline(name):
    with pytest.raises(ConfigError, match="group_size=1"):
        GROUP_ADVANTAGES[name](double([1.0]), group_size=1)


@pytest.mark.parametrize(("inputs", "expected"), cases("token_rewards"))
def test_token_rewards_reference_numbers(inputs, expected):
    scores = terminal_scores(
        double(inputs["scores"]),
        boolean(inputs["has_eos"]),
        clip=inputs["score_clip"],
        missing_end_penalty=inputs["missing_eos_penalty"],
    )
    keep = boolean(inputs["mask"])
    kl = token_kl(double(inputs["logp"]), double(inputs["ref_logp"]), keep)
    assert_near(scores, expected["scores_used"])
    assert_near(token_rewards(scores, kl, keep, kl_coef=inputs["kl_coef"]), expected["rewards"])


def test_the_score_lands_on_the_last_kept_token_also_after_a_gap():
    got = token_rewards(
        double([2.0, 3.0, 9.0]), double([[0.5] * 3] * 3), boolean([[1, 0, 1], [1, 0, 0], [0, 0, 0]]), kl_coef=0.1
    )
    assert_near(got, [[-0.05, 0, 1.95], [2.95, 0, 0], [0, 0, 0]])


def test_token_rewards_carry_no_gradient():
    kl = double([[0.5]], grad=True)
    assert not token_rewards(double([1.0]), kl, boolean([[1]]), kl_coef=0.1).requires_grad


def test_a_response_without_an_end_is_penalised_after_clipping_or_replaced():
    scores, ended = double([5.0, -5.0, 1.0]), boolean([1, 0, 0])
    assert_near(terminal_scores(scores, ended, clip=2.0, missing_end_penalty=1.0), [2.0, -3.0, 0.0])
    assert_near(terminal_scores(scores, ended, missing_end_score=-1.0), [5.0, -1.0, -1.0])
    assert_near(terminal_scores(scores, ended), [5.0, -5.0, 1.0])


@pytest.mark.parametrize(("inputs", "expected"), cases("overlong"))
def test_overlong_reference_numbers(inputs, expected):
    got = overlong_penalty(
        double(inputs["length"]), max_length=inputs["max_len"], buffer=inputs["buffer"], factor=inputs["factor"]
    )
    assert_near(got, expected["penalty"])


def test_overlong_penalty_starts_at_the_buffer():
    got = overlong_penalty(double([10, 8, 9]), max_length=10, buffer=2, factor=0.5)
    assert_near(got, [-0.5, 0.0, -0.25])


@given(st.floats(-100, 100, width=32), st.integers(2, 200))
def test_equal_values_whiten_to_exactly_zero(value: float, n: int) -> None:
    assert whiten(torch.full((n, 3), value), torch.ones(n, 3, dtype=torch.bool)).eq(0).all()
