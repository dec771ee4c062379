"""Claims about log-probabilities: one function, the numbers of the plain definition, at any chunking."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from golden import assert_near, cases, double
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from models import logprobs
from models.layout import Tree, collate
from models.logprobs import logprobs_from_hidden, per_response, response_lengths, token_logprobs
from models.masked import masked_mean


class Logits(nn.Module):
    """An output layer whose logits are its input, so that reference logits can be put in as hidden states."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.out_features = vocabulary
        self.register_buffer("weight", torch.eye(vocabulary, dtype=torch.float64))

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden @ self.weight


def near(got: Tensor, want: Any) -> None:
    """Within the tolerance that the reference numbers state for float32, in which log-probabilities are computed."""
    torch.testing.assert_close(got.detach().double(), double(want), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(("inputs", "expected"), cases("seq_logprob"))
def test_sequence_log_probability_reference_numbers(inputs: dict[str, Any], expected: dict[str, Any]) -> None:
    (ids,), (mask,), logits = inputs["ids"], inputs["loss_mask"], double(inputs["logits"])[0]
    # A prompt of one token, and a response that is the rest: position 0 is never scored.
    batch = collate([Tree(ids[:1], [ids[1:]], [[bool(m) for m in mask[1:]]])], bin_tokens=8)
    temperature = inputs.get("temperature", 1.0)
    found = logprobs_from_hidden(logits[batch["source"]], batch["target"], Logits(logits.shape[-1]), temperature)
    near(found.logprobs, [v for v, m in zip(expected["token_logprob"][0], mask[1:], strict=True) if m])
    near(per_response(found.logprobs, batch), expected["sum"])
    near(per_response(found.logprobs, batch) / response_lengths(batch), expected["mean"])
    assert response_lengths(batch).tolist() == expected["count"]


@pytest.mark.parametrize(("inputs", "expected"), cases("entropy_from_logits"))
def test_entropy_reference_numbers(inputs: dict[str, Any], expected: dict[str, Any]) -> None:
    for logits, entropy in zip(inputs["logits"], expected["entropy"], strict=True):
        found = logprobs_from_hidden(double([logits]), torch.tensor([0]), Logits(len(logits)), with_entropy=True)
        assert found.entropy is not None
        near(found.entropy, [entropy])


@pytest.mark.parametrize(("inputs", "expected"), cases("last_token_index"))
def test_last_token_reference_numbers(inputs: dict[str, Any], expected: dict[str, Any]) -> None:
    """Rows by their true length, whatever ids they end with; padding is never looked for in the ids."""
    rows = [
        [token for token, m in zip(ids, mask, strict=True) if m]
        for ids, mask in zip(inputs["ids"], inputs["attention_mask"], strict=True)
    ]
    lefts = [mask.index(1) if 1 in mask else None for mask in inputs["attention_mask"]]
    for row, left, want in zip(rows, lefts, expected["index"], strict=True):
        if left is None or want is None:
            assert row == [] and want is None  # no door lets an empty row in
            continue
        batch = collate([Tree.of(row[:1], [row[1:]])], bin_tokens=8, pad_id=2)
        assert batch["ends"].tolist() == [want - left]
        assert batch["input_ids"].flatten()[batch["ends"]].tolist() == [row[-1]]


@pytest.mark.parametrize(("inputs", "expected"), cases("token_mean_loss"))
def test_token_mean_reference_numbers(inputs: dict[str, Any], expected: dict[str, Any]) -> None:
    nll, mask = double(inputs["nll"]), double(inputs["mask"])
    parts = [masked_mean(nll[rows], mask[rows], total=mask.sum()) for rows in inputs["microbatches"]]
    assert_near(torch.stack(parts).sum(), expected["global_token_mean"])


def test_uniform_logits_are_minus_ln_of_the_vocabulary() -> None:
    found = logprobs_from_hidden(torch.zeros(2, 3), torch.tensor([0, 6]), nn.Linear(3, 7, bias=False))
    near(found.logprobs, [-math.log(7)] * 2)


def test_only_targets_reach_the_output_layer_and_equal_the_whole_log_softmax(any_folder: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(any_folder).eval()
    prompt, response = [5, 6, 7], [8, 9, 10, 11]
    batch = collate([Tree(prompt, [response], [[False, True, False, True]])], bin_tokens=8)
    rows: list[int] = []
    model.get_output_embeddings().register_forward_hook(lambda _, inputs, __: rows.append(inputs[0].shape[-2]))
    got = token_logprobs(model, batch)
    assert rows == [1, 2]  # the last position, which transformers insists on; then the two targets
    whole = model(input_ids=torch.tensor([prompt + response])).logits[0].log_softmax(-1)
    torch.testing.assert_close(got.logprobs, whole[[3, 5], [9, 11]], atol=1e-5, rtol=0)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_temperature_divides_the_logits_of_value_and_entropy(llama_folder: str, temperature: float) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama_folder).eval()
    batch = collate([Tree.of([5, 6, 7], [[8, 9]])], bin_tokens=8)
    found = token_logprobs(model, batch, temperature=temperature, with_entropy=True)
    logits = model(input_ids=torch.tensor([[5, 6, 7, 8, 9]])).logits[0, 2:4] / temperature
    torch.testing.assert_close(found.logprobs, logits.log_softmax(-1)[[0, 1], [8, 9]], atol=1e-5, rtol=0)
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    torch.testing.assert_close(found.entropy, entropy, atol=1e-5, rtol=0)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_chunks_and_parts_change_neither_values_nor_gradients(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    torch.manual_seed(0)
    head, target = nn.Linear(6, 11), torch.randint(11, (7,))
    start, weights = torch.randn(7, 6), torch.linspace(-1, 1, 7)

    def of(chunk_elements: int, part_elements: int, parted_on: tuple[str, ...]) -> tuple[Tensor, ...]:
        monkeypatch.setattr(logprobs, "CHUNK_ELEMENTS", chunk_elements)
        monkeypatch.setattr(logprobs, "PART_ELEMENTS", part_elements)
        monkeypatch.setattr(logprobs, "PARTED_ON", parted_on)
        hidden = start.clone().requires_grad_()
        found = logprobs_from_hidden(hidden, target, head, 0.7, with_entropy=True)
        head.zero_grad()
        (found.logprobs * weights + found.entropy).sum().backward()
        return (
            found.logprobs.detach(),
            found.entropy.detach(),
            hidden.grad,
            head.weight.grad.clone(),
            head.bias.grad.clone(),
        )

    expected = of(1 << 24, 1 << 24, ("cpu",))
    for chunk, part, parted_on in ((rows * 11, 1 << 24, ("cpu",)), (1 << 24, rows * 11, ("cpu",)), (1 << 24, 1, ())):
        for found, whole in zip(of(chunk, part, parted_on), expected, strict=True):
            torch.testing.assert_close(found, whole)


def test_no_more_logits_exist_at_once_than_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprobs, "CHUNK_ELEMENTS", 40)
    sizes: list[int] = []

    class Head(nn.Linear):
        def forward(self, hidden: Tensor) -> Tensor:
            sizes.append(len(hidden) * self.out_features)
            return super().forward(hidden)

    logprobs_from_hidden(torch.randn(9, 4), torch.zeros(9, dtype=torch.long), Head(4, 10))
    assert sizes == [40, 40, 10]


@pytest.mark.parametrize("n_targets", [0, 1, 9])
def test_the_output_layer_is_called_once_for_any_number_of_targets(
    monkeypatch: pytest.MonkeyPatch, n_targets: int
) -> None:
    """Who gathers its weights around each call, as ZeRO-3 does, does so equally often on all processes."""
    monkeypatch.setattr(logprobs, "CHUNK_ELEMENTS", 40)
    head, calls = nn.Linear(4, 10), []
    head.register_forward_hook(lambda *_: calls.append(1))
    hidden = torch.randn(n_targets, 4, requires_grad=True)
    logprobs_from_hidden(hidden, torch.zeros(n_targets, dtype=torch.long), head).logprobs.sum().backward()
    assert len(calls) == 1 and head.weight.grad is not None


def test_a_batch_without_targets_gives_no_values_and_keeps_the_graph(llama_folder: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama_folder)
    batch = collate([Tree([5], [[6]], [[False]])], bin_tokens=8)
    found = token_logprobs(model, batch, with_entropy=True)
    assert found.logprobs.shape == (0,)
    found.logprobs.sum().backward()
    assert all(p.grad.abs().sum() == 0 for p in model.parameters() if p.grad is not None)


def test_half_precision_models_give_float32_log_probabilities(llama_folder: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama_folder, dtype=torch.bfloat16)
    assert token_logprobs(model, collate([Tree.of([5], [[6]])], bin_tokens=8)).logprobs.dtype == torch.float32


def test_a_classifier_gives_hidden_states_like_its_backbone(llama_folder: str) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(llama_folder).eval()
    batch = collate([Tree.of([5, 6], [[7, 8]])], bin_tokens=8)
    plain = model.base_model(input_ids=torch.tensor([[5, 6, 7, 8]])).last_hidden_state[0]
    torch.testing.assert_close(logprobs.hidden_states(model, batch, torch.tensor([2, 3])), plain[2:], atol=1e-5, rtol=0)


def test_micro_batches_of_unlike_token_counts_add_up_to_the_gradient_of_one_batch(llama_folder: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama_folder)
    trees = [Tree.of([5, 6], [[7]]), Tree.of([5], [list(range(10, 30))]), Tree.of([9], [[4, 3]])]
    total = sum(tree.n_targets for tree in trees)

    def gradient(parts: list[list[Tree]]) -> list[Tensor]:
        model.zero_grad()
        for part in parts:
            (-token_logprobs(model, collate(part, bin_tokens=64)).logprobs.sum() / total).backward()
        return [p.grad.clone() for p in model.parameters()]

    for one, many in zip(gradient([trees]), gradient([[tree] for tree in trees]), strict=True):
        torch.testing.assert_close(many, one, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_entropy_has_its_gradient(temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(5, 4, generator=generator, requires_grad=True)
    head, target = torch.nn.Linear(4, 7), torch.tensor([0, 3, 6, 1, 2])
    found = logprobs_from_hidden(hidden, target, head, temperature, with_entropy=True)
    (2 * found.entropy.sum() - found.logprobs.sum()).backward()
    ours, hidden.grad = hidden.grad, None
    logs = (head(hidden) / temperature).log_softmax(-1)
    (-2 * (logs.exp() * logs).sum() - logs[torch.arange(5), target].sum()).backward()
    torch.testing.assert_close(ours, hidden.grad)
