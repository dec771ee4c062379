"""Nearness to right answers: values by hand, and those of sacrebleu 2.6.0 and rouge_score 0.1.2 on the same texts."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.text_metrics import chrf, chrf_counts, chrf_score, exact_match, rouge_l, token_f1

METRICS = (exact_match, token_f1, rouge_l, chrf)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
words = st.lists(st.sampled_from("abcd"), max_size=12)


@pytest.mark.parametrize(
    ("text", "answer", "same"),
    [
        ("The Lima!", "lima", 1.0),  # articles, case and punctuation do not count
        ("Lima, Peru", "lima peru", 1.0),
        ("“Lima”", "Lima", 1.0),
        ("北京。", "北京", 1.0),
        ("Lima", "Lima is the capital", 0.0),
        ("an apple", "apple", 1.0),
        ("theory", "ory", 0.0),  # an article is a whole word
    ],
)
def test_exact_match_is_squads(text: str, answer: str, same: float) -> None:
    assert exact_match(text, [answer]) == same


@pytest.mark.parametrize(
    ("text", "answer", "f1"),
    [
        ("the cat sat on the mat", "the cat is on the mat", 3 / 4),  # cat, on, mat of four words each
        ("lima lima lima", "lima", 1 / 2),  # a word counts as often as both have it: precision 1/3, recall 1
        ("我喜欢北京的秋天", "我最喜欢北京的秋天", 16 / 17),  # 8 characters of 8 and 9
        ("", "lima", 0.0),
        ("!", "?", 1.0),  # nothing is left of either
    ],
)
def test_token_f1_is_squads_over_words_and_over_characters_of_chinese(text: str, answer: str, f1: float) -> None:
    assert token_f1(text, [answer]) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("text", "answer", "f1"),
    [
        ("the cat sat on the mat", "the cat is on the mat", 5 / 6),  # rouge_score: 0.833333
        ("Lima", "Lima is the capital of Peru.", 2 / 7),  # rouge_score: 0.285714
        ("I do not know.", "I don't know", 1 / 2),  # rouge_score, which cuts "don't" too: 0.5
        ("police killed the gunman", "police kill the gunman", 3 / 4),  # Lin 2004, section 3.1
        ("the gunman kill police", "police kill the gunman", 1 / 2),  # Lin 2004, section 3.1
        ("我喜欢北京的秋天", "我最喜欢北京的秋天", 16 / 17),
        ("東京タワー", "東京", 4 / 7),
        ("पानी", "पान", 0.0),  # a vowel sign belongs to its word
    ],
)
def test_rouge_l_is_the_f1_of_the_longest_common_subsequence(text: str, answer: str, f1: float) -> None:
    assert rouge_l(text, [answer]) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("text", "answers", "sacrebleu"),
    [
        ("the cat sat on the mat", ["the cat is on the mat"], 64.577942),
        ("Lima", ["Lima is the capital of Peru."], 13.840794),
        ("我喜欢北京的秋天", ["我最喜欢北京的秋天"], 70.940354),
        ("I do not know.", ["I don't know", "Nobody knows."], 47.184478),
        ("Über-Größe 3.14!", ["Über Größe 3,14"], 47.738355),
        ("ab", ["ab c", "abd"], 63.636364),
        ("", ["x"], 0.0),
    ],
)
def test_chrf_is_sacrebleus(text: str, answers: list[str], sacrebleu: float) -> None:
    assert 100 * chrf(text, answers) == pytest.approx(sacrebleu, abs=1e-6)


def test_chrf_of_a_corpus_is_that_of_its_summed_counts() -> None:
    pairs = [
        ("the cat sat on the mat", "the cat is on the mat"),
        ("Lima", "Lima is the capital of Peru."),
        ("a", "a"),
        ("我喜欢北京的秋天", "我最喜欢北京的秋天"),
    ]
    counts = sum(chrf_counts(text, [answer]) for text, answer in pairs)
    assert 100 * chrf_score(counts) == pytest.approx(40.493986, abs=1e-6)  # sacrebleu's corpus_score


@given(texts, st.lists(texts, min_size=1, max_size=3))
def test_every_metric_lies_in_the_unit_interval_and_more_answers_never_lower_it(text: str, answers: list[str]) -> None:
    for metric in METRICS:
        assert 0.0 <= metric(text, answers[:1]) <= metric(text, answers) <= 1.0


@given(texts.filter(str.isalnum))
def test_a_text_that_is_the_answer_gets_one(text: str) -> None:
    for metric in METRICS:
        assert metric(text, ["other", text]) == pytest.approx(1.0)


@given(texts, texts)
def test_exact_match_f1_and_rouge_do_not_care_which_text_is_the_answer(one: str, other: str) -> None:
    for metric in (exact_match, token_f1, rouge_l):
        assert metric(one, [other]) == metric(other, [one])


@given(words, words)
def test_rouge_l_takes_the_longest_common_subsequence(ours: list[str], theirs: list[str]) -> None:
    table = [[0] * (len(theirs) + 1) for _ in range(len(ours) + 1)]
    for i, mine in enumerate(ours):
        for j, yours in enumerate(theirs):
            table[i + 1][j + 1] = table[i][j] + 1 if mine == yours else max(table[i][j + 1], table[i + 1][j])
    f1 = 2 * table[-1][-1] / (len(ours) + len(theirs)) if ours and theirs else 0.0
    assert math.isclose(rouge_l(" ".join(ours), [" ".join(theirs)]), f1)
