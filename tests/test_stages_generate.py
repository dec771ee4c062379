"""`stages.generate` against teachers that are well: what is made, from which options, and what it is good for."""

from __future__ import annotations

import json
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from command import composed, refused, run, stage
from real_data import FOLDER, real
from teacher_runs import SEEDS, counts, options, rows_of, scholar
from teacher_server import (
    Behaviour,
    in_turn,
    saying,
    serving,
)
from tiny_data import NAMES, STEPS, written

from instruct.readers import InstructionData, read_instructions
from models.errors import ConfigError, DataError


@pytest.fixture
def seeds(tmp_path: Path) -> str:
    return written(tmp_path / "seeds.jsonl", SEEDS)


# --- what is made -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "requests"), [("rephrase", 2), ("self_instruct", 2), ("evolve", 3), ("back_translate", 2)]
)
def test_every_method_makes_rows_that_say_where_they_come_from(
    method: str, requests: int, seeds: str, tmp_path: Path
) -> None:
    with serving(scholar) as server:
        made = run("generate", *options(tmp_path, server.url, "at_once=5", "min_score=4", method=method))
    found = counts(made)
    assert found["kept"] >= 8 and not found["failed"]
    assert len(server.bodies) == found["requests"]
    data = InstructionData(path=str(made.folder / "rows.jsonl"), format="messages", eval_fraction=0)
    assert len(read_instructions(data).train) == found["kept"]
    for row in rows_of(tmp_path):
        source = row["source"]
        assert set(source["seeds"]) <= {f"{seeds}:{line}" for line in range(1, 13)} and source["seeds"]
        assert (source["method"], source["teacher"]) == (method, f"m at {server.url}")
        assert len(source["requests"]) == len(source["templates"]) == requests
        assert all(name.startswith(method) for name in source["templates"])
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", source["time"])


def test_rephrase_changes_the_opening_alone(tmp_path: Path) -> None:
    turns = ("Be brief.", "What is the tallest mountain of nepal ?", "Everest.", "And the second one?", "K2, nearly.")
    roles = ("system", "user", "assistant", "user", "assistant")
    talk = [{"role": role, "content": turn} for role, turn in zip(roles, turns, strict=True)]
    written(tmp_path / "seeds.jsonl", [{"messages": talk}])
    with serving(scholar) as server:
        run("generate", *options(tmp_path, server.url, "data=messages", method="rephrase"))
    [row] = rows_of(tmp_path)
    assert row["source"]["seeds"] == [f"{tmp_path / 'seeds.jsonl'}:1"]
    opening = {"role": "user", "content": "Which stream runs through nepal country, and where?"}
    assert row["messages"] == [talk[0], opening, *talk[2:]]


def test_other_words_with_another_meaning_are_dropped(seeds: str, tmp_path: Path) -> None:
    def careless(number: int, body: dict[str, Any]) -> Behaviour:
        prompt = body["messages"][-1]["content"]
        if prompt.startswith("Do these two messages") and "peru" in prompt:
            return saying("No, the second one asks for the place too.")
        return saying("NAME one river of the land  cuba.") if "cuba" in prompt else scholar(number, body)

    with serving(careless) as server:
        found = counts(run("generate", *options(tmp_path, server.url, method="rephrase")))
    assert found["dropped"] == {"instruction: not the same in other words": 1, "instruction: unchanged": 1}
    assert not [prompt for prompt in server.prompts if prompt.startswith("Do these two") and "cuba" in prompt]


def test_what_has_evolved_evolves_further(seeds: str, tmp_path: Path) -> None:
    with serving(scholar) as server:
        run("generate", *options(tmp_path, server.url, "candidates=24", "at_once=12", method="evolve"))
    rows = {row["source"]["requests"][0]: row["messages"][0]["content"] for row in rows_of(tmp_path)}
    ways = [p for p in server.prompts if p.startswith(("Rewrite the prompt", "Read the prompt"))]
    later = [prompt for prompt in ways if any(instruction in prompt for instruction in rows.values())]
    assert len(ways) == 24 and len(later) >= 8


def test_tasks_made_before_are_shown_with_those_of_people(seeds: str, tmp_path: Path) -> None:
    with serving(scholar) as server:
        run("generate", *options(tmp_path, server.url, "candidates=8", "at_once=4", method="self_instruct"))
    asked = [prompt for prompt in server.prompts if prompt.startswith("Here are tasks")]
    made = [prompt.count("Tell a tale") for prompt in asked]
    assert made[:4] == [0] * 4 and made[4:] == [2] * 4
    assert all(prompt.count("\n1. ") == prompt.count("\n8. ") == 1 and "\n9. " not in prompt for prompt in asked)


def test_plain_texts_are_back_translated_and_rated(tmp_path: Path) -> None:
    texts = [f"The waters of {name} are wide and deep, and ships go up to the hills." for name in NAMES]
    written(tmp_path / "seeds.jsonl", [{"text": text} for text in texts])

    def strict(number: int, body: dict[str, Any]) -> Behaviour:
        prompt = body["messages"][-1]["content"]
        if prompt.startswith("Below are a message"):
            return saying("2" if "peru" in prompt else "none" if "cuba" in prompt else "4/5")
        return scholar(number, body)

    with serving(strict) as server:
        made = run("generate", *options(tmp_path, server.url, "data=text", "min_score=4"))
    assert counts(made)["dropped"] == {"rating: below 4": 1, "rating: no number": 1}
    assert {row["messages"][1]["content"] for row in rows_of(tmp_path)} == {
        text for text in texts if "peru" not in text and "cuba" not in text
    }


def test_nothing_is_made_of_held_out_prompts(seeds: str, tmp_path: Path) -> None:
    with serving(scholar) as server:
        run("generate", *options(tmp_path, server.url, "data.eval_fraction=0.5"))
    data = InstructionData(path=seeds, format="alpaca", eval_fraction=0.5)
    held = [row.messages[0].content for row in read_instructions(data).eval]
    assert held and not [prompt for prompt in server.prompts if any(text in prompt for text in held)]


def test_templates_of_ones_own_are_used_and_named_by_their_digest(seeds: str, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("back_translate:\n  instruction: 'Was fragt, {wie} \\\\frac{x}: {output}'\n")
    with serving(in_turn(saying("Welche Flüsse gibt es dort zu sehen?"))) as server:
        run("generate", *options(tmp_path, server.url, f"templates={own}", "candidates=1"))
    assert server.prompts == [f"Was fragt, {{wie}} \\\\frac{{x}}: {SEEDS[0]['output']}"]
    [row] = rows_of(tmp_path)
    assert list(row["source"]["templates"]) == ["back_translate.instruction"]


def test_the_request_is_what_the_options_say(seeds: str, tmp_path: Path) -> None:
    more = (
        "teacher.temperature=0.25",
        "teacher.max_new_tokens=77",
        "+teacher.extra.top_p=0.5",
        "+teacher.extra.seed=null",
    )
    with serving(scholar) as server:
        run("generate", *options(tmp_path, server.url, *more, "candidates=1"))
    [body] = server.bodies
    assert {name: value for name, value in body.items() if name != "messages"} == {
        "model": "m",
        "temperature": 0.25,
        "max_tokens": 77,
        "top_p": 0.5,
    }


def test_tokens_are_counted_where_the_endpoint_reports_them(seeds: str, tmp_path: Path) -> None:
    def reporting(number: int, _: Any) -> Behaviour:
        odd = ({"prompt_tokens": "many", "completion_tokens": -3}, None, [], {"prompt_tokens": True})
        usage = odd[number] if number < 4 else {"prompt_tokens": 10, "completion_tokens": 3}
        return saying(f"Which streams run through there {number} {number + 100} {number + 200}?", usage=usage)

    with serving(reporting) as server:
        found = counts(run("generate", *options(tmp_path, server.url)))
    assert (found["requests"], found["prompt_tokens"], found["reply_tokens"]) == (12, 80, 24)


def test_the_endpoint_is_asked_as_much_at_once_as_told(seeds: str, tmp_path: Path) -> None:
    def slow(number: int, body: dict[str, Any]) -> Behaviour:
        signal.sigtimedwait([], 0.1)
        return scholar(number, body)

    with serving(slow) as server:
        run("generate", *options(tmp_path, server.url, "teacher.concurrency=3"))
    assert server.most_at_once == 3


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ("method=evolv", "self_instruct, evolve, rephrase, back_translate"),
        ("teacher.url=localhost", "http://localhost:8000/v1"),
        ("teacher.url=http://me:hush@host/v1", "variable"),
        ("teacher.model=null", "teacher.model"),
        ("teacher.path=here", "either"),
        ("teacher.key_env=sk-hush", "never the key itself"),
        ("teacher.patience=0", "at least 1"),
        ("teacher.limits.timeout=0", "above 0"),
        ("filter.languages=[en,xx]", "xx"),
        ("filter.max_similarity=0", "(0, 1]"),
        ("filter.refusals=count", "drop or keep"),
        ("candidates=0", "at least 1"),
        ("min_score=6", "1 to 5"),
        ("templates=none.yaml", "templates.yaml"),
    ],
)
def test_a_wrong_option_is_refused_with_what_is_expected(wrong: str, expected: str, seeds: str, tmp_path: Path) -> None:
    with serving(scholar) as server:
        message = refused(ConfigError, "generate", *options(tmp_path, server.url, wrong))
        assert not server.bodies
    assert expected in message and "hush" not in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("rephrase: {instructions: x}", "did you mean rephrase.instruction?"),
        ("rephrase: {instruction: Say it again.}", "has no {instruction}"),
        ("rephrase: [x]", "no mapping"),
        ("rephrase: {instruction: 'x", "cannot be read"),
    ],
)
def test_a_wrong_template_is_refused_by_name(content: str, expected: str, seeds: str, tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(content)
    own = options(tmp_path, "http://localhost:9/v1", f"templates={file}")
    assert expected in refused(ConfigError, "generate", *own)


# --- a local teacher, and training on what it made --------------------------------------------------------------------


def local(folder: Path, model: str, *more: str) -> tuple[str, ...]:
    """A run with a model in this process, whose filters let babble through."""
    lax = ("filter.min_words=1", "filter.max_repetition=1", "filter.max_similarity=1", "teacher.max_new_tokens=24")
    url = ("teacher.url=null", "teacher.model=null", f"teacher.path={model}", "teacher.temperature=1")
    return (*options(folder, "http://localhost/v1"), *url, *lax, f"templates={short_template(folder)}", *more)


def short_template(folder: Path) -> Path:
    file = folder / "short.yaml"
    file.write_text("back_translate: {instruction: '{output}'}")
    return file


@pytest.fixture
def babbler(qwen2_folder: str, tmp_path: Path) -> Path:
    """A model for which every third token is an end, so that its replies are short."""
    folder = tmp_path / "babbler"
    shutil.copytree(qwen2_folder, folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": list(range(0, 300, 3))}))
    return folder


def test_a_local_teacher_answers_the_same_in_batches_of_any_size(babbler: Path, seeds: str, tmp_path: Path) -> None:
    def made(*more: str) -> dict[str, str]:
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        run("generate", *local(tmp_path, str(babbler), *more))
        lines = map(json.loads, (tmp_path / "out/x/replies.jsonl").read_text().splitlines())
        return {entry["key"]: entry["text"] for entry in lines}

    five, seven, other = made("teacher.batch_size=5"), made("teacher.batch_size=7"), made("seed=1")
    assert five == seven and len(five) == 12
    assert set(five.values()) != set(other.values())


def test_a_local_teachers_replies_are_remembered_by_its_weights(babbler: Path, seeds: str, tmp_path: Path) -> None:
    def n_replies() -> int:
        return len((tmp_path / "out/x/replies.jsonl").read_text().splitlines())

    run("generate", *local(tmp_path, str(babbler)))
    moved = babbler.rename(tmp_path / "moved")
    run("generate", *local(tmp_path, str(moved), "filter.refusals=keep", "resume=restart"))
    assert n_replies() == 12
    (moved / "generation_config.json").write_text(json.dumps({"eos_token_id": list(range(0, 300, 2))}))
    run("generate", *local(tmp_path, str(moved), "resume=restart"))
    assert n_replies() == 24


def test_a_prompt_that_leaves_no_room_for_the_reply_is_a_failure(llama_folder: str, seeds: str, tmp_path: Path) -> None:
    own = local(tmp_path, llama_folder, "teacher.max_new_tokens=250", "candidates=3")
    assert "a prompt longer than the model's positions 3" in refused(DataError, "generate", *own, "teacher.patience=1")


def test_what_a_teacher_made_is_trained_on(llama_folder: str, seeds: str, tmp_path: Path) -> None:
    with serving(scholar) as server:
        made = run("generate", *options(tmp_path, server.url, method="self_instruct"))
    rows = made.folder / "rows.jsonl"
    own = ("data=messages", f"data.path={rows}", f"model.path={llama_folder}", f"outputs={tmp_path / 'out'}", *STEPS)
    ended = stage("sft", *own, "name=x", cwd=tmp_path)
    assert ended.code == 0, ended.stderr
    assert "fields not used: source" in ended.stderr
    assert json.loads((tmp_path / "out/x/sft/manifest.json").read_text())["metrics"]["rows"] > 8


def test_a_real_model_that_tells_stories_is_found_out(tmp_path: Path) -> None:
    """stories260k follows no instruction: it babbles on to the end of its room, and no row comes of it."""
    stories, tasks = FOLDER.parent / "models/stories260k", real("self_instruct_seed_tasks.jsonl")
    if not stories.is_dir():
        pytest.skip(f"no {stories}")
    own = local(tmp_path, str(stories), "data=self_instruct", f"data.path={tasks}", "candidates=8")
    strict = ("filter.min_words=4", "filter.max_repetition=0.5", "filter.max_similarity=0.7")
    assert "cut off" in refused(DataError, "generate", *own, *strict)


def test_the_default_configuration_names_no_teacher_and_asks_for_one() -> None:
    with pytest.raises(ConfigError, match="either"):
        composed("generate", "data=alpaca", "data.path=x", "method=evolve")
