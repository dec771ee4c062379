"""Claims about sampling: it is transformers' generate, made indifferent to how prompts are batched."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPTNeoXConfig,
    Llama4TextConfig,
    MistralConfig,
    PreTrainedModel,
    Qwen3Config,
)

from models import kv_cache
from models.chat import ChatFormat
from models.generation import Sample, draw, end_tokens, sample
from models.layout import Tree, collate
from models.loading import ModelConfig, load_policy
from models.logprobs import token_logprobs

NEVER = 10_000  # no token has this id
SMALL = {
    "vocab_size": 260,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.1,
    "pad_token_id": 0,
}
Text = tuple[list[int], bool]


def texts(samples: list[Sample]) -> list[Text]:
    """All but the log-probabilities, which are those of another batch up to rounding only."""
    return [(s.ids, s.ended) for s in samples]


def loaded(folder: str) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa")


def prompts_of(lengths: list[int], seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(5, 250) for _ in range(n)] for n in lengths]


def rows_of_forwards(
    model: PreTrainedModel, seen: Callable[[dict[str, Any]], Any] = lambda arguments: len(arguments["input_ids"])
) -> list[Any]:
    """What `seen` says of every forward from now on: by default its rows."""
    found: list[Any] = []
    model.register_forward_pre_hook(lambda _, __, arguments: found.append(seen(arguments)), with_kwargs=True)
    return found


def greedy_by_transformers(model: PreTrainedModel, prompt: list[int], n: int, ends: list[int]) -> list[int]:
    ids = torch.tensor([prompt])
    found = model.eval().generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=n, do_sample=False, eos_token_id=ends, pad_token_id=0
    )
    return found[0, len(prompt) :].tolist()


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_greedy_is_transformers_token_for_token(any_folder: str, batch_size: int) -> None:
    model, prompts = loaded(any_folder), prompts_of([4, 1, 9, 4, 17, 2, 30])
    got = sample(model, prompts, max_new_tokens=12, ends=[NEVER], temperature=0, batch_size=batch_size)
    assert [s.ids for s in got] == [greedy_by_transformers(model, p, 12, [NEVER]) for p in prompts]
    assert not any(s.ended for s in got)


def test_greedy_stops_where_transformers_stops(any_folder: str) -> None:
    model, prompts = loaded(any_folder), prompts_of([4, 1, 9, 4, 17, 2, 30])
    free = [greedy_by_transformers(model, p, 12, [NEVER]) for p in prompts]
    ends = [free[0][3], free[2][0], free[4][7]]  # several ends, met at unlike steps
    got = sample(model, prompts, max_new_tokens=12, ends=ends, temperature=0)
    assert [s.ids for s in got] == [greedy_by_transformers(model, p, 12, ends) for p in prompts]
    assert got[2] == Sample(free[2][:1], True, [0.0])
    assert [s.ended for s in got] == [s.ids[-1] in ends for s in got]


def test_prompts_of_very_different_length_go_together(any_folder: str) -> None:
    model, prompts = loaded(any_folder), prompts_of([1, 200])
    got = sample(model, prompts, max_new_tokens=8, ends=[NEVER], temperature=0)
    assert [s.ids for s in got] == [greedy_by_transformers(model, p, 8, [NEVER]) for p in prompts]


def test_batch_size_changes_no_response(any_folder: str) -> None:
    model, prompts = loaded(any_folder), prompts_of([3, 8, 1, 5, 5, 12])

    def at(batch_size: int) -> list[Text]:
        generator = torch.Generator().manual_seed(3)
        return texts(
            sample(
                model,
                prompts,
                max_new_tokens=10,
                ends=[7, 8, 9],
                temperature=1,
                generator=generator,
                batch_size=batch_size,
            )
        )

    assert at(1) == at(2) == at(4) == at(100)


def test_the_company_of_a_prompt_changes_no_response(any_folder: str) -> None:
    """The first prompts of a longer list draw the same numbers, whatever is sorted between them."""
    model, prompts = loaded(any_folder), prompts_of([3, 8, 1, 5, 40, 2])

    def first(n: int) -> list[Text]:
        generator = torch.Generator().manual_seed(3)
        return texts(sample(model, prompts[:n], max_new_tokens=10, ends=[7, 8, 9], temperature=1, generator=generator))

    assert first(6)[:3] == first(3)


def test_a_generator_for_each_prompt_makes_its_response_independent_of_place_and_company(any_folder: str) -> None:
    model, prompts = loaded(any_folder), prompts_of([3, 8, 1, 5])

    def asked(order: list[int]) -> dict[int, Text]:
        own = [torch.Generator().manual_seed(i) for i in order]
        found = sample(model, [prompts[i] for i in order], max_new_tokens=10, ends=[7, 8], temperature=1, generator=own)
        return dict(zip(order, texts(found), strict=True))

    assert asked([3, 1]).items() <= asked([0, 1, 2, 3]).items()


def test_equal_prompts_get_responses_of_their_own(llama_folder: str) -> None:
    generator = torch.Generator().manual_seed(0)
    got = sample(loaded(llama_folder), [[5, 6]] * 8, max_new_tokens=6, ends=[NEVER], temperature=1, generator=generator)
    assert len({tuple(s.ids) for s in got}) > 4


class Fixed(nn.Module):
    """Adds one vector to the logits; with a zeroed model, the distribution is known."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, hidden: Tensor) -> Tensor:
        return self.logits.expand(*hidden.shape[:-1], -1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_samples_follow_the_softmax_at_the_temperature(llama_folder: str, temperature: float) -> None:
    model, logits = loaded(llama_folder), torch.tensor([2.0, 1.0, 0.0, -1.0])
    model.set_output_embeddings(Fixed(logits))
    n = 4000
    got = sample(
        model,
        [[5]] * n,
        max_new_tokens=1,
        ends=[NEVER],
        temperature=temperature,
        generator=torch.Generator().manual_seed(0),
        batch_size=n,
    )
    share = torch.bincount(torch.tensor([s.ids[0] for s in got]), minlength=4) / n
    want = (logits / temperature).softmax(-1)
    assert ((share - want).abs() < 4 * (want * (1 - want) / n).sqrt()).all()


@pytest.mark.parametrize("batch_size", [3, 16])
def test_the_samplers_log_probabilities_are_the_trainers(any_folder: str, batch_size: int) -> None:
    """Of every token, under the softmax at the temperature, against the packed forward of training."""
    model, prompts, temperature = loaded(any_folder), prompts_of([3, 8, 1, 5]), 0.8
    samples = sample(
        model,
        prompts,
        n=2,
        max_new_tokens=12,
        ends=list(range(5, 60)),
        temperature=temperature,
        generator=torch.Generator().manual_seed(1),
        batch_size=batch_size,
    )
    assert len({len(s.ids) for s in samples}) > 1 and any(s.ended for s in samples)
    batch = collate(
        [Tree.of(p, [s.ids for s in samples[2 * i : 2 * i + 2]]) for i, p in enumerate(prompts)], bin_tokens=64
    )
    with torch.no_grad():
        trained = token_logprobs(model, batch, temperature=temperature).logprobs
    for response, found in enumerate(samples):
        expected = trained[batch["response"] == response]
        torch.testing.assert_close(torch.tensor(found.logprobs), expected, atol=1e-5, rtol=0)


def test_a_greedy_choice_is_certain(llama_folder: str) -> None:
    [found] = sample(loaded(llama_folder), [[5, 6]], max_new_tokens=3, ends=[NEVER], temperature=0)
    assert found.logprobs == [0.0, 0.0, 0.0]


def test_n_responses_of_a_prompt_stand_together_and_are_computed_from_one_prompt(llama_folder: str) -> None:
    model, prompts = loaded(llama_folder), prompts_of([3, 8])
    options = {"max_new_tokens": 6, "ends": [NEVER], "temperature": 1}
    rows = rows_of_forwards(model)
    found = sample(model, prompts, n=3, generator=torch.Generator().manual_seed(0), **options)
    assert rows == [2, 6, 6, 6, 6, 6]
    repeated = [prompt for prompt in prompts for _ in range(3)]
    alone = sample(model, repeated, generator=torch.Generator().manual_seed(0), batch_size=1, **options)
    assert texts(found) == texts(alone) and len({tuple(s.ids) for s in found}) == 6


def test_no_token_of_probability_zero_is_drawn_at_either_end() -> None:
    logits = torch.tensor([-torch.inf, 0.0, -200.0, 1.0, -torch.inf]).repeat(3, 1)
    almost_one = 1 - 2.0**-24  # the largest number that torch.rand gives
    tokens, logprobs = draw(logits, torch.tensor([0.0, 0.2, almost_one]), 1.0)
    assert tokens.tolist() == [1, 1, 3]
    torch.testing.assert_close(logprobs, logits.log_softmax(-1)[range(3), [1, 1, 3]])


def test_finished_rows_leave_the_batch(llama_folder: str) -> None:
    model, prompts = loaded(llama_folder), prompts_of([4, 4, 4])
    free = sample(model, prompts, max_new_tokens=6, ends=[NEVER], temperature=0)
    end = free[0].ids[2]
    stops = [s.ids.index(end) + 1 if end in s.ids else 6 for s in free]
    assert len(set(stops)) > 1
    rows = rows_of_forwards(model)
    sample(model, prompts, max_new_tokens=6, ends=[end], temperature=0)
    assert rows == [sum(stop > step for stop in stops) for step in range(max(stops))]


def test_waiting_prompts_join_where_rows_have_finished(llama_folder: str) -> None:
    model, prompts = loaded(llama_folder), prompts_of([9, 9, 9, 6, 5, 4, 3])
    free = sample(model, prompts, max_new_tokens=8, ends=[NEVER], temperature=0)
    ends = [free[0].ids[1], free[1].ids[3], free[3].ids[2]]
    expected = [greedy_by_transformers(model, p, 8, ends) for p in prompts]
    rows = rows_of_forwards(model, lambda arguments: arguments["input_ids"].shape)
    found = sample(model, prompts, max_new_tokens=8, ends=ends, temperature=0, batch_size=3)
    assert [s.ids for s in found] == expected
    prefills = [shape for shape in rows if shape[1] > 1]
    assert len(prefills) > 3 and sum(n for n, _ in prefills) == len(prompts)
    assert len(rows) - len(prefills) < sum(len(s.ids) for s in found) / 2


FAMILIES = {
    "mistral": MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=6),
    "gemma3": Gemma3TextConfig(
        **SMALL,
        num_key_value_heads=2,
        head_dim=16,
        sliding_window=6,
        layer_types=["sliding_attention", "full_attention"],
    ),
    "qwen3": Qwen3Config(**SMALL, num_key_value_heads=2, head_dim=16),
    "neox": GPTNeoXConfig(**SMALL),
    "chunked": Llama4TextConfig(
        **SMALL, num_key_value_heads=2, head_dim=16, intermediate_size_mlp=128, attention_chunk_size=8, moe_layers=[]
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_that_leave_and_join_get_what_each_gets_alone(family: str) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(FAMILIES[family], attn_implementation="sdpa")
    prompts = prompts_of([14, 12, 12, 9, 3, 1, 5, 12])
    ends = list(range(5, 60))
    found = sample(model, prompts, max_new_tokens=20, ends=ends, temperature=0, batch_size=3)
    assert [s.ids for s in found] == [greedy_by_transformers(model, p, 20, ends) for p in prompts]
    assert len({len(s.ids) for s in found}) > 2


def test_a_cache_that_is_full_moves_to_its_front_or_grows(llama_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_cache, "ROOM", 2)
    model, prompts = loaded(llama_folder), prompts_of([9, 8, 7, 6, 5, 4, 3, 2, 1])
    ends = list(range(5, 40))
    found = sample(model, prompts, max_new_tokens=30, ends=ends, temperature=0, batch_size=2)
    assert [s.ids for s in found] == [greedy_by_transformers(model, p, 30, ends) for p in prompts]


def test_the_model_is_as_it_was_afterwards(llama_folder: str) -> None:
    model = loaded(llama_folder)
    before, during = [p.data_ptr() for p in model.parameters()], []
    model.register_forward_pre_hook(lambda *_: during.append("forward" in vars(model.lm_head)))
    sample(model, [[5, 6]], max_new_tokens=32, ends=[NEVER], temperature=0)
    assert all(during)  # packed meanwhile
    assert [p.data_ptr() for p in model.parameters()] == before
    model(torch.tensor([[5, 6]])).logits.sum().backward()
    assert model.lm_head.weight.grad is not None


def test_nothing_is_computed_after_the_last_token(llama_folder: str) -> None:
    model, calls = loaded(llama_folder), []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    sample(model, [[5, 6]], max_new_tokens=1, ends=[NEVER], temperature=0)
    assert calls == [1]


def test_no_prompts_give_no_samples(llama_folder: str) -> None:
    assert sample(loaded(llama_folder), [], max_new_tokens=4, ends=[1], temperature=0, generator=[]) == []


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_while_sampling_and_the_mode_is_given_back(gpt2_folder: str, training: bool) -> None:
    model = loaded(gpt2_folder)  # its own configuration, with dropout
    model.train(training)
    first, second = (sample(model, [[5, 6]], max_new_tokens=8, ends=[NEVER], temperature=0) for _ in range(2))
    assert first == second and model.training is training


def test_every_end_is_known(qwen2_folder: str, llama_folder: str) -> None:
    model, tokenizer = load_policy(llama_folder, ModelConfig(path=llama_folder))
    chat = ChatFormat(tokenizer)
    assert end_tokens(model, tokenizer, chat) == {tokenizer.eos_token_id, *chat.end_ids}
    model.generation_config.eos_token_id = [40, 41]
    assert end_tokens(model, tokenizer) == {40, 41, tokenizer.eos_token_id}
    model, tokenizer = load_policy(qwen2_folder, ModelConfig(path=qwen2_folder))
    assert end_tokens(model, tokenizer, ChatFormat(tokenizer)) == {tokenizer.eos_token_id}
