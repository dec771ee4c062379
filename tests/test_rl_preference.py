import math

import pytest
import torch
from golden import assert_near, boolean, cases, double
from hypothesis import given
from hypothesis import strategies as st

from rl.preference import (
    LENGTH_NORMALISED,
    PREFERENCE_LOSSES,
    REFERENCE_FREE,
    PairLogprobs,
    kto,
    kto_baseline,
    log_odds,
    options_of,
    plackett_luce_dpo,
    preference_metrics,
)

HYPER_PARAMETERS = {"beta": 0.5, "label_smoothing": 0.1, "gamma": 0.5, "alpha": 1.0}


def softplus(x):
    return math.log1p(math.exp(x))


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def pair(chosen, rejected, n_chosen=1.0, n_rejected=1.0, grad=False):
    logprobs = (double(chosen, grad=grad), double(rejected, grad=grad))
    return PairLogprobs(*logprobs, double(n_chosen), double(n_rejected))


def loss_of(name, policy, reference, **options):
    return PREFERENCE_LOSSES[name](policy, reference, **{key: options[key] for key in options_of(name)})


@pytest.mark.parametrize("name", PREFERENCE_LOSSES)
@pytest.mark.parametrize(("inputs", "expected"), cases("pref"))
def test_preference_reference_numbers(inputs, expected, name):
    lengths = inputs["len_c"], inputs["len_r"]
    policy = pair(inputs["pc"], inputs["pr"], *lengths, grad=True)
    options = {
        "beta": inputs["orpo_lambda"] if name == "orpo" else inputs["beta"],
        "label_smoothing": inputs["ls_eps"],
        "gamma": inputs["simpo_gamma"],
        "alpha": inputs["rpo_alpha"],
    }
    per_pair = loss_of(name, policy, pair(inputs["rc"], inputs["rr"], *lengths), **options)
    per_pair.mean().backward()
    assert_near(per_pair, expected[name]["per_pair"])
    assert_near(per_pair.mean(), expected[name]["loss"])
    assert_near(policy.chosen.grad, expected[name]["grad_policy_chosen"])
    assert_near(policy.rejected.grad, expected[name]["grad_policy_rejected"])


@pytest.mark.parametrize(("inputs", "expected"), cases("pref"))
def test_implicit_reward_reference_numbers(inputs, expected):
    metrics = preference_metrics(
        pair(inputs["pc"], inputs["pr"]), pair(inputs["rc"], inputs["rr"]), beta=inputs["beta"]
    )
    assert_near(metrics["reward_chosen"], expected["reward_chosen"])
    assert_near(metrics["reward_rejected"], expected["reward_rejected"])
    assert_near(metrics["accuracy"].mean(), expected["accuracy"])


# policy chosen -4 of 4 tokens, rejected -5 of 2; reference -4.5 both; beta 0.5: h = 1, chosen ratio 0.5, rejected -0.5
BY_HAND = {
    "dpo": softplus(-0.5),
    "cdpo": 0.9 * softplus(-0.5) + 0.1 * softplus(0.5),
    "robust": (0.9 * softplus(-0.5) - 0.1 * softplus(0.5)) / 0.8,
    "ipo_sum": 0.0,
    "ipo_mean": (0.125 + 0.25 - 1.0) ** 2,
    "hinge": 0.5,
    "sigmoid_norm": softplus(-0.5 * 0.375),
    "simpo": softplus(0.5 - 0.5 * (-1.0 + 2.5)),
    "cpo": softplus(-0.5) + 1.0,
    "orpo": 1.0 + 0.5 * softplus(math.log(1 / (math.e**2.5 - 1)) - math.log(1 / (math.e - 1))),
    "rpo": softplus(-0.5) + 1.0,
    "apo_zero": 1 - sigmoid(0.25) + sigmoid(-0.25),
    "apo_down": sigmoid(0.25) + 1 - sigmoid(0.5),
    "bco": softplus(-0.25) + softplus(-0.25),
}


@pytest.mark.parametrize("name", PREFERENCE_LOSSES)
def test_preference_losses_by_hand(name):
    policy, reference = pair([-4.0], [-5.0], [4.0], [2.0]), pair([-4.5], [-4.5], [4.0], [2.0])
    assert_near(loss_of(name, policy, reference, **HYPER_PARAMETERS), [BY_HAND[name]])


@pytest.mark.parametrize("name", ["dpo", "cdpo", "robust", "sigmoid_norm"])
def test_at_the_reference_the_loss_is_ln_2(name):
    policy = pair([-4.0], [-5.0], [4.0], [2.0])
    assert_near(loss_of(name, policy, policy, **HYPER_PARAMETERS), [math.log(2)])


def test_at_the_reference_ipo_is_a_quarter_over_beta_squared():
    policy = pair([-4.0], [-5.0])
    assert_near(PREFERENCE_LOSSES["ipo_sum"](policy, policy, beta=0.1), [25.0])


def test_at_the_reference_every_pair_is_a_tie():
    policy = pair([-4.0, -1.0], [-5.0, -1.0])
    metrics = preference_metrics(policy, policy, beta=0.1)
    assert metrics["accuracy"].tolist() == [0.0, 0.0] and metrics["tie"].tolist() == [1.0, 1.0]


@given(st.floats(-20, 20), st.floats(0, 0.49))
def test_robust_is_unbiased_under_its_label_noise(h, noise):
    right, wrong = pair([h], [0.0]), pair([0.0], [h])
    zero = pair([0.0], [0.0])
    losses = [PREFERENCE_LOSSES["robust"](p, zero, beta=1.0, label_smoothing=noise) for p in (right, wrong)]
    assert_near((1 - noise) * losses[0] + noise * losses[1], [softplus(-h)])


def test_without_noise_the_noise_aware_losses_are_dpo():
    policy, reference = pair([-4.0], [-5.0]), pair([-4.5], [-4.5])
    want = PREFERENCE_LOSSES["dpo"](policy, reference, beta=0.3).tolist()
    for name in ("cdpo", "robust"):
        assert_near(PREFERENCE_LOSSES[name](policy, reference, beta=0.3, label_smoothing=0.0), want)


@pytest.mark.parametrize("name", sorted(REFERENCE_FREE))
def test_reference_free_losses_need_no_reference(name):
    assert loss_of(name, pair([-4.0], [-5.0]), None, **HYPER_PARAMETERS).isfinite().all()


@pytest.mark.parametrize("name", PREFERENCE_LOSSES)
def test_only_the_named_losses_ignore_the_reference(name):
    policy = pair([-4.0], [-5.0], [4.0], [2.0])
    references = pair([-1.0], [-9.0], [4.0], [2.0]), pair([-8.0], [-2.0], [4.0], [2.0])
    losses = [loss_of(name, policy, reference, **HYPER_PARAMETERS) for reference in references]
    assert torch.equal(*losses) == (name in REFERENCE_FREE)


@pytest.mark.parametrize("name", sorted(LENGTH_NORMALISED))
def test_length_normalised_losses_do_not_see_repetition(name):
    once, thrice = pair([-2.0], [-5.0], [2.0], [4.0]), pair([-6.0], [-15.0], [6.0], [12.0])
    reference, reference_thrice = pair([-2.5], [-4.0], [2.0], [4.0]), pair([-7.5], [-12.0], [6.0], [12.0])
    want = loss_of(name, once, reference, **HYPER_PARAMETERS).tolist()
    assert_near(loss_of(name, thrice, reference_thrice, **HYPER_PARAMETERS), want)


def test_options_are_those_that_a_loss_reads():
    assert options_of("dpo") == {"beta"} and options_of("rpo") == {"beta", "alpha"}


@pytest.mark.parametrize("name", PREFERENCE_LOSSES)
def test_a_thousand_nats_stay_finite_in_value_and_gradient(name):
    policy = pair([-1000.0], [-1.0], grad=True)
    loss = loss_of(name, policy, pair([-1.0], [-1000.0]), **HYPER_PARAMETERS).sum()
    loss.backward()
    assert all(x.isfinite().all() for x in (loss, policy.chosen.grad, policy.rejected.grad))


@pytest.mark.parametrize("p", [0.9999999, 0.75, 0.5, 0.25, 1e-9])
def test_log_odds_do_not_cancel(p):
    assert log_odds(double(math.log(p))).item() == pytest.approx(math.log(p) - math.log1p(-p), rel=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_odds_of_certainty_are_large_and_finite(dtype):
    x = torch.zeros((), dtype=dtype, requires_grad=True)
    odds = log_odds(x)
    odds.backward()
    assert odds > 15 and odds.isfinite() and x.grad.isfinite()


def test_log_odds_gradient_is_that_of_finite_differences():
    assert torch.autograd.gradcheck(log_odds, (double([-3.0, -0.7, -0.69, -1e-3], grad=True),))


@pytest.mark.parametrize(("inputs", "expected"), cases("kto"))
def test_kto_reference_numbers(inputs, expected):
    policy = double(inputs["policy"], grad=True)
    baseline = kto_baseline(double(inputs["kl_policy"]) - double(inputs["kl_ref"]))
    per_example = kto(
        policy - double(inputs["ref"]),
        boolean(inputs["label"]),
        baseline,
        beta=inputs["beta"],
        weight_desirable=inputs["w_des"],
        weight_undesirable=inputs["w_und"],
    )
    per_example.mean().backward()
    assert_near(baseline, expected["z0"])
    assert_near(per_example, expected["per_example"])
    assert_near(per_example.mean(), expected["loss"])
    assert_near(policy.grad, expected["grad_policy"])


def test_kto_by_hand():
    got = kto(double([1.0, 1.0]), boolean([1, 0]), double(0.5), beta=2.0, weight_desirable=1.0, weight_undesirable=3.0)
    assert_near(got, [1 - sigmoid(1.0), 3.0 * (1 - sigmoid(-1.0))])


def test_the_kto_baseline_is_clamped_after_the_mean_over_ranks():
    ours, other = double([-3.0, -1.0]), double([5.0])
    got = kto_baseline(ours, sum_over_ranks=lambda sums: sums + double([other.sum().item(), 1.0]))
    assert_near(got, 1 / 3)
    assert_near(kto_baseline(ours), 0.0)


def test_the_kto_baseline_carries_no_gradient():
    assert not kto_baseline(double([1.0], grad=True)).requires_grad


@pytest.mark.parametrize(("inputs", "expected"), cases("pl_dpo"))
def test_listwise_reference_numbers(inputs, expected):
    policy, order = double(inputs["policy"], grad=True), torch.tensor(inputs["order"])
    ref = double(inputs["ref"])
    loss = plackett_luce_dpo(policy[order], ref[order], beta=inputs["beta"])
    loss.backward()
    assert_near(loss, expected["loss"])
    assert_near(inputs["beta"] * (policy - ref), expected["implicit_rewards"])
    assert_near(policy.grad, expected["grad_policy"])


def test_listwise_with_two_responses_is_dpo():
    want = PREFERENCE_LOSSES["dpo"](pair([-4.0], [-5.0]), pair([-4.5], [-4.5]), beta=0.5)
    assert_near(plackett_luce_dpo(double([[-4.0, -5.0]]), double([[-4.5, -4.5]]), beta=0.5), want.tolist())


def test_listwise_at_the_reference_is_log_factorial():
    logprobs = double([[-4.0, -5.0, -6.0]])
    assert_near(plackett_luce_dpo(logprobs, logprobs, beta=0.5), [math.log(6)])
