import math

import pytest
import torch
from golden import assert_near, boolean, cases, double
from hypothesis import given
from hypothesis import strategies as st

from models.errors import ConfigError, NumericsError
from models.masked import masked_mean
from rl.kl import KL_ESTIMATORS, AdaptiveKL, FixedKL, Lagrangian, token_kl


@pytest.mark.parametrize(("inputs", "expected"), cases("kl_terms"))
def test_estimator_reference_numbers(inputs, expected):
    keep = boolean(inputs["mask"])
    terms = {
        name: token_kl(double(inputs["logp"]), double(inputs["ref_logp"]), keep, estimator=name)
        for name in ("k1", "k2", "k3")
    }
    for name, term in terms.items():
        assert_near(term, expected[name])
    for name in ("k1", "k3"):
        assert_near(terms[name].sum(-1), expected[f"{name}_seq_sum"])
        assert_near(masked_mean(terms[name], keep), expected[f"{name}_token_mean"])


@pytest.mark.parametrize(("inputs", "expected"), cases("kl_expectation"))
def test_expectation_reference_numbers(inputs, expected):
    p, q = (double(inputs[name]).log_softmax(-1) for name in ("p_logits", "q_logits"))
    assert_near((p.exp() * (p - q)).sum(), expected["exact"])
    for name in ("k1", "k2", "k3"):
        assert_near((p.exp() * KL_ESTIMATORS[name](p - q)).sum(), expected[f"E_{name}"])


logits = st.lists(st.floats(-3, 3), min_size=2, max_size=6)


@given(logits, st.randoms(use_true_random=False))
def test_k1_and_k3_are_unbiased(values, random):
    p = double(values).log_softmax(-1)
    q = double(random.sample(values, len(values))).log_softmax(-1)
    exact = torch.nn.functional.kl_div(q, p, log_target=True, reduction="sum").item()
    for name in ("k1", "k3"):
        assert (p.exp() * KL_ESTIMATORS[name](p - q)).sum().item() == pytest.approx(exact, abs=1e-9)


@pytest.mark.parametrize("name", KL_ESTIMATORS)
def test_a_policy_at_its_reference_has_no_kl(name):
    logprobs = double([[-1.0, -2.0]])
    assert token_kl(logprobs, logprobs, boolean([[1, 1]]), estimator=name).tolist() == [[0.0, 0.0]]


@given(st.floats(-20, 20))
def test_k3_is_never_negative(difference):
    assert KL_ESTIMATORS["k3"](double(difference)) >= 0


def test_estimators_by_hand():
    d = double(math.log(2))
    assert_near(KL_ESTIMATORS["k1"](d), math.log(2))
    assert_near(KL_ESTIMATORS["k2"](d), math.log(2) ** 2 / 2)
    assert_near(KL_ESTIMATORS["k3"](d), 0.5 - 1 + math.log(2))


def test_k3_plus_shows_k3_and_descends_k2():
    d = double(0.7, grad=True)
    shown = KL_ESTIMATORS["k3+"](d)
    shown.backward()
    assert_near(shown, math.exp(-0.7) - 1 + 0.7)
    assert_near(d.grad, 0.7)


def test_clamp_bounds_the_log_ratio():
    kl = token_kl(double([[0.0, 0.0]]), double([[-50.0, -1.0]]), boolean([[1, 1]]), clamp=20.0)
    assert_near(kl, [[20.0, 1.0]])


def test_padding_may_hold_anything():
    kl = token_kl(double([[-1.0, torch.nan]]), double([[-2.0, -torch.inf]]), boolean([[1, 0]]), estimator="k3")
    assert_near(kl, [[math.exp(-1.0), 0.0]])


@pytest.mark.parametrize(("inputs", "expected"), cases("adaptive_kl"))
def test_adaptive_reference_numbers(inputs, expected):
    controller = AdaptiveKL(coef=inputs["init"], target=inputs["target"], horizon=inputs["horizon"])
    got = []
    for kl in inputs["observed"]:
        controller.update(kl, inputs["n_steps"])
        got.append(controller.coef)
    assert_near(double(got), expected["coef_after_each"])


def test_adaptive_by_hand():
    controller = AdaptiveKL(coef=1.0, target=4.0, horizon=100)
    controller.update(4.4, 10)  # 10 % over: 1 + 0.1 * 10 / 100
    assert controller.coef == pytest.approx(1.01)
    controller.update(400.0, 10)  # no more than 20 % over counts
    assert controller.coef == pytest.approx(1.01 * 1.02)


def test_a_controller_goes_on_where_its_state_left_off():
    first, second = (AdaptiveKL(coef=0.1, target=6.0, horizon=1000) for _ in range(2))
    first.update(9.0, 64)
    second.load_state_dict(first.state_dict())
    for controller in (first, second):
        controller.update(2.0, 64)
    assert first == second and first.n_seen == 128


def test_a_fixed_coefficient_stays():
    controller = FixedKL(coef=0.05)
    controller.update(1e6, 32)
    assert controller.state_dict() == {"coef": 0.05, "n_seen": 32}


@pytest.mark.parametrize("kl", [math.nan, math.inf, -1.0])
def test_a_kl_that_cannot_be_is_refused(kl):
    controller = AdaptiveKL(coef=0.1, target=6.0, horizon=1000)
    with pytest.raises(NumericsError, match="mean KL"):
        controller.update(kl, 64)
    assert controller == AdaptiveKL(coef=0.1, target=6.0, horizon=1000)


def test_sampling_noise_just_below_zero_is_no_fault():
    controller = AdaptiveKL(coef=0.1, target=6.0, horizon=1000)
    controller.update(-0.01, 50)
    assert controller.coef == pytest.approx(0.1 * (1 - 0.2 * 0.05))


def test_a_negative_mean_is_judged_by_its_own_noise():
    controller = AdaptiveKL(coef=0.1, target=0.5, horizon=1000)
    controller.update(-0.08, 128, standard_error=0.04)
    with pytest.raises(NumericsError, match="mean KL"):
        controller.update(-0.08, 128, standard_error=0.01)


def test_a_target_of_zero_is_refused():
    with pytest.raises(ConfigError, match="target=0"):
        AdaptiveKL(coef=0.1, target=0.0, horizon=1000)


@pytest.mark.parametrize(("inputs", "expected"), cases("lagrangian"))
def test_lagrangian_reference_numbers(inputs, expected):
    lagrangian = Lagrangian(threshold=inputs["threshold"], lr=inputs["lr"], log_lambda=inputs["log_lambda"])
    combined = lagrangian.advantages(double(inputs["adv_r"]), double(inputs["adv_c"]))
    violation = lagrangian.update(double(inputs["episode_costs"]).mean().item())
    assert_near(combined, expected["combined_advantage"])
    assert_near(violation, expected["constraint_violation"])
    assert_near(lagrangian.log_lambda, expected["new_log_lambda"])
    assert_near(lagrangian.multiplier, expected["new_lambda"])


def test_lambda_falls_while_the_constraint_holds():
    lagrangian = Lagrangian(threshold=0.0, lr=0.5, log_lambda=math.log(2.0))
    lagrangian.update(-0.25)
    assert lagrangian.log_lambda == pytest.approx(math.log(2.0) - 0.5 * 2.0 * 0.25)


def test_lambda_waits_for_the_warm_up_and_stops_at_its_cap():
    lagrangian = Lagrangian(threshold=0.0, lr=100.0, max_lambda=3.0, warmup=1)
    lagrangian.update(1.0)
    assert lagrangian.multiplier == 1.0
    lagrangian.update(1.0)
    assert lagrangian.multiplier == pytest.approx(3.0)


def test_lagrangian_state_survives_a_checkpoint():
    first, second = (Lagrangian(threshold=0.1, lr=0.1, warmup=1) for _ in range(2))
    first.update(1.0)
    second.load_state_dict(first.state_dict())
    first.update(1.0)
    second.update(1.0)
    assert first == second and first.log_lambda > 0
