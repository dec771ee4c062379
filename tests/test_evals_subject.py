"""How a model under test is asked, and what its responses are measured by."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from evals.intervals import bootstrap_perplexity
from evals.panel import Answers, comparison, estimates, wins
from evals.subject import Response, Subject, batches, windows
from models.chat import Message
from models.errors import ConfigError
from models.layout import Tree

PROMPT = (Message("user", "what is the capital of peru ?"),)


def loaded(folder: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def subject(folder: str) -> Subject:
    return Subject("x", *loaded(folder), max_new_tokens=5)


def test_a_base_model_is_asked_in_plain_text(llama_folder: str) -> None:
    asked = subject(llama_folder)
    ids = asked.prompt_ids(PROMPT)
    assert ids[0] == asked.tokenizer.bos_token_id
    assert asked.tokenizer.decode(ids, skip_special_tokens=True) == "what is the capital of peru ?\n"


def test_a_model_with_a_template_is_asked_through_it(qwen2_folder: str) -> None:
    asked = subject(qwen2_folder)
    shown = asked.tokenizer.decode(asked.prompt_ids(PROMPT))
    assert shown == "<|im_start|>user\nwhat is the capital of peru ?<|im_end|>\n<|im_start|>assistant\n"


def test_the_log_probability_of_a_response_is_that_of_a_plain_forward(any_folder: str) -> None:
    asked = subject(any_folder)
    prompt, answer = [5, 6, 7], [8, 9]
    logits = asked.model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
    expected = logits[2, 8] + logits[3, 9]
    found = asked.logprobs([Response(prompt, answer, "", True), Response([4], [5, 6, 7], "", True)])
    torch.testing.assert_close(found[0], expected.detach(), atol=1e-5, rtol=1e-5)


def test_perplexity_of_documents_weighs_tokens_not_documents() -> None:
    # 2 nats over 1 token and 4 nats over 5 tokens: exp(6 / 6)
    assert bootstrap_perplexity([(2.0, 1), (4.0, 5)]).mean == pytest.approx(math.e)


def test_document_nll_counts_the_end_of_the_document(llama_folder: str) -> None:
    asked = subject(llama_folder)
    [(nll, n)] = asked.document_nll(["the capital"])
    ids = asked.tokenizer("the capital").input_ids
    assert n == len(ids)  # the beginning is no target, the end is one
    whole = torch.tensor([[*ids, asked.tokenizer.eos_token_id]])
    logits = asked.model(whole).logits[0, :-1].log_softmax(-1)
    assert nll == pytest.approx(-logits.gather(1, whole[0, 1:, None]).sum().item(), abs=1e-4)


def answers(gold: list[list[float]], lengths: list[int]) -> Answers:
    return Answers([Response([1], [2] * n, "", True) for n in lengths], torch.tensor(gold), None)


def test_estimates_and_comparisons_are_paired_by_prompt() -> None:
    ours = answers([[1.0, 1.0, 1.0], [0.0, 0.5, 1.0]], [3, 5])
    theirs = answers([[1.0, 0.0, 1.0], [0.0, 0.5, 1.0]], [3, 3])
    assert estimates(ours, None)["gold"]["mean"]["mean"] == pytest.approx(0.75)
    found = comparison(ours, theirs)
    assert found["gold"]["honest"]["mean"] == pytest.approx(0.5)
    assert found["length"]["mean"] == pytest.approx(1.0)
    assert wins(ours, theirs).mean == pytest.approx(0.75)  # one win, one tie


def test_the_loss_of_an_answer_is_that_of_a_plain_forward_over_its_turn_and_its_end(qwen2_folder: str) -> None:
    asked = subject(qwen2_folder)
    [(nll, n)] = asked.answer_nll([PROMPT], ["lima ."])
    start = asked.tokenizer.apply_chat_template(
        [{"role": "user", "content": PROMPT[0].content}], tokenize=False, add_generation_prompt=True
    )
    prompt = asked.tokenizer(start, add_special_tokens=False).input_ids
    answer = asked.tokenizer("lima .<|im_end|>", add_special_tokens=False).input_ids
    logits = asked.model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    assert n == len(answer)
    assert nll == pytest.approx(-logits.gather(1, torch.tensor(answer)[:, None]).sum().item(), abs=1e-4)


@given(st.integers(1, 40), st.integers(1, 90), st.integers(8, 32))
def test_windows_hold_every_token_once_after_what_stands_before_it(n_start: int, n_ids: int, positions: int) -> None:
    whole = list(range(n_start + n_ids))
    done = n_start
    for tree in windows(whole[:n_start], whole[n_start:], positions):
        seen = tree.prompt + tree.responses[0]
        assert len(seen) <= positions and seen == whole[done - len(tree.prompt) : done + len(tree.responses[0])]
        assert done == n_start or len(tree.prompt) >= positions // 2
        done += len(tree.responses[0])
    assert done == len(whole)


def test_a_document_longer_than_the_model_is_measured_to_its_end(gpt2_folder: str) -> None:
    asked = subject(gpt2_folder)  # of 256 learnt positions
    text = "the capital of peru . " * 60
    [(nll, n)] = asked.document_nll([text])
    assert n == len(asked.tokenizer(text).input_ids) + 1 > 256 and math.isfinite(nll) and nll > 0


def test_a_prompt_that_leaves_no_room_loses_its_beginning(gpt2_folder: str) -> None:
    asked = subject(gpt2_folder)
    long = (Message("user", "the capital of peru . " * 60 + PROMPT[0].content),)
    assert not asked.fits(long) and asked.fits(PROMPT)
    [response] = asked.respond([long], temperature=0.0)
    assert response.prompt_ids == asked.prompt_ids(long)[-251:]


def test_more_new_tokens_than_positions_are_refused(gpt2_folder: str) -> None:
    with pytest.raises(ConfigError, match="256"):
        Subject("x", *loaded(gpt2_folder), max_new_tokens=256)


def test_a_forward_takes_so_many_rows_or_tokens() -> None:
    short, long = Tree.of([1], [[2]]), Tree.of([1], [[2] * 5000])
    assert [len(rows) for rows in batches([short] * 130)] == [64, 64, 2]
    assert [len(rows) for rows in batches([short, long, long, short])] == [2, 2]
