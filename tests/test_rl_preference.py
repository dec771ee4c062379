import math

import pytest
import torch
from golden import assert_near, boolean, cases, double
from hypothesis import given
from hypothesis import strategies as st

from models.comparisons import plackett_luce_nll
from models.errors import ConfigError
from rl.preference import (
    LENGTH_NORMALISED,
    PAIRWISE,
    REFERENCE_FREE,
    PairLogprobs,
    kto,
    kto_baseline,
    listwise,
    log_odds,
    options_of,
    preference_metrics,
)
from rl.preference_loss import READS, PreferenceLoss

HYPER_PARAMETERS = {"beta": 0.5, "label_smoothing": 0.1, "gamma": 0.5, "alpha": 1.0}
# Each loss of the reference numbers: ours, and whether per token.
REFERENCE_NAMES = {
    **{name: (name, False) for name in PAIRWISE if name not in ("sigmoid", "ipo")},
    "dpo": ("sigmoid", False),
    "sigmoid_norm": ("sigmoid", True),
    "ipo_sum": ("ipo", False),
    "ipo_mean": ("ipo", True),
}


def softplus(x):
    return math.log1p(math.exp(x))


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def pair(chosen, rejected, n_chosen=1.0, n_rejected=1.0, grad=False):
    logprobs = (double(chosen, grad=grad), double(rejected, grad=grad))
    return PairLogprobs(*logprobs, double(n_chosen), double(n_rejected))


def loss_of(name, policy, reference, **options):
    return PAIRWISE[name](policy, reference, **{key: options[key] for key in options_of(name)})


@pytest.mark.parametrize("name", REFERENCE_NAMES)
@pytest.mark.parametrize(("inputs", "expected"), cases("pref"))
def test_preference_reference_numbers(inputs, expected, name):
    lengths, (ours, per_token) = (inputs["len_c"], inputs["len_r"]), REFERENCE_NAMES[name]
    policy = pair(inputs["pc"], inputs["pr"], *lengths, grad=True)
    options = {
        "beta": inputs["orpo_lambda"] if name == "orpo" else inputs["beta"],
        "label_smoothing": inputs["ls_eps"],
        "gamma": inputs["simpo_gamma"],
        "alpha": inputs["rpo_alpha"],
    }
    sides = policy, pair(inputs["rc"], inputs["rr"], *lengths)
    per_pair = loss_of(ours, *(side.means() if per_token else side for side in sides), **options)
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
    assert_near(metrics["rewards/chosen"], expected["reward_chosen"])
    assert_near(metrics["rewards/rejected"], expected["reward_rejected"])
    assert_near(metrics["rewards/accuracies"].mean(), expected["accuracy"])


# policy chosen -4 of 4 tokens, rejected -5 of 2; reference -4.5 both; beta 0.5: h = 1, chosen ratio 0.5, rejected -0.5
BY_HAND = {
    "sigmoid": softplus(-0.5),
    "cdpo": 0.9 * softplus(-0.5) + 0.1 * softplus(0.5),
    "robust": (0.9 * softplus(-0.5) - 0.1 * softplus(0.5)) / 0.8,
    "ipo": 0.0,
    "hinge": 0.5,
    "simpo": softplus(0.5 - 0.5 * (-1.0 + 2.5)),
    "cpo": softplus(-0.5) + 1.0,
    "orpo": 1.0 + 0.5 * softplus(math.log(1 / (math.e**2.5 - 1)) - math.log(1 / (math.e - 1))),
    "rpo": softplus(-0.5) + 1.0,
    "apo_zero": 1 - sigmoid(0.25) + sigmoid(-0.25),
    "apo_down": sigmoid(0.25) + 1 - sigmoid(0.5),
    "bco": softplus(-0.25) + softplus(-0.25),
}


@pytest.mark.parametrize("name", PAIRWISE)
def test_preference_losses_by_hand(name):
    policy, reference = pair([-4.0], [-5.0], [4.0], [2.0]), pair([-4.5], [-4.5], [4.0], [2.0])
    assert_near(loss_of(name, policy, reference, **HYPER_PARAMETERS), [BY_HAND[name]])


@pytest.mark.parametrize("name", ["sigmoid", "cdpo", "robust"])
def test_at_the_reference_the_loss_is_ln_2(name):
    policy = pair([-4.0], [-5.0], [4.0], [2.0])
    assert_near(loss_of(name, policy, policy, **HYPER_PARAMETERS), [math.log(2)])


def test_at_the_reference_ipo_is_a_quarter_over_beta_squared():
    policy = pair([-4.0], [-5.0])
    assert_near(PAIRWISE["ipo"](policy, policy, beta=0.1), [25.0])


def test_at_the_reference_every_pair_is_a_tie():
    policy = pair([-4.0, -1.0], [-5.0, -1.0])
    metrics = preference_metrics(policy, policy, beta=0.1)
    assert metrics["rewards/accuracies"].tolist() == [0.0, 0.0] and metrics["rewards/ties"].tolist() == [1.0, 1.0]


@given(st.floats(-20, 20), st.floats(0, 0.49))
def test_robust_is_unbiased_under_its_label_noise(h, noise):
    right, wrong = pair([h], [0.0]), pair([0.0], [h])
    zero = pair([0.0], [0.0])
    losses = [PAIRWISE["robust"](p, zero, beta=1.0, label_smoothing=noise) for p in (right, wrong)]
    assert_near((1 - noise) * losses[0] + noise * losses[1], [softplus(-h)])


def test_without_noise_the_noise_aware_losses_are_dpo():
    policy, reference = pair([-4.0], [-5.0]), pair([-4.5], [-4.5])
    want = PAIRWISE["sigmoid"](policy, reference, beta=0.3).tolist()
    for name in ("cdpo", "robust"):
        assert_near(PAIRWISE[name](policy, reference, beta=0.3, label_smoothing=0.0), want)


@pytest.mark.parametrize("name", PAIRWISE)
def test_only_the_named_losses_ignore_the_reference(name):
    policy = pair([-4.0], [-5.0], [4.0], [2.0])
    references = pair([-1.0], [-9.0], [4.0], [2.0]), pair([-8.0], [-2.0], [4.0], [2.0])
    losses = [loss_of(name, policy, reference, **HYPER_PARAMETERS) for reference in references]
    assert torch.equal(*losses) == (name in REFERENCE_FREE)


@pytest.mark.parametrize("name", PAIRWISE)
def test_length_normalised_losses_do_not_see_repetition(name):
    once, thrice = pair([-2.0], [-5.0], [2.0], [4.0]), pair([-6.0], [-15.0], [6.0], [12.0])
    reference, reference_thrice = pair([-2.5], [-4.0], [2.0], [4.0]), pair([-7.5], [-12.0], [6.0], [12.0])
    if name not in LENGTH_NORMALISED:  # those are by themselves
        once, thrice, reference, reference_thrice = (x.means() for x in (once, thrice, reference, reference_thrice))
    want = loss_of(name, once, reference, **HYPER_PARAMETERS).tolist()
    assert_near(loss_of(name, thrice, reference_thrice, **HYPER_PARAMETERS), want)


def test_options_are_those_that_a_loss_reads():
    assert options_of("sigmoid") == {"beta"} and options_of("rpo") == {"beta", "alpha"}


@pytest.mark.parametrize("name", PAIRWISE)
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
    drift = double(inputs["kl_policy"]) - double(inputs["kl_ref"])
    baseline = kto_baseline(drift.sum(), double(len(drift)))
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


def test_the_kto_baseline_is_the_mean_over_all_ranks_and_then_clamped():
    assert_near(kto_baseline(double(-3.0) + double(4.0), double(3.0)), 1 / 3)
    assert_near(kto_baseline(double(-3.0), double(2.0)), 0.0)


def test_the_kto_baseline_carries_no_gradient():
    assert not kto_baseline(double(1.0, grad=True), double(1.0)).requires_grad


def below(*ranks):
    """Of one ranking by rank, 1 the best."""
    rank = torch.tensor(ranks)
    return rank[None, :] > rank[:, None]


@pytest.mark.parametrize(("inputs", "expected"), cases("pl_dpo"))
def test_listwise_reference_numbers(inputs, expected):
    policy, order = double(inputs["policy"], grad=True), inputs["order"]
    ref = double(inputs["ref"])
    ranks = [order.index(i) for i in range(len(order))]
    loss = listwise(policy, ref, below(*ranks), beta=inputs["beta"]).sum()
    loss.backward()
    assert_near(loss, expected["loss"])
    assert_near(inputs["beta"] * (policy - ref), expected["implicit_rewards"])
    assert_near(policy.grad, expected["grad_policy"])


@given(st.lists(st.floats(-20, 20), min_size=2, max_size=6), st.randoms())
def test_listwise_terms_add_up_to_the_likelihood_of_the_order(scores, random):
    ranks = random.sample(range(len(scores)), len(scores))
    ordered = [scores[ranks.index(place)] for place in range(len(scores))]
    found = listwise(double(scores), double([0.0] * len(scores)), below(*ranks), beta=0.5).sum()
    assert_near(found, plackett_luce_nll(0.5 * double(ordered)).item())


def test_listwise_with_two_responses_is_dpo_in_value_and_gradient():
    two, policy = double([-4.0, -5.0], grad=True), pair([-4.0], [-5.0], grad=True)
    found = listwise(two, double([-4.5, -4.5]), below(1, 2), beta=0.5).sum()
    want = PAIRWISE["sigmoid"](policy, pair([-4.5], [-4.5]), beta=0.5).sum()
    found.backward()
    want.backward()
    assert_near(found, want.item())
    assert_near(two.grad, [policy.chosen.grad.item(), policy.rejected.grad.item()])


def test_listwise_at_the_reference_is_log_factorial():
    logprobs = double([-4.0, -5.0, -6.0])
    assert_near(listwise(logprobs, logprobs, below(2, 1, 3), beta=0.5).sum(), math.log(6))


def test_listwise_ranks_responses_that_tie_against_what_is_below_them_alone():
    scores = double([1.0, 2.0, 0.0], grad=True)
    found = listwise(scores, double([0.0] * 3), below(1, 1, 2), beta=1.0)
    assert_near(found, [softplus(-1.0), softplus(-2.0), 0.0])


@pytest.mark.parametrize("name", READS)
def test_an_option_that_a_loss_does_not_read_is_refused_with_one_that_does(name):
    given_ = {"gamma": 0.3, "alpha": 0.3, "label_smoothing": 0.3, "weight_desirable": 0.3, "nll": 0.3}
    given_ |= {"length_normalised": True, "pairs": "best_worst", "ties": "drop"}
    for option, value in given_.items():
        if option in READS[name]:
            assert getattr(PreferenceLoss(name=name, **{option: value}), option) == value
        else:
            with pytest.raises(ConfigError, match=f"loss.{option}={value}: not read by loss={name}; loss=.* reads it"):
                PreferenceLoss(name=name, **{option: value})


@pytest.mark.parametrize(("schedule", "middle"), [("linear", 0.3), ("cosine", 0.3)])
def test_beta_moves_from_its_start_to_its_end(schedule, middle):
    loss = PreferenceLoss(beta=0.1, beta_schedule=schedule, beta_end=0.5)
    assert [loss.beta_at(x) for x in (0.0, 0.5, 1.0)] == pytest.approx([0.1, middle, 0.5])
    assert PreferenceLoss(beta=0.1).beta_at(0.7) == 0.1


@pytest.mark.parametrize("wrong", [{"beta_schedule": "linear"}, {"beta_end": 0.2}])
def test_a_schedule_of_beta_needs_an_end_and_an_end_a_schedule(wrong):
    with pytest.raises(ConfigError, match="a schedule needs an end"):
        PreferenceLoss(**wrong)
