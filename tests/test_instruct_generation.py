"""The parts of machine generation: what a reply is read as, what is screened, and what a journal survives."""

from __future__ import annotations

import json
import resource
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct.generation.asking import Asking
from instruct.generation.journal import Journal
from instruct.generation.methods import alone, instance, without_thoughts
from instruct.generation.requests import Failure, Receive, Reply, Request
from instruct.generation.screen import Dropped, FilterConfig, Screen, refuses, repetition
from instruct.language import language
from models.errors import ResourceError, Unavailable
from models.rouge import words


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ("Name a river.", "Name a river."),
        ('"Name a river."', "Name a river."),
        ("“Name a river.”\n", "Name a river."),
        ("#Rewritten Prompt#: Name a river.", "Name a river."),
        ("**New instruction:** Name a river.", "Name a river."),
        ("<think>\nHm. A river?\n</think>\n\nName a river.", "Name a river."),
        ('"Yes" or "No"?', '"Yes" or "No"?'),
        ("Task: ", ""),
        ("The task of today: sleep", "The task of today: sleep"),
    ],
)
def test_a_text_stands_alone_without_label_quotes_and_thoughts(reply: str, text: str) -> None:
    assert alone(reply) == text


def test_thoughts_within_an_answer_are_part_of_it() -> None:
    assert without_thoughts("Write <think>x</think> first.") == "Write <think>x</think> first."


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ("Input: 3 + 4\nOutput: 7", ("3 + 4", "7")),
        ("input: none\noutput: 7", ("", "7")),
        ("**Input:** N/A\n\n**Output:**\nOne.\n\nTwo.", ("", "One.\n\nTwo.")),
        ("Input:\na\nb\nOutput: c\nOutput: d", ("a\nb", "c\nOutput: d")),
    ],
)
def test_input_and_output_are_told_apart(reply: str, found: tuple[str, str]) -> None:
    assert instance(reply) == found


@pytest.mark.parametrize("reply", ["7", "Output: 7", "Input: 3", "Input: 3\nOutput:", ""])
def test_a_reply_in_another_form_is_dropped(reply: str) -> None:
    with pytest.raises(Dropped, match="form"):
        instance(reply)


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I am sorry, I cannot help with that.",
        "Sorry, I am unable to do this.",
        "I cannot provide this list.",
        "I’m sorry, but as an AI made by people, I can’t say.",
        "I'm afraid I can't do that.",
        "Unfortunately, I won't help with it.",
        "As an AI language model, I have no body.",
        "Es tut mir leid, das geht nicht.",
        "抱歉，我不能这样做。",
    ],
)
def test_refusals_are_known_by_their_opening(text: str) -> None:
    assert refuses(text)


@pytest.mark.parametrize(
    "text",
    [
        "I can help with that.",
        "Write to her: I am sorry that you are ill.",
        "She said: I cannot help with that.",
        "I cannot wait to see you again, dear Ann.",
        "As an aid to memory, repeat it.",
        "Sorry for the delay; the parcel has left.",
        "I'm sorry that you do not feel well.",
        "I am sorry to hear it. You can not only rest but also drink tea.",
    ],
)
def test_other_openings_are_no_refusals(text: str) -> None:
    assert not refuses(text)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("What is the name of the river that runs by it?", "en"),
        ("Wie heißt der Fluss, der durch das Land fließt?", "de"),
        ("Quel est le nom de la rivière qui coule dans ce pays ?", "fr"),
        ("¿Cuál es el nombre del río que pasa por la ciudad y los campos?", "es"),
        ("这条河叫什么名字？", "zh"),
        ("この川の名前は何ですか。", "ja"),
        ("이 강의 이름은 무엇입니까?", "ko"),
        ("Как называется эта река?", "ru"),
        ("ما اسم هذا النهر؟", "ar"),
        ("lima 7", "unknown"),
        ("", "unknown"),
    ],
)
def test_the_language_is_told_by_script_and_frequent_words(text: str, code: str) -> None:
    assert language(words(text)) == code


def test_repetition_is_the_share_of_runs_that_stood_before() -> None:
    """abcd abcd abcd: nine runs of four, of which abcd, bcda, cdab and dabc are new."""
    assert repetition("a b c d a b c d a b c d".split()) == 5 / 9
    assert repetition("a b c d e".split()) == repetition(["a"]) == 0


@pytest.mark.parametrize(
    ("filters", "text", "reason"),
    [
        ({}, "Explain the tides of the sea.", None),
        ({}, "Draw the tides of the sea.", "holds a keyword"),
        ({"keywords": ["tides"]}, "Explain the tides of the sea.", "holds a keyword"),
        ({"keywords": []}, "Draw the tides of the sea.", None),
        ({}, "Explain the drawing of the sea.", None),
        ({"min_words": 7}, "Explain the tides of the sea.", "too short"),
        ({}, "Name five of the rivers of Peru.", "near-duplicate of a seed"),
        ({"max_similarity": 1}, "Name five of the rivers of Peru.", None),
        ({"languages": ["de", "fr"]}, "What is the cause of the tides?", "in another language"),
        ({"languages": ["de"]}, "Ebbe, Flut, Nippflut, Springflut!", None),
    ],
)
def test_an_instruction_is_screened(filters: dict[str, Any], text: str, reason: str | None) -> None:
    screen = Screen(FilterConfig(**filters), ["Name five rivers of Peru."], keywords=["draw"])
    if reason is None:
        screen.instruction(text)
    else:
        with pytest.raises(Dropped, match=reason):
            screen.instruction(text)


def test_what_passed_stands_in_the_way_of_its_like_but_not_of_what_is_made_from_it() -> None:
    screen = Screen(FilterConfig(), [])
    screen.instruction("Explain the tides of the sea.")
    screen.instruction("Explain the tides of the sea now.", own_seed="Explain the tides of the sea.")
    with pytest.raises(Dropped, match="another"):
        screen.instruction("Explain the tides of the sea well.")


def test_refusals_are_kept_where_they_are_wanted() -> None:
    refusal = "I am sorry, I cannot help with that."
    Screen(FilterConfig(refusals="keep"), []).reply(refusal)
    with pytest.raises(Dropped, match="refuses"):
        Screen(FilterConfig(), []).reply(refusal)


# --- the journal ------------------------------------------------------------------------------------------------------

ENTRIES = st.lists(st.text(st.characters(exclude_categories=())), min_size=1, max_size=5)  # halves of characters too


@given(texts=ENTRIES, cut=st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_a_journal_cut_anywhere_keeps_every_whole_entry(
    texts: list[str], cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("journal") / "replies.jsonl"
    journal, ends = Journal(path), []
    for number, text in enumerate(texts):
        journal.add({"key": str(number), "text": text})
        ends.append(path.stat().st_size)
    length = cut % (ends[-1] + 1)
    path.write_bytes(path.read_bytes()[:length])
    again, n = Journal(path), sum(end - 1 <= length for end in ends)  # the line end may be missing
    assert [again.get(str(number)) for number in range(len(texts))] == [
        {"key": str(number), "text": text} if number < n else None for number, text in enumerate(texts)
    ]
    again.add({"key": "new", "text": ""})
    assert len(Journal(path)) == n + 1


def test_a_disk_that_is_full_ends_with_a_clear_error_and_no_half_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "replies.jsonl")
    journal.add({"key": "a"})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        with pytest.raises(ResourceError, match=r"replies\.jsonl: cannot be written"):
            journal.add({"key": "b", "text": "x" * 1000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    journal.add({"key": "c"})
    assert journal.path.read_text() == '{"key": "a"}\n{"key": "c"}\n'


def test_many_threads_write_whole_lines(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "replies.jsonl")
    threads = [
        threading.Thread(target=lambda i=i: [journal.add({"key": f"{i} {j}"}) for j in range(10)]) for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(Journal(journal.path)) == 80


class Scripted:
    """A teacher whose answers are given; it keeps what it was asked."""

    name, identity = "scripted", {"who": "scripted"}

    def __init__(self, *answers: Reply | Failure) -> None:
        self.answers, self.asked = list(answers), []

    def answer(self, requests: Any, receive: Receive, stop: threading.Event) -> None:
        for request in requests:
            if stop.is_set():
                return
            self.asked.append(request.text)
            receive(request, self.answers.pop(0))


YES, NO = Reply("yes", True, "2026-01-01T00:00:00Z"), Failure("no")
ABC = [Request(text, text) for text in "abc"]


def asking(folder: Path, teacher: Scripted, patience: int = 2) -> Asking:
    return Asking(teacher, Journal(folder / "replies.jsonl"), Journal(folder / "failed.jsonl"), patience)


def test_a_reply_is_on_the_disk_before_the_next_is_asked_for(tmp_path: Path) -> None:
    seen = []

    class Watching(Scripted):
        def answer(self, requests: Any, receive: Receive, stop: threading.Event) -> None:
            for request in requests:
                receive(request, YES)
                seen.append(len((tmp_path / "replies.jsonl").read_bytes().splitlines()))

    asking(tmp_path, Watching()).ask(ABC)
    assert seen == [1, 2, 3]


def test_an_answer_ends_a_row_of_failures(tmp_path: Path) -> None:
    teacher = Scripted(NO, YES, NO)
    assert asking(tmp_path, teacher).ask(ABC) == [NO, YES, NO]


def test_failures_in_a_row_end_the_run_and_settle_nothing(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="2 requests in a row"):
        asking(tmp_path, Scripted(NO, NO, YES)).ask(ABC)
    teacher = Scripted(YES, YES, YES)
    assert asking(tmp_path, teacher).ask(ABC) == [YES] * 3 and teacher.asked == ["a", "b", "c"]


def test_a_row_of_failures_goes_on_from_one_round_to_the_next(tmp_path: Path) -> None:
    ask = asking(tmp_path, Scripted(YES, NO, NO)).ask
    ask(ABC[:2])
    with pytest.raises(Unavailable):
        ask(ABC[2:])


def test_the_journal_says_what_was_asked_and_what_came(tmp_path: Path) -> None:
    asking(tmp_path, Scripted(YES)).ask(ABC[:1])
    entry = json.loads((tmp_path / "replies.jsonl").read_text())
    assert (entry["asked"], entry["text"], entry["time"]) == ("a", "yes", YES.time)
