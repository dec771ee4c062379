"""Claims about instruction data: each published form is read exactly, each fault is named by row and field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from real_data import real

from instruct.prompts import PromptData, read_prompts
from instruct.readers import DOCUMENT_FORMATS, FORMATS, InstructionData, read_documents, read_instructions
from instruct.sources import prompts, questions
from models.chat import Message
from models.errors import BadRow, ConfigError, DataError

CONF = Path(__file__).parents[1] / "conf" / "data"


def system(text: str) -> Message:
    return Message("system", text)


def user(text: str) -> Message:
    return Message("user", text)


def assistant(text: str) -> Message:
    return Message("assistant", text)


def saved(folder: Path, *rows: Any) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def conversations(folder: Path, form: str, *rows: Any, **options: Any) -> list[tuple[Message, ...]]:
    data = InstructionData(path=saved(folder, *rows), format=form, eval_fraction=0.0, **options)
    return [instruction.messages for instruction in read_instructions(data).train]


GOOD: dict[str, Any] = {
    "alpaca": {"instruction": "Translate.", "input": "chat", "output": "cat"},
    "sharegpt": {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
    "messages": {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},
    "prompt_completion": {"prompt": "2+2", "completion": "4"},
    "self_instruct": {"instruction": "Add.", "instances": [{"input": "1, 1", "output": "2"}]},
}


# --- forms ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("alpaca", (user("Translate.\n\nchat"), assistant("cat"))),
        ("sharegpt", (user("Hi"), assistant("Hello"))),
        ("messages", (user("Hi"), assistant("Hello"))),
        ("prompt_completion", (user("2+2"), assistant("4"))),
        ("self_instruct", (user("Add.\n\n1, 1"), assistant("2"))),
    ],
)
def test_each_form_becomes_one_conversation(tmp_path: Path, form: str, expected: tuple[Message, ...]) -> None:
    assert conversations(tmp_path, form, GOOD[form]) == [expected]


def test_every_form_has_an_example_here_and_a_choice_in_conf() -> None:
    assert set(GOOD) == set(FORMATS)
    assert all((CONF / f"{name}.yaml").is_file() for name in (*FORMATS, *DOCUMENT_FORMATS))


def test_alpaca_without_input_is_the_instruction_alone(tmp_path: Path) -> None:
    for blank in ("", "  ", "\n"):
        row = {"instruction": "Sing. ", "input": blank, "output": " La"}
        assert conversations(tmp_path, "alpaca", row) == [(user("Sing. "), assistant(" La"))]


def test_alpaca_takes_a_system_text_and_past_turns(tmp_path: Path) -> None:
    row = {"instruction": "c", "input": "", "output": "d", "system": "S", "history": [["a", "b"]]}
    expected = (system("S"), user("a"), assistant("b"), user("c"), assistant("d"))
    assert conversations(tmp_path, "alpaca", row) == [expected]


def test_placeholders_stay_text(tmp_path: Path) -> None:
    row = {"instruction": "Who?", "input": "", "output": "I am {{name}} by {{author}}."}
    assert conversations(tmp_path, "alpaca", row)[0][-1] == assistant("I am {{name}} by {{author}}.")


def test_the_chosen_reply_of_sharegpt_pairs_ends_the_conversation(tmp_path: Path) -> None:
    turns = {"conversations": [{"from": "human", "value": "Hi"}]}
    row = {**turns, "chosen": {"from": "gpt", "value": "Hello"}, "rejected": {"from": "gpt", "value": "No"}}
    assert conversations(tmp_path, "sharegpt", row) == [(user("Hi"), assistant("Hello"))]


def test_sharegpt_knows_the_usual_speakers(tmp_path: Path) -> None:
    turns = [("system", "S"), ("human", "a"), ("gpt", "b"), ("user", "c"), ("assistant", "d")]
    row = {"conversations": [{"from": speaker, "value": text} for speaker, text in turns]}
    expected = (system("S"), user("a"), assistant("b"), user("c"), assistant("d"))
    assert conversations(tmp_path, "sharegpt", row) == [expected]


def test_prompt_and_completion_may_be_messages(tmp_path: Path) -> None:
    row = {
        "prompt": [{"role": "system", "content": "S"}, {"role": "user", "content": "a"}],
        "completion": [{"role": "assistant", "content": "b"}],
    }
    assert conversations(tmp_path, "prompt_completion", row) == [(system("S"), user("a"), assistant("b"))]


def test_self_instruct_gives_one_conversation_for_each_instance(tmp_path: Path) -> None:
    row = {"instruction": "Add.", "instances": [{"input": "1, 1", "output": "2"}, {"input": "", "output": "?"}]}
    split = read_instructions(InstructionData(path=saved(tmp_path, row), format="self_instruct", eval_fraction=0.0))
    assert [i.messages for i in split.train] == [
        (user("Add.\n\n1, 1"), assistant("2")),
        (user("Add."), assistant("?")),
    ]
    assert (split.readings[0].n_rows, split.readings[0].n_records) == (1, 2)


def test_documents_are_their_text(tmp_path: Path) -> None:
    data = InstructionData(path=saved(tmp_path, {"text": " a\n"}, {"text": "b"}), format="text", eval_fraction=0.0)
    assert [document.text for document in read_documents(data).train] == [" a\n", "b"]


def test_documents_and_instructions_are_not_mistaken_for_each_other() -> None:
    with pytest.raises(ConfigError, match=r"data\.format=text holds documents"):
        read_instructions(InstructionData(path="x", format="text"))
    with pytest.raises(ConfigError, match=r"data\.format=alpaca holds no documents"):
        read_documents(InstructionData(path="x", format="alpaca"))


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")).filter(str.strip)


@given(turns=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4), opening=st.none() | TEXTS)
def test_any_conversation_reads_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, turns: list[tuple[str, str]], opening: str | None
) -> None:
    said = [system(opening)] if opening else []
    said += [message for asked, replied in turns for message in (user(asked), assistant(replied))]
    row = {"messages": [{"role": message.role, "content": message.content} for message in said]}
    assert conversations(tmp_path_factory.mktemp("any"), "messages", row) == [tuple(said)]


# --- faults -----------------------------------------------------------------------------------------------------------


def turns(*roles: str) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": "x"} for role in roles]}


@pytest.mark.parametrize(
    ("form", "row", "message"),
    [
        ("alpaca", {"instruction": "a", "input": ""}, "output: expected a text, got nothing"),
        ("alpaca", {"instruction": "a", "output": "b"}, "input: expected a text, got nothing"),
        ("alpaca", {"instruction": None, "input": "", "output": "b"}, "instruction: expected a text, got None"),
        ("alpaca", {"instruction": "a", "input": "", "output": 3}, "output: expected a text, got 3"),
        ("alpaca", GOOD["alpaca"] | {"history": [["a"]]}, "history: expected a list of [said, replied]"),
        ("sharegpt", {"conversations": "x"}, "conversations: expected a list, got 'x'"),
        ("sharegpt", {"conversations": ["x"]}, "conversations[0]: expected an object"),
        ("sharegpt", {"conversations": [{"from": "bot", "value": "x"}]}, "conversations[0].from: expected one of"),
        ("sharegpt", {"conversations": [{"from": "human"}]}, "conversations[0].value: expected a text, got nothing"),
        ("messages", {"messages": []}, "messages: expected a conversation that ends with a turn of the assistant"),
        ("messages", turns("user"), "messages: expected a conversation that ends with a turn of the assistant"),
        ("messages", turns("assistant"), "messages: expected turns of user and assistant that alternate"),
        ("messages", turns("user", "user", "assistant"), "messages: expected turns of user and assistant"),
        ("messages", turns("user", "system", "assistant"), "messages: expected turns of user and assistant"),
        ("messages", turns("user", "tool"), "messages[1].role: expected one of system, developer, user, assistant"),
        ("prompt_completion", {"prompt": ["x"], "completion": "y"}, "prompt[0]: expected an object"),
        ("prompt_completion", {"prompt": "x", "completion": []}, "completion: expected a conversation that ends"),
        ("self_instruct", {"instruction": "a", "instances": []}, "instances: expected a list that is not empty"),
        ("self_instruct", {"instruction": "a", "instances": [{"input": ""}]}, "instances[0].output: expected a text"),
    ],
)
def test_a_wrong_field_is_named_with_file_line_and_path(tmp_path: Path, form: str, row: Any, message: str) -> None:
    with pytest.raises(BadRow) as caught:
        conversations(tmp_path, form, GOOD[form], row)
    assert f"{tmp_path}/rows.jsonl:2:{message}" in str(caught.value)
    assert conversations(tmp_path, form, GOOD[form], row, on_bad_row="skip") == conversations(
        tmp_path, form, GOOD[form]
    )


@pytest.mark.parametrize(
    ("form", "row", "reason"),
    [
        ("alpaca", {"instruction": " ", "input": "", "output": "b"}, "empty instruction"),
        ("alpaca", {"instruction": "a", "input": "", "output": "\n"}, "empty output"),
        ("sharegpt", {"conversations": [{"from": "human", "value": ""}]}, "empty conversations[].value"),
        ("messages", {"messages": [{"role": "user", "content": "\u3000"}]}, "empty messages[].content"),
        ("prompt_completion", {"prompt": "", "completion": "x"}, "empty prompt"),
        ("prompt_completion", {"prompt": "x", "completion": ""}, "empty completion"),
        ("self_instruct", {"instruction": "a", "instances": [{"input": "", "output": ""}]}, "empty instances[].output"),
    ],
)
def test_an_empty_prompt_or_reply_is_an_error_or_dropped(tmp_path: Path, form: str, row: Any, reason: str) -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl:1: empty .*on_unusable=drop"):
        conversations(tmp_path, form, row)
    path = saved(tmp_path, row, GOOD[form])
    split = read_instructions(InstructionData(path=path, format=form, on_unusable="drop", eval_fraction=0.0))
    assert len(split.train) == 1 and split.readings[0].dropped == {reason: [1]}
    with pytest.raises(DataError, match="no usable row among 2"):
        conversations(tmp_path, form, row, row, on_unusable="drop")


def test_an_empty_system_turn_is_as_none(tmp_path: Path) -> None:
    row = {"messages": [{"role": "system", "content": ""}, *GOOD["messages"]["messages"]]}
    assert conversations(tmp_path, "messages", row) == [(user("Hi"), assistant("Hello"))]


def test_unknown_fields_are_allowed_and_told(tmp_path: Path) -> None:
    path = saved(tmp_path, GOOD["alpaca"] | {"id": 1}, GOOD["alpaca"] | {"id": 2, "lang": "en"})
    reading = read_instructions(InstructionData(path=path, format="alpaca", eval_fraction=0.0)).readings[0]
    assert reading.unread == {"id": 2, "lang": 1} and str(reading).endswith("fields not used: id, lang")


def test_same_prompt_with_other_outputs_stays_on_one_side(tmp_path: Path) -> None:
    rows = [
        {"instruction": f"task {i}", "input": "", "output": output} for i in range(100) for output in ("a", "b", "c")
    ]
    split = read_instructions(InstructionData(path=saved(tmp_path, *rows), format="alpaca", eval_fraction=0.3))
    sides = [{i.messages[0].content for i in side} for side in (split.train, split.eval)]
    assert not sides[0] & sides[1] and len(split.train) + len(split.eval) == 300 and sides[1]


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.format=alpacca: must be one of alpaca, sharegpt, messages"):
        InstructionData(path="x", format="alpacca")


# --- prompts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (GOOD["alpaca"], (user("Translate.\n\nchat"),)),
        ({"instruction": "Sing."}, (user("Sing."),)),
        (GOOD["sharegpt"], (user("Hi"),)),
        (GOOD["messages"], (user("Hi"),)),
        (turns("user", "assistant", "user"), (user("x"), assistant("x"), user("x"))),
        (GOOD["prompt_completion"], (user("2+2"),)),
        (GOOD["self_instruct"], (user("Add.\n\n1, 1"),)),
        ({"question_id": 81, "turns": ["first", "second"]}, (user("first"),)),
        ({"prompt": "p", "chosen": "a", "rejected": "b"}, (user("p"),)),
        ({"question": "q", "response_j": "a"}, (user("q"),)),
        ({"chosen": "\n\nHuman: h\n\nAssistant: a", "rejected": None}, (user("h"),)),
        ({"chosen": "\n\nHuman: h\n\nAssistant:", "rejected": None}, (user("h"),)),
    ],
)
def test_the_prompt_of_any_row_is_what_stands_before_the_last_reply(
    tmp_path: Path, row: Any, expected: tuple[Message, ...]
) -> None:
    assert read_prompts(PromptData(path=saved(tmp_path, row), eval_fraction=0.0)).train == [expected]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "x"}, "prompt: expected one of the fields turns, messages"),
        ({"turns": []}, "turns: expected a list of texts"),
        ({"turns": ["a", 3]}, "turns: expected a list of texts"),
        ({"prompt": None}, "prompt: expected a text, got None"),
        ({"chosen": "no transcript"}, "chosen: expected a transcript"),
    ],
)
def test_a_row_without_a_prompt_is_named(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(BadRow, match=rf"rows\.jsonl:1:{message}"):
        read_prompts(PromptData(path=saved(tmp_path, row)))


def test_empty_prompts_are_dropped_and_counted(tmp_path: Path) -> None:
    split = read_prompts(PromptData(path=saved(tmp_path, {"prompt": " "}, {"prompt": "a"}), eval_fraction=0.0))
    assert split.train == [(user("a"),)] and split.readings[0].dropped == {"empty prompt": [1]}


def test_prompts_and_instructions_hold_out_the_same(tmp_path: Path) -> None:
    path = saved(tmp_path, *({"instruction": str(i), "input": "", "output": "x"} for i in range(100)))
    instructions = read_instructions(InstructionData(path=path, format="alpaca", eval_fraction=0.3, seed=4))
    prompts = read_prompts(PromptData(path=path, eval_fraction=0.3, seed=4))
    assert prompts.eval == [i.messages[:-1] for i in instructions.eval] and prompts.eval


def test_a_question_has_what_else_its_row_says(tmp_path: Path) -> None:
    """A row of gsm8k, and one of the world, which says nothing of what is right."""
    row = {"question": "1 + 1?", "answer": "It is 2. #### 2"}
    [question] = questions(PromptData(path=saved(tmp_path, row), eval_fraction=0.0)).train
    assert (question.prompt, question.fields["answer"]) == ((user("1 + 1?"),), "It is 2. #### 2")
    found = questions(PromptData(path="world", limit=16))
    assert [asked.prompt for asked in found.train] == prompts(PromptData(path="world", limit=16)).train
    assert not any(asked.fields for asked in (*found.train, *found.eval))


def test_a_system_turn_stands_before_prompts_without_one_and_moves_no_row(tmp_path: Path) -> None:
    own = {"messages": [{"role": "system", "content": "Own."}, {"role": "user", "content": "0"}]}
    path = saved(tmp_path, own, *({"prompt": str(i)} for i in range(40)))
    plain, under = (questions(PromptData(path=path, eval_fraction=0.3, system=text)) for text in (None, "Be brief."))
    for before, after in ((plain.train, under.train), (plain.eval, under.eval)):
        assert [a.prompt[-1] for a in after] == [b.prompt[-1] for b in before] and after
    first = {asked.prompt[0] for asked in (*under.train, *under.eval)}
    assert first == {Message("system", "Own."), Message("system", "Be brief.")}


# --- configs and real files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*FORMATS, *DOCUMENT_FORMATS, "prompts"])
def test_each_choice_of_data_is_a_checked_config_that_asks_for_a_path(name: str) -> None:
    schema = OmegaConf.structured(PromptData if name == "prompts" else InstructionData)
    choice = OmegaConf.merge(schema, OmegaConf.load(CONF / f"{name}.yaml"))
    with pytest.raises(OmegaConfBaseException, match="path"):
        OmegaConf.to_object(choice)
    data = OmegaConf.to_object(OmegaConf.merge(choice, {"path": "x", "limit": 3}))
    assert getattr(data, "format", "prompts") == name and data.path == "x"
    assert (CONF / f"{name}.yaml").read_text().startswith("# ")


@pytest.mark.parametrize(
    ("form", "name", "kept"),
    [
        ("alpaca", "alpaca_en_demo.json", 999),
        ("alpaca", "alpaca_zh_demo.json", 1000),
        ("alpaca", "identity.json", 91),
        ("self_instruct", "self_instruct_seed_tasks.jsonl", 175),
    ],
)
def test_real_instructions_are_kept_whole(form: str, name: str, kept: int) -> None:
    split = read_instructions(InstructionData(path=real(name), format=form))
    assert len(split.train) + len(split.eval) == split.readings[0].n_kept == kept
    assert split.readings[0].n_dropped == 0 and split.train and split.eval


def test_real_instructions_are_read_to_the_letter() -> None:
    rows = json.loads(Path(real("alpaca_zh_demo.json")).read_bytes())
    data = InstructionData(path=real("alpaca_zh_demo.json"), format="alpaca", eval_fraction=0.0)
    for row, instruction in zip(rows, read_instructions(data).train, strict=True):
        asked, replied = instruction.messages
        assert replied.content == row["output"]
        assert asked.content == row["instruction"] + ("\n\n" + row["input"] if row["input"] else "")


def test_real_documents_are_kept_whole() -> None:
    split = read_documents(InstructionData(path=real("c4_demo.jsonl"), format="text"))
    assert len(split.train) + len(split.eval) == 300


@pytest.mark.parametrize(
    ("name", "kept", "dropped"),
    [
        ("alpaca_en_demo.json", 999, {}),
        ("dpo_en_demo.json", 300, {}),
        # Rows 1012 and 1055 have two assistant turns at the end of `chosen`.
        ("hh_harmless_pairs.jsonl", 1184, {"prompt that ends with a reply": [1012, 1055]}),
        ("kwise_gsm8k.jsonl", 653, {}),
        ("kwise_instructgpt_truthful.jsonl", 51, {}),
        ("kwise_oasst.jsonl", 102, {}),
        ("kwise_xstest.jsonl", 220, {}),
        ("llmbar_natural.json", 100, {}),
        ("mt_bench_questions.jsonl", 80, {}),
        ("self_instruct_seed_tasks.jsonl", 175, {}),
        ("stack_exchange_paired_tiny.json", 25, {}),
    ],
)
def test_real_files_give_a_prompt_for_each_row(name: str, kept: int, dropped: dict[str, list[int]]) -> None:
    split = read_prompts(PromptData(path=real(name)))
    assert len(split.train) + len(split.eval) == kept
    assert split.readings[0].dropped == dropped
    assert all(prompt[-1].role == "user" for prompt in split.train)
