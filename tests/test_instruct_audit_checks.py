"""Claims about what the audit marks in texts: planted faults are found with their lines, sound rows are left alone."""

from __future__ import annotations

import statistics
import time

import pytest
from audited import asked, audited, marked, source
from hypothesis import given
from hypothesis import strategies as st

from instruct.audit.checks import distinct
from instruct.audit.clusters import clusters, effective_number
from instruct.audit.completeness import broken_off
from instruct.audit.conciseness import repetition
from instruct.audit.language import language_of
from instruct.audit.outliers import high_outliers, lowest
from instruct.audit.texts import joined, tokens, words
from instruct.audit.toxicity import listed_words, toxicity
from models.errors import ConfigError

LONG = "Rivers carry water from the mountains to the sea. On their way they shape valleys and feed the fields around"
SOUND = [
    asked("Name a colour.", "Blue"),
    asked("How do rivers shape the land?", f"{LONG} them."),
    asked("List three fruits.", "1. Apple\n2. Pear\n3. Plum"),
    asked("Write a tweet about spring.", "The sun is out. Go and see the first flowers today! #spring"),
    asked("Quote somebody on work.", '"Well begun is half done. Ill begun is not begun at all." - Aristotle the Greek'),
    asked("Add 2 and 2.", "2 + 2 = 4"),
    asked("Show a loop.", "```python\nfor i in range(3):\n    print(i)\n```"),
    asked("水为什么重要？", "水是生命之源，人体的大部分由水组成。没有水，人类无法生存。"),
]


def test_sound_rows_get_no_mark() -> None:
    found = audited(SOUND)
    assert {name: marks for name, marks in found.marks.items() if marks} == {}


def test_duplicates_are_equal_up_to_case_spacing_and_width_and_name_the_first() -> None:
    rows = [*SOUND, asked("name  a COLOUR.", "ｂlue"), asked("Name a colour.", "Blue")]
    found = audited(rows)
    assert marked(found, "duplicate") == [9, 10]
    assert list(found.marked_rows("duplicate").values()) == ["repeats line 1", "repeats line 1"]
    assert marked(found, "near_duplicate") == [] == marked(found, "inconsistent")


def test_near_duplicates_differ_in_few_words() -> None:
    rows = [asked("Tell me about rivers.", f"{LONG} them."), *SOUND, asked("Tell me about rivers.", f"{LONG} it.")]
    assert marked(audited(rows), "near_duplicate") == [10]


def test_a_sum_with_other_numbers_is_no_near_duplicate() -> None:
    rows = [asked(f"What is {i} + {i}?", f"{i} + {i} = {2 * i}") for i in range(30)]
    assert marked(audited(rows), "near_duplicate") == []


def test_one_prompt_with_two_answers_marks_all_its_rows_and_names_the_others() -> None:
    rows = [asked("Capital of Peru?", "Lima"), asked("Capital of Chad?", "Lima"), asked("capital of peru?", "Cusco")]
    found = audited([*rows, asked("Capital of Peru?", "Lima", given="please")])
    assert found.marked_rows("inconsistent") == {0: "line 3 answers otherwise", 2: "line 1 answers otherwise"}


def test_an_id_that_stands_twice_is_marked() -> None:
    rows = [asked(f"Question {i}?", f"Answer {i}", id=name) for i, name in enumerate(["a", "b", "a", 7, 7])]
    assert marked(audited(rows), "duplicate_id") == [3, 5]


def test_instances_of_one_row_do_not_repeat_each_other() -> None:
    instance = {"input": "", "output": "Blue"}
    found = source([{"instruction": "Name a colour.", "instances": [instance, instance]}] * 2, "self_instruct")
    assert [item.row for item in found.items] == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (LONG, "ends mid-sentence"),
        (f"{LONG} them, which is why people have always lived close to the", "ends mid-sentence"),
        ("Rivers carry water from the mountains to the sea, to lakes,", "ends with ,"),
        ("Steps:\n1. Wash.\n2.", "empty list item: 2."),
        ("Like this:\n```python\nprint(1)\n", "code block not closed"),
        ("N/A", "says nothing"),
        ("<nooutput>", "says nothing"),
        ("...", "says nothing"),
        ("N/A.", "says nothing"),
        ("他获得了很多奖项，受到了大家的喜爱。在这一年里，他带领球队获得了美洲杯的亚军，并在202", "ends mid-sentence"),
        ("爵士乐有很多元素。其中最为常见的乐器有萨克斯、小号、", "ends with 、"),
    ],
)
def test_an_answer_that_breaks_off_is_incomplete(answer: str, why: str) -> None:
    assert (broken_off(answer) or "").startswith(why)


@pytest.mark.parametrize("answer", ["😀 🎉", "4", "-1", "Nanny McPhee", "Null Island lies in the sea"])
def test_a_short_answer_is_complete(answer: str) -> None:
    assert broken_off(answer) is None


AWKWARD = ["-" * 200_000 + "x", "汉" * 200_000, '" -' * 60_000, "{{a " * 50_000, "[your " * 30_000, "```\na\n" * 30_000]


@pytest.mark.parametrize("answer", AWKWARD)
def test_a_long_awkward_answer_takes_no_longer_than_its_length(answer: str) -> None:
    started = time.process_time()
    audited([asked("What?", answer), asked("What?", f"{answer} b")])
    assert time.process_time() - started < 10


@pytest.mark.parametrize("text", ["Hello, I am {{name}}.", "Yours, [Your Name]", "<insert date here>", "Lorem ipsum"])
def test_blanks_are_placeholders_wherever_they_stand(text: str) -> None:
    found = audited([*SOUND, asked(text, "Fine."), asked("Write.", text)])
    assert marked(found, "placeholder") == [9, 10]


def test_the_answer_that_is_far_longer_than_those_to_similar_instructions_is_verbose() -> None:
    rows = [asked(f"What is the capital of country number {i}?", f"It is city {i}") for i in range(30)]
    rows[4] = asked("What is the capital of country number 4?", " ".join(f"word{i}" for i in range(300)))
    found = audited(rows)
    assert marked(found, "verbose") == [5]
    rows[4]["input"] = " ".join(f"given{i}" for i in range(400))  # a long answer to a long text is none
    assert marked(audited(rows), "verbose") == []


def test_an_answer_that_says_the_same_again_and_again_is_repetitive() -> None:
    found = audited([*SOUND, asked("Cheer!", "we will win this game " * 10)])
    assert marked(found, "repetitive") == [9]
    assert repetition("a b c d a b c d a b c d".split()) == pytest.approx(5 / 9)  # 9 runs, 4 of them different


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("The cat sat on the mat and looked at you.", "en"),
        ("Der Hund ist auf dem Weg und sieht die Katze nicht.", "de"),
        ("Le chat est sur la table et il ne voit pas les enfants.", "fr"),
        ("El perro está en la casa y no come las manzanas.", "es"),
        ("Il gatto è sulla tavola e non vede gli amici della nonna.", "it"),
        ("O gato não está em casa, mas o cachorro come uma maçã.", "pt"),
        ("De kat is niet in het huis en ziet de hond van de buren.", "nl"),
        ("Kot nie jest w domu i czy to są jego dzieci, które się śmieją?", "pl"),
        ("Katten är inte i huset och det är för att hunden kom.", "sv"),
        ("水是生命之源。", "zh"),
        ("これは猫です。名前はまだない。", "ja"),
        ("고양이가 집에 있습니다.", "ko"),
        ("Кошка сидит на столе.", "ru"),
        ("Кішка сидить на столі, її їжа тут.", "uk"),
        ("القط يجلس على الطاولة.", "ar"),
        ("Η γάτα κάθεται στο τραπέζι.", "el"),
        ("बिल्ली मेज पर बैठी है।", "hi"),
        ("42 + 7 = 49", "unknown"),
        ("```python\nfor the in of: and\n```\n水是生命之源。", "zh"),
    ],
)
def test_the_language_is_guessed_from_script_and_frequent_words(text: str, code: str) -> None:
    assert language_of(text) == code


def test_an_answer_in_another_language_than_its_prompt_is_marked() -> None:
    found = audited([*SOUND, asked("Where is the cat of the house?", "El gato está en la casa de la abuela.")])
    assert found.marks["language_switch"] == {8: "asked in en, answered in es"}


def test_listed_words_count_as_words_alone() -> None:
    assert listed_words(["Scunthorpe has a bitchless charm", "you bastard", "fuck this shit"]) == [0.0, 0.5, 0.75]


@pytest.mark.parametrize("scores", [[0.1], [0.1, float("nan")], ["high", "low"]])
def test_a_scorer_that_answers_something_else_is_refused(scores: list[object]) -> None:
    with pytest.raises(ConfigError, match="toxicity"):
        toxicity(source(SOUND[:2]).items, lambda texts: scores)


QUESTION = "A train leaves the station at noon and travels ninety miles in two hours; how fast is it going on average?"


def test_rows_that_hold_most_of_an_evaluation_prompt_are_contaminated() -> None:
    held = asked("Solve: " + QUESTION.upper().replace(";", " -"), "45 miles per hour.")
    half = asked(QUESTION[:40], "That depends.")
    answered = asked("Make up a question.", QUESTION)
    found = audited([*SOUND, held, half, answered], against=[{"prompt": "Who?"}, {"prompt": QUESTION}])
    assert marked(found, "contaminated") == [9, 11]
    assert found.marks["contaminated"][8] == "100% of questions.jsonl:2"


def test_a_short_evaluation_prompt_counts_where_it_is_the_whole_turn() -> None:
    rows = [asked("Who are you?", "A model."), asked("Who are you, and what do you like?", "A model.")]
    assert marked(audited(rows, against=[{"question": "who are YOU"}]), "contaminated") == [1]


def test_text_without_spaces_is_compared_by_characters() -> None:
    question = "请解释为什么水对人类的生存和发展至关重要，并举例说明水的三种用途"
    rows = [asked(f"问题：{question}？", "因为……"), asked("为什么水对人类的生存至关重要？", "因为……")]
    assert marked(audited(rows, against=[{"prompt": question}]), "contaminated") == [1]


def test_clusters_part_topics_and_name_their_words() -> None:
    texts = [f"translate sentence number {n} into french".split() for n in "one two three four five six".split()]
    texts += [f"bake a cake with {n} eggs".split() for n in "one two three four five six".split()]
    found = clusters(texts)
    assert sorted(map(sorted, (c.members for c in found))) == [list(range(6)), list(range(6, 12))]
    assert any("french" in word or "translate" in word for word in found[0].words)


@given(st.lists(st.lists(st.sampled_from("abcdef"), max_size=6), min_size=1, max_size=40))
def test_every_text_is_in_one_cluster(texts: list[list[str]]) -> None:
    assert sorted(i for cluster in clusters(texts) for i in cluster.members) == list(range(len(texts)))


def test_the_effective_number_is_that_of_equal_clusters_and_less_of_unequal_ones() -> None:
    assert effective_number([5, 5, 5, 5]) == pytest.approx(4)
    assert 1 < effective_number([97, 1, 1, 1]) < 1.3


def test_distinct_n_counts_different_runs_over_all() -> None:
    assert distinct(["a b a b".split(), "a b".split()], 2) == 2 / 4
    assert distinct([["a"]], 2) == 0.0


def test_a_modified_z_score_by_hand() -> None:
    values = [1.0, 2.0, 3.0, 4.0, 100.0]  # median 3, distances 2 1 0 1 97, MAD 1
    assert 0.6745 * (100 - 3) / 1 > 3.5 > 0.6745 * (4 - 3) / 1
    assert high_outliers(values, 3.5) == [4]
    assert high_outliers([None, *values], 3.5) == [5]
    assert high_outliers([1.0] * 9 + [2.0], 3.5) == [9] and statistics.median([1.0] * 9 + [2.0]) == 1.0
    assert high_outliers([5.0] * 10, 3.5) == []


def test_the_lowest_share_is_rounded_down() -> None:
    assert lowest([3.0, None, 1.0, 2.0, 0.0], 0.5) == [2, 4]
    assert lowest([3.0, 1.0], 0.02) == []


def test_words_of_any_script() -> None:
    assert words("Don't panic, É.T.!") == ["don't", "panic", "é", "t"]
    assert words("用Python写") == ["用", "python", "写"]
    assert words("हिन्दी") == ["हिन्दी"]
    assert tokens("2+2=4") == ["2", "+", "2", "=", "4"]
    assert joined(words("用 Python 写代码")) == "用 python 写代码"
