"""Claims about templates: rows of a task table become instructions, in several wordings, and documents stand before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instruct.prompts import PromptData, read_prompts
from instruct.readers import InstructionData, read_instructions
from instruct.templates import LIBRARY, as_text, document_template, fields_of, filled, task_template
from models.errors import BadRow, ConfigError

ROWS: dict[str, dict[str, Any]] = {
    "translation": {"source": "chat", "target": "cat", "source_language": "French", "target_language": "English"},
    "question_answering": {"passage": "Lima is in Peru.", "question": "Where is Lima?", "answer": "in Peru"},
    "summarisation": {"text": "A long story.", "summary": "A story."},
    "sentiment": {"text": "Great!", "label": 1},
    "classification": {"text": "The cup final.", "label": "sport"},
    "code": {"description": "Add two numbers.", "code": "a + b", "language": "Python"},
}
ANSWERS = ("cat", "in Peru", "A story.", "positive", "sport", "a + b")


def saved(folder: Path, *rows: Any) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def asked(folder: Path, *rows: Any, **options: Any) -> list[tuple[str, str]]:
    data = InstructionData(path=saved(folder, *rows), eval_fraction=0.0, **options)
    return [(x.messages[0].content, x.messages[-1].content) for x in read_instructions(data).train]


@pytest.mark.parametrize(("name", "answer"), zip(ROWS, ANSWERS, strict=True))
def test_each_template_of_the_library_asks_and_answers(tmp_path: Path, name: str, answer: str) -> None:
    [(prompt, said)] = asked(tmp_path, ROWS[name], format="task", template=name)
    assert said == answer and "{" not in prompt
    assert any(str(value) in prompt for key, value in ROWS[name].items() if key != "label")


def test_every_template_of_the_library_has_several_wordings_and_an_example_here() -> None:
    names = {path.stem for path in LIBRARY.glob("*.yaml")} - {"documents"}
    assert names == set(ROWS)
    assert all(len(task_template(name, {}).prompts) >= 4 for name in names)


def test_rows_come_in_several_wordings_that_added_rows_do_not_change(tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "summary": "s"} for i in range(60)]
    found = asked(tmp_path, *rows, format="task", template="summarisation")
    wordings = {prompt.replace(f"text {i}", "") for i, (prompt, _) in enumerate(found)}
    assert len(wordings) == len(task_template("summarisation", {}).prompts)
    again = asked(tmp_path, {"text": "new", "summary": "s"}, *rows[::-1], format="task", template="summarisation")
    assert again[:0:-1] == found


def test_the_wording_that_uses_most_of_the_row_is_chosen(tmp_path: Path) -> None:
    with_passage = ROWS["question_answering"]
    without = {k: v for k, v in with_passage.items() if k != "passage"}
    found = asked(tmp_path, with_passage, without, format="task", template="question_answering")
    assert "Lima is in Peru." in found[0][0] and "Lima is in Peru." not in found[1][0]


def test_columns_may_be_nested_and_constants_are_shared(tmp_path: Path) -> None:
    row = {"translation": {"fr": "chat", "en": "cat"}, "answers": {"text": ["one", "two"]}}
    options = {
        "columns": {"source": "translation.fr", "target": "answers.text.1"},
        "constants": {"source_language": "French", "target_language": "English"},
    }
    [(prompt, said)] = asked(tmp_path, row, format="task", template="translation", **options)
    assert "chat" in prompt and "English" in prompt and said == "two"


def test_labels_name_the_values_and_are_the_choices(tmp_path: Path) -> None:
    rows = [{"text": "x", "label": value} for value in (0, 2, "2")]
    labels = {"0": "bad", "1": "fair", "2": "good"}
    found = asked(tmp_path, *rows, format="task", template="sentiment", labels=labels)
    assert [said for _, said in found] == ["bad", "good", "good"]
    assert all("bad, fair or good" in prompt for prompt, _ in found)


def test_a_users_own_template_is_a_file(tmp_path: Path) -> None:
    own = tmp_path / "mine.yaml"
    own.write_text('task: rhyme\nprompts: ["What rhymes with {word}?"]\nanswer: "{rhyme}"\n')
    assert asked(tmp_path, {"word": "cat", "rhyme": "hat"}, format="task", template=str(own)) == [
        ("What rhymes with cat?", "hat")
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("task: [", "not YAML"),
        ("task: x\nprompts: [a]", "expected the keys task, prompts, answer"),
        ("task: x\nprompts: a\nanswer: b", "prompts: expected a list"),
        ("task: x\nprompts: [a]\nanswer: b\nanwser: c", "expected the keys"),
        (None, "not one of the library (classification, code"),
    ],
)
def test_a_broken_template_is_refused_with_its_place(tmp_path: Path, content: str | None, said: str) -> None:
    path = tmp_path / "broken.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        asked(tmp_path, {"a": "b"}, format="task", template=str(path))
    assert str(path) in str(caught.value) and said in str(caught.value)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"source": "chat"}, "target: expected the target of the template"),
        ({"source": "chat", "target": " "}, "target: expected the target"),
        ({"target": "cat"}, "source: expected the source of the template"),
    ],
)
def test_a_row_that_lacks_a_field_of_the_template_is_named(tmp_path: Path, row: Any, said: str) -> None:
    with pytest.raises(BadRow, match=rf"rows\.jsonl:1:{said}"):
        asked(tmp_path, row, format="task", template="translation")


def test_options_of_templates_are_refused_elsewhere() -> None:
    with pytest.raises(ConfigError, match=r"belongs to data\.format=task"):
        InstructionData(path="x", format="alpaca", template="sentiment")
    with pytest.raises(ConfigError, match=r"belongs to data\.format=task"):
        InstructionData(path="x", format="task")
    with pytest.raises(ConfigError, match=r"data\.labels: read by data\.format=task alone"):
        InstructionData(path="x", format="alpaca", labels={"0": "a"})


@given(st.text(), st.text())
def test_braces_in_a_value_are_text(first: str, second: str) -> None:
    assert filled("{a}|{b}", {"a": first, "b": second}) == f"{first}|{second}"
    assert fields_of("{a} {b_2} {} {c d}") == ["a", "b_2"]


def test_values_are_said_as_people_write_them() -> None:
    assert [as_text(v) for v in (True, 3, 2.5, "x", ["a", False])] == ["true", "3", "2.5", "x", "- a\n- false"]


# --- documents --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "row"),
    [
        ("alpaca", {"instruction": "Where?", "input": "", "output": "Here."}),
        ("prompt_completion", {"prompt": "Where?", "completion": "Here."}),
        (
            "messages",
            {"messages": [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Here."}]},
        ),
    ],
)
def test_documents_of_any_form_stand_before_the_question(tmp_path: Path, form: str, row: Any) -> None:
    documents = ["first text", {"title": "Second", "text": "its text"}]
    [(prompt, said)] = asked(tmp_path, {**row, "documents": documents}, format=form)
    assert prompt == "[1] first text\n\n[2] Second\nits text\n\nWhere?" and said == "Here."
    assert asked(tmp_path, {**row, "documents": []}, format=form) == [("Where?", "Here.")]


def test_documents_stand_before_the_last_question_of_a_conversation(tmp_path: Path) -> None:
    turns = [{"role": r, "content": c} for r, c in zip(("user", "assistant") * 2, "abcd", strict=True)]
    data = InstructionData(
        path=saved(tmp_path, {"messages": turns, "documents": ["d"]}), format="messages", eval_fraction=0.0
    )
    [found] = read_instructions(data).train
    assert [m.content for m in found.messages] == ["a", "b", "[1] d\n\nc", "d"]


def test_prompts_for_rollouts_have_their_documents_too(tmp_path: Path) -> None:
    path = saved(tmp_path, {"prompt": "Where?", "documents": ["a text"]})
    [prompt] = read_prompts(PromptData(path=path, eval_fraction=0.0)).train
    assert prompt[-1].content == "[1] a text\n\nWhere?"


def test_a_wrong_document_is_named(tmp_path: Path) -> None:
    row = {"prompt": "a", "completion": "b", "documents": [{"title": "t"}]}
    with pytest.raises(BadRow, match=r"rows\.jsonl:1:documents\[0\]\.text: expected a text, got nothing"):
        asked(tmp_path, row, format="prompt_completion")


def test_the_documents_template_can_be_a_users_own(tmp_path: Path) -> None:
    own = tmp_path / "mine.yaml"
    own.write_text('document: "<{title}: {text}>"\nuntitled: "<{text}>"\nprompt: "{question}\\n{documents}"\n')
    row = {"prompt": "Q", "completion": "A", "documents": ["d"]}
    assert asked(tmp_path, row, format="prompt_completion", documents=str(own)) == [("Q\n<d>", "A")]
    assert document_template("documents").untitled
