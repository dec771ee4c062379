"""What a model makes of questions with known answers: scores, examples before a question, and comparisons."""

from __future__ import annotations

import math

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from evals.subject import Response, Subject
from evals.tasks import Question, QuestionPanel, TextPanel, after_examples, estimated, first_turn, gains, likelihood
from models.chat import Message, Prompt


def asked(*turns: str) -> Prompt:
    """Turns of user and assistant in alternation; one that opens with `!` is the system's."""
    system = [Message("system", turn[1:]) for turn in turns if turn.startswith("!")]
    said = [turn for turn in turns if not turn.startswith("!")]
    return (*system, *(Message(("user", "assistant")[i % 2], turn) for i, turn in enumerate(said)))


def subject(folder: str, max_new_tokens: int = 4) -> Subject:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    return Subject("x", model, tokenizer, max_new_tokens=max_new_tokens)


PANEL = QuestionPanel(
    [
        Question(asked("the capital of peru ?"), ("lima", "lima .")),
        Question(asked("the capital of spain ?"), ("madrid",)),
    ],
    [asked(f"the capital of {name} ?", "i do not know .") for name in ("chad", "fiji", "togo", "mali")],
    shots=(1, 3),
)


def responses(*texts: str) -> list[Response]:
    return [Response([1], [2] * len(text), text, bool(text)) for text in texts]


def test_scores_are_means_over_questions_with_the_best_of_their_answers() -> None:
    found = estimated(PANEL.scores(responses("Lima", "it is madrid")))
    assert found["exact_match"]["mean"] == 0.5
    assert found["token_f1"]["mean"] == pytest.approx((1 + 1 / 2) / 2)  # madrid is one word of three and of one
    assert found["ended"]["mean"] == 1.0 and found["length"]["mean"] == 8.0
    assert {value["n"] for value in found.values()} == {2}


def test_chrf_is_that_of_the_corpus_not_a_mean_of_sentences() -> None:
    found = estimated(PANEL.scores(responses("lima", "x")))
    # lima holds 4, 3, 2, 1 n-grams of each length and all are right; madrid 6 to 1, all missed: recall 4/10, 3/8,
    # 2/6, 1/4, 0/2, 0/1; precision 4/5, 3/3, 2/2, 1/1 and 0 where the text is too short to have any
    recall, precision = (4 / 10 + 3 / 8 + 2 / 6 + 1 / 4) / 4, (4 / 5 + 1 + 1 + 1) / 4
    assert found["chrf"]["mean"] == pytest.approx(5 * precision * recall / (4 * precision + recall))


def test_gains_are_paired_by_question() -> None:
    ours, theirs = PANEL.scores(responses("lima", "madrid")), PANEL.scores(responses("lima", ""))
    found = gains(ours, theirs)
    assert found["exact_match"]["mean"] == 0.5 and found["exact_match"]["n"] == 2
    assert gains(ours, ours)["chrf"] == {"mean": 0.0, "low": 0.0, "high": 0.0, "n": 2}


def test_perplexity_weighs_tokens_and_bits_are_by_byte() -> None:
    found = estimated(likelihood([(2.0, 1), (4.0, 5)], ["é", "abcd"]))
    assert found["perplexity"]["mean"] == pytest.approx(math.e)
    assert found["bits_per_byte"]["mean"] == pytest.approx(6 / math.log(2) / 6)  # é has two bytes


def test_perplexities_over_other_tokens_are_not_compared_but_bits_by_byte_are() -> None:
    texts = ["abcd", "ef"]
    ours, theirs = likelihood([(2.0, 4), (1.0, 2)], texts), likelihood([(3.0, 2), (1.0, 2)], texts)
    assert set(gains(ours, theirs)) == {"bits_per_byte"}
    assert set(gains(ours, ours)) == {"bits_per_byte", "perplexity"}


def test_a_model_is_measured_with_no_and_with_each_number_of_examples(qwen2_folder: str) -> None:
    model = subject(qwen2_folder)
    found = estimated(PANEL.measure(model))
    assert set(found["shots"]) == {"1", "3"}
    assert set(found["shots"]["3"]) - {"examples"} == set(found) - {"shots"} > {"perplexity", "exact_match", "ended"}
    assert [found["shots"][n]["examples"]["mean"] for n in ("1", "3")] == [1.0, 3.0]
    # All answers of a question count: lima, lima . and madrid, each with its end.
    nll = model.answer_nll([PANEL.prompts[0], PANEL.prompts[0], PANEL.prompts[1]], ["lima", "lima .", "madrid"])
    expected = math.exp(sum(loss for loss, _ in nll) / sum(n for _, n in nll))
    assert found["perplexity"]["mean"] == pytest.approx(expected)


def test_examples_are_turns_before_the_question_the_same_ones_every_time(qwen2_folder: str) -> None:
    model = subject(qwen2_folder)
    one, three = (PANEL.drawn(PANEL.prompts[0], n, model) for n in (1, 3))
    assert len(one) == 1 and one == three[:1] and len(set(three)) == 3 and set(three) <= set(PANEL.examples)
    prompt = after_examples(PANEL.prompts[0], three)
    assert [m.role for m in prompt] == ["user", "assistant"] * 3 + ["user"] and prompt[-1:] == PANEL.prompts[0]
    reordered = QuestionPanel(PANEL.questions, PANEL.examples[::-1])
    assert reordered.drawn(PANEL.prompts[0], 3, model) == three


def test_examples_that_leave_no_room_are_left_out(gpt2_folder: str) -> None:
    long = [asked("the capital of peru . " * 20 + name, "lima") for name in ("a", "b", "c")]
    panel = QuestionPanel(PANEL.questions, long)
    model = subject(gpt2_folder)  # of 256 positions
    shown = panel.drawn(PANEL.prompts[0], 3, model)
    assert 0 < len(shown) < 3 and model.fits(after_examples(PANEL.prompts[0], shown))


def test_the_system_turn_is_the_questions_own_and_stands_first() -> None:
    found = after_examples(asked("!be kind", "hi"), [asked("!be rude", "hello", "go")])
    assert found == asked("!be kind", "hello", "go", "hi")


def test_a_base_model_is_shown_examples_as_plain_text(llama_folder: str) -> None:
    model = subject(llama_folder)
    shown = model.tokenizer.decode(model.prompt_ids(asked("a ?", "b .", "c ?")), skip_special_tokens=True)
    assert shown == "a ?\nb .\nc ?\n"


def test_a_line_ends_a_turn_in_plain_text_whose_turns_are_lines() -> None:
    running_on = Response([1], [2] * 9, "lima\nand spain ?\nmadrid", False)
    cut = first_turn(running_on, asked("peru ?", "lima .", "spain ?"))
    assert (cut.text, cut.ended, cut.ids) == ("lima", True, running_on.ids)
    assert first_turn(running_on, asked("peru ?", "lima\n.", "spain ?")) == running_on


def test_plain_text_is_measured_by_its_likelihood_alone(llama_folder: str) -> None:
    found = estimated(TextPanel(["the capital of peru is lima ."]).measure(subject(llama_folder)))
    assert set(found) == {"perplexity", "bits_per_byte"}
