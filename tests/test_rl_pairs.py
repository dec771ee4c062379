"""Claims about rankings as batches: the tree changes no loss, and policy and reference are asked in one precision."""

from __future__ import annotations

import math

import pytest
import torch
from test_models_layout import gradients
from transformers import AutoModelForCausalLM, PreTrainedModel

from models.layout import LayoutConfig, Tree
from rl.pairs import PreferenceObjective, PreferenceRows
from rl.preference_loss import PreferenceLoss
from rl.reference import response_logprobs

TREES = [
    Tree.of(list(range(5, 25)), [[7, 8, 9], [10, 11], [12]]),
    Tree.of(list(range(40, 50)), [[3, 4], [6]]),
    Tree.of([9], [[8, 8], [7, 7, 7]]),
]
PREFERENCES = [torch.tensor([2.0, 1.0, 1.0]), torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])]


def rows(model: PreTrainedModel, *, tree: bool = True, bf16: bool = False) -> PreferenceRows:
    """With a reference that is the model itself."""
    made = PreferenceRows(TREES, PREFERENCES, LayoutConfig(bin_tokens=32, tree=tree), 64)
    made.refer(response_logprobs(model, made.referred, 32, bf16=bf16))
    return made


@pytest.mark.parametrize("name", ["sigmoid", "listwise", "simpo"])
def test_separate_rows_give_the_loss_and_the_gradient_of_the_tree(llama_folder: str, name: str) -> None:
    model, objective = AutoModelForCausalLM.from_pretrained(llama_folder), PreferenceObjective(PreferenceLoss(name))
    found = []
    for tree in (True, False):
        batch = rows(model, tree=tree).collate([0, 1, 2])
        batch["reference"] = batch["reference"] + torch.linspace(-1, 1, 7)
        loss, metrics = objective(model, batch, batch["units"])
        mean = metrics["logps/chosen"].total / metrics["logps/chosen"].count
        found.append((torch.stack([loss.detach(), mean]), gradients(model, loss)))
    (ours, our_gradient), (theirs, their_gradient) = found
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-6)
    for parameter, gradient in our_gradient.items():
        torch.testing.assert_close(gradient, their_gradient[parameter], atol=1e-5, rtol=0)


def test_in_bfloat16_the_reference_is_asked_in_bfloat16(llama_folder: str) -> None:
    model, objective = AutoModelForCausalLM.from_pretrained(llama_folder), PreferenceObjective(PreferenceLoss())
    distances = []
    for bf16 in (True, False):
        batch = rows(model, bf16=bf16).collate([0, 1, 2])
        with torch.autocast("cpu", torch.bfloat16):
            loss, _ = objective(model, batch, batch["units"])
        distances.append(abs(float(loss.detach()) - math.log(2)))
    assert distances[0] < 1e-6 < distances[1]
