"""Claims about sampler mismatch, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from models.errors import ConfigError
from rl.mismatch import importance_weights, sampler_mismatch

KEEP = torch.tensor([[True, True, True], [True, True, False]])
TRAINER = torch.log(torch.tensor([[0.5, 0.9, 0.1], [0.2, 0.3, 1.0]]))
SAMPLER = torch.log(torch.tensor([[0.25, 0.3, 0.2], [0.4, 0.3, 0.5]]))  # ratios 2, 3, 1/2 and 1/2, 1, -


def test_a_tokens_weight_is_the_ratio_of_the_probabilities_up_to_the_cap() -> None:
    found = importance_weights(TRAINER, SAMPLER, KEEP, how="token", cap=2.5)
    torch.testing.assert_close(found, torch.tensor([[2.0, 2.5, 0.5], [0.5, 1.0, 0.0]]))


def test_a_sequences_weight_is_the_product_of_its_ratios_and_0_outside_the_band() -> None:
    found = importance_weights(TRAINER, SAMPLER, KEEP, how="sequence", cap=3.5)
    torch.testing.assert_close(found, torch.tensor([[3.0, 3.0, 3.0], [0.5, 0.5, 0.0]]))
    assert importance_weights(TRAINER, SAMPLER, KEEP, how="sequence", cap=2.0)[0].tolist() == [0, 0, 0]
    assert importance_weights(SAMPLER, TRAINER, KEEP, how="sequence", cap=2.5)[0].tolist() == [0, 0, 0]


def test_without_a_correction_every_kept_token_weighs_1() -> None:
    assert importance_weights(TRAINER, SAMPLER, KEEP, how="none", cap=2.0).equal(KEEP.float())


def test_a_token_that_the_sampler_thought_impossible_weighs_the_cap_and_no_nan() -> None:
    impossible = SAMPLER.masked_fill(~KEEP, torch.nan)
    impossible[0, 0] = -torch.inf
    found = importance_weights(TRAINER, impossible, KEEP, how="token", cap=2.0)
    torch.testing.assert_close(found, torch.tensor([[2, 2, 0.5], [0.5, 1, 0]]))


def test_the_weights_have_no_gradient() -> None:
    trained = TRAINER.clone().requires_grad_()
    assert not importance_weights(trained, SAMPLER, KEEP, how="token", cap=2.0).requires_grad


def test_an_unknown_correction_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"rl\.sampler\.correction=tokens: expected one of none, token, sequence"):
        importance_weights(TRAINER, SAMPLER, KEEP, how="tokens", cap=2.0)


def test_mismatch_is_told_over_kept_tokens() -> None:
    found = sampler_mismatch(TRAINER, SAMPLER, KEEP)
    gaps = [math.log(2), math.log(3), -math.log(2), -math.log(2), 0.0]
    assert found["mean"] == pytest.approx(sum(map(abs, gaps)) / 5)
    assert found["max"] == pytest.approx(math.log(3))
    assert found["kl"] == pytest.approx(sum(math.exp(g) - 1 - g for g in gaps) / 5)
    assert set(sampler_mismatch(TRAINER, SAMPLER, torch.zeros_like(KEEP)).values()) == {0.0}
