"""ROUGE-L against values from hand and against the table of the definition."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from models.rouge import closest, rouge_l, words

SHORT = st.lists(st.sampled_from("abcde"), max_size=12)


def by_table(one: list[str], other: list[str]) -> float:
    """The F-measure of the longest common subsequence, by the textbook's table."""
    row = [0] * (len(other) + 1)
    for word in one:
        before, row = row, [0]
        for i, against in enumerate(other):
            row.append(before[i] + 1 if word == against else max(before[i + 1], row[i]))
    return 2 * row[-1] / (len(one) + len(other)) if row[-1] else 0.0


@given(SHORT, SHORT)
def test_rouge_l_is_that_of_the_definition(one: list[str], other: list[str]) -> None:
    assert rouge_l(one, other) == by_table(one, other) == rouge_l(other, one)


def test_lins_example() -> None:
    """police killed the gunman / police kill the gunman: three of four words in order (Lin 2004, section 3)."""
    assert rouge_l("police killed the gunman".split(), "police kill the gunman".split()) == 0.75
    assert rouge_l("police killed the gunman".split(), "the gunman kill police".split()) == 0.5


@given(SHORT, st.lists(SHORT, max_size=5), st.sampled_from([0.0, 0.3, 0.7, 1.0]))
def test_the_closest_is_the_largest_above_the_threshold(one: list[str], others: list[list[str]], above: float) -> None:
    largest = max((by_table(one, other) for other in others), default=0.0)
    assert closest(one, others, above) == (largest if largest > above else 0.0)


def test_words_know_neither_case_nor_punctuation_nor_width() -> None:
    assert words("Ｗhat's 3 + 4, über_all?") == ["what", "s", "3", "4", "über", "all"]


def test_scripts_without_spaces_count_a_word_a_character() -> None:
    assert words("你好 world日本") == ["你", "好", "world", "日", "本"]
