"""`stages.generate` against teachers that are well, ill and gone: what is made, what is counted, what is paid for."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command import composed, refused, run, stage
from real_data import FOLDER, real
from teacher_server import (
    Behaviour,
    dripping,
    endless,
    giving,
    hanging,
    hanging_up,
    in_turn,
    saying,
    serving,
)
from tiny_data import NAMES, STEPS, written

from instruct.readers import InstructionData, read_instructions
from models.errors import ArtifactError, ConfigError, DataError, Unavailable

SEEDS = [
    {"instruction": f"Name one river of the land {name}.", "input": "", "output": f"The river {name} flows there."}
    for name in NAMES
]
QUICK = (
    "teacher.limits.timeout=1",
    "teacher.limits.tries=2",
    "teacher.limits.wait=0.01",
    "teacher.limits.max_wait=0.1",
)
KEY = "sk-very-secret-key"


def scholar(_: int, body: dict[str, Any]) -> Behaviour:
    """Answers every template as a good teacher would, and the same prompt always in the same way."""
    prompt = body["messages"][-1]["content"]
    land = (re.findall("|".join(NAMES), prompt) or ["nowhere"])[-1]
    about = f"{land} {'abcdefghij'[len(prompt) % 10] * 3}"
    if prompt.startswith("Say the message"):
        return saying(f'"Which stream runs through {land} country, and where?"', usage={"prompt_tokens": 7})
    if prompt.startswith("Rewrite the prompt"):
        return saying(f"#New Prompt#: Compare two {land} streams of about {about} by length, depth and fish.")
    if prompt.startswith("Read the prompt"):
        return saying(f"Which mountains of {about} were climbed first and by whom?")
    if prompt.startswith("Do these two messages"):
        return saying("Yes", usage={"prompt_tokens": 2})
    if prompt.startswith("Do these two prompts"):
        return saying("Not equal.")
    if prompt.startswith("Below is a text"):
        return saying(f"What can be said of the waters in {land} today?", usage={"prompt_tokens": 7})
    if prompt.startswith("Below are a message"):
        return saying("Score: 5")
    if prompt.startswith("Here are tasks"):
        number = sum(map(ord, prompt))
        return saying(f"Tell a tale of {about} in {number} words about {number * 7} hens and {number * 3} {land}.")
    if prompt.startswith("Here is a task"):
        return saying("Input: none\nOutput: Once upon a time.", usage={"prompt_tokens": 11, "completion_tokens": 6})
    return saying(f"It is about {about}.")


@pytest.fixture
def seeds(tmp_path: Path) -> str:
    return written(tmp_path / "seeds.jsonl", SEEDS)


def options(folder: Path, url: str, *more: str, method: str = "back_translate") -> tuple[str, ...]:
    """A run over the twelve seeds, its outputs below `folder`; of back_translate, one request for each."""
    data = ("data=alpaca", f"data.path={folder / 'seeds.jsonl'}", "data.eval_fraction=0", "name=x")
    filters = ("filter.max_similarity=0.95", "min_score=1")
    place = (f"outputs={folder / 'out'}", f"method={method}", f"teacher.url={url}", "teacher.model=m")
    return (*data, *place, *QUICK, *filters, *more)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out/x/generate/rows.jsonl").read_text().splitlines()]


def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "source": {**row["source"], "time": None}} for row in rows]


def counts(artifact: Any) -> dict[str, Any]:
    """The tally of the manifest, after checking that it is complete."""
    found = artifact.manifest["metrics"]
    assert found["asked"] == found["kept"] + sum(found["dropped"].values()) + sum(found["failed"].values())
    assert found["kept"] == len((artifact.folder / "rows.jsonl").read_text().splitlines())
    return found


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


# --- what is paid for -------------------------------------------------------------------------------------------------


def killing(folder: Path, at: int) -> Callable[[int, Any], Behaviour]:
    """A scholar who kills whoever asks the question of this number, as the run's lock names it."""

    def behaviour(number: int, body: dict[str, Any]) -> Behaviour:
        if number == at:
            os.kill(json.loads((folder / "out/x/generate/.lock").read_text())["pid"], signal.SIGKILL)
            return hanging_up
        return scholar(number, body)

    return behaviour


@pytest.mark.parametrize("method", ["self_instruct", "evolve"])
def test_a_killed_run_goes_on_with_what_is_missing_and_makes_the_same(method: str, seeds: str, tmp_path: Path) -> None:
    more = ("candidates=20", "at_once=6", "teacher.concurrency=1")
    with serving(scholar) as server:
        whole = run("generate", *options(tmp_path, server.url, *more, method=method))
        n, expected = len(server.bodies), timeless(rows_of(tmp_path))
    assert counts(whole)["requests"] == n
    shutil.rmtree(tmp_path / "out")
    with serving(killing(tmp_path, at=n // 2)) as server:
        own = options(tmp_path, server.url, *more, method=method)
        assert stage("generate", *own, cwd=tmp_path).code == -signal.SIGKILL
        assert len(server.bodies) == n // 2 + 1
        run("generate", *own)
        run("generate", *own)
        assert len(server.bodies) == n + 1  # the one that was under way at the kill is asked again, no other
        found = timeless(rows_of(tmp_path))
    assert [row["messages"] for row in found] == [row["messages"] for row in expected]


def test_a_killed_run_of_many_at_once_asks_no_answered_question_again(seeds: str, tmp_path: Path) -> None:
    with serving(killing(tmp_path, at=7)) as server:
        own = options(tmp_path, server.url, "teacher.concurrency=4")
        assert stage("generate", *own, cwd=tmp_path).code == -signal.SIGKILL
        lines = (tmp_path / "out/x/replies.jsonl").read_text().splitlines(keepends=True)
        paid = [json.loads(line)["asked"] for line in lines if line.endswith("\n")]
        before = len(server.bodies)
        run("generate", *own)
    assert paid and len(set(paid)) == len(paid) >= before - 5
    assert Counter(server.prompts[before:]) == Counter(set(server.prompts) - set(paid))
    assert len(server.bodies) - before == 12 - len(paid)


@pytest.mark.parametrize(("cut", "asked_again", "said"), [(9, 1, True), (1, 0, False)])
def test_a_torn_last_line_of_the_journal_is_known_for_one(
    cut: int, asked_again: int, said: bool, seeds: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cut off within the line it is asked again; where the line end alone is missing, all of it is there."""
    with serving(scholar) as server:
        own = options(tmp_path, server.url)
        run("generate", *own)
        journal = tmp_path / "out/x/replies.jsonl"
        whole, made = journal.read_bytes(), rows_of(tmp_path)
        shutil.rmtree(tmp_path / "out/x/generate")
        journal.write_bytes(whole[:-cut])
        capsys.readouterr()
        run("generate", *own)
        assert len(server.bodies) == 12 + asked_again
    assert ("cut off" in capsys.readouterr().err) is said
    assert len(journal.read_bytes().splitlines()) == 12 and journal.read_bytes().endswith(b"\n")
    assert timeless(rows_of(tmp_path)) == timeless(made)


def test_a_damaged_line_amid_the_journal_is_named(seeds: str, tmp_path: Path) -> None:
    with serving(scholar) as server:
        own = options(tmp_path, server.url)
        run("generate", *own)
        shutil.rmtree(tmp_path / "out/x/generate")
        journal = tmp_path / "out/x/replies.jsonl"
        lines = journal.read_bytes().splitlines(keepends=True)
        journal.write_bytes(b"".join([*lines[:3], lines[3][20:], *lines[4:]]))
        assert f"{journal}:4:" in refused(ArtifactError, "generate", *own)
        assert len(server.bodies) == 12


def test_another_teacher_is_asked_for_itself_and_the_first_is_remembered(seeds: str, tmp_path: Path) -> None:
    with serving(scholar) as server:
        own = options(tmp_path, server.url)
        run("generate", *own)
        first = rows_of(tmp_path)
        for changed in ("teacher.model=other", "teacher.temperature=0.1", "+teacher.extra.top_p=0.5", "seed=1"):
            before = len(server.bodies)
            assert "holds another run" in refused(ConfigError, "generate", *own, changed)
            run("generate", *own, changed, "resume=restart")
            assert len(server.bodies) == before + 12, changed
        run("generate", *own, "resume=restart")
        assert len(server.bodies) == 12 * 5
    assert rows_of(tmp_path) == first


def test_other_filters_ask_for_nothing_again(seeds: str, tmp_path: Path) -> None:
    with serving(scholar) as server:
        own = options(tmp_path, server.url)
        before = counts(run("generate", *own))
        after = counts(run("generate", *own, "filter.max_similarity=0.5", "resume=restart"))
        assert len(server.bodies) == 12
    assert before["kept"] == 12 and after["dropped"] == {"instruction: near-duplicate of another": 11}


def test_how_it_is_asked_may_change_while_a_run_goes_on(seeds: str, tmp_path: Path) -> None:
    with serving(killing(tmp_path, at=5)) as server:
        own = options(tmp_path, server.url, "teacher.concurrency=1")
        stage("generate", *own, cwd=tmp_path)
        more = ("teacher.concurrency=2", "teacher.patience=3", "teacher.limits.timeout=2")
        run("generate", *own, *more)
        assert len(server.bodies) == 13


# --- what goes wrong --------------------------------------------------------------------------------------------------

JUNK = "junk: no choices[0].message.content"
NO_TEXT = "junk: the content is no text"
FAULTS = (
    (hanging, "time-out"),
    (dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 90000\r\n\r\n"), "time-out"),
    (hanging_up, "a reply that was cut off or is no HTTP"),
    (giving("", 429, Retry_After="0.05"), "status 429"),
    (giving('{"error": "overloaded"}', 500), "status 500"),
    (giving("<html>no</html>"), "a reply that is no JSON"),
    (endless, "a reply of more than 99999 bytes"),
    (giving('"text"'), JUNK),
    (giving('{"choices": []}'), JUNK),
    (giving('{"choices": {"0": "text"}}'), JUNK),
    (saying(None), NO_TEXT),
)
USELESS = (
    (saying("  \n"), "an empty reply"),
    (saying("Which stream runs through the", finish="length"), "a reply cut off at teacher.max_new_tokens"),
    (saying("Which stream\0 runs through the country?"), "a reply with characters that are no text"),
    (saying("Which stream \ud83d runs through the country?"), "a reply with characters that are no text"),
    (saying("Which stream?"), "instruction: too short"),
    (saying("Which " + " ".join(map(str, range(150)))), "instruction: too long"),
    (saying("Name one river of the land FIJI."), "instruction: near-duplicate of a seed"),
    (saying("river " * 40), "instruction: repeats itself"),
    (saying("Wie heißt der Fluss, der durch das Land fließt?"), "instruction: in another language"),
    (saying("What can be said of the waters in iran today?"), "instruction: near-duplicate of another"),
)


def of_each_land(behaviours: tuple[tuple[Behaviour, str], ...]) -> Callable[[int, Any], Behaviour]:
    """To the questions of the first seeds a behaviour each, to the others a good answer."""

    def behaviour(number: int, body: dict[str, Any]) -> Behaviour:
        place = NAMES.index(re.findall("|".join(NAMES), body["messages"][-1]["content"])[-1])
        return behaviours[place][0] if place < len(behaviours) else scholar(number, body)

    return behaviour


def test_faults_of_the_teacher_are_counted_by_reason_and_the_run_goes_on(seeds: str, tmp_path: Path) -> None:
    with serving(of_each_land(FAULTS)) as server:
        patient = ("teacher.limits.timeout=0.5", "teacher.limits.max_bytes=99999", "teacher.patience=99")
        found = counts(run("generate", *options(tmp_path, server.url, *patient)))
    assert found["failed"] == Counter(reason for _, reason in FAULTS) and found["kept"] == 1
    listed = [json.loads(line) for line in (tmp_path / "out/x/generate/dropped.jsonl").read_text().splitlines()]
    assert [entry["reason"] for entry in listed] == [reason for _, reason in FAULTS]
    assert [entry["candidate"] for entry in listed] == list(range(11))


def test_replies_that_are_no_rows_are_counted_by_reason(seeds: str, tmp_path: Path) -> None:
    """The last of them says what the good answer of the last seed says, which is dropped in its place."""
    with serving(of_each_land(USELESS)) as server:
        own = options(tmp_path, server.url, "filter.languages=[en]", "filter.max_similarity=0.98")
        found = counts(run("generate", *own))
    assert found["dropped"] == Counter(reason for _, reason in USELESS) and not found["failed"]


def test_a_teacher_that_goes_down_ends_the_run_and_nothing_is_lost(seeds: str, tmp_path: Path) -> None:
    down = [True]

    def failing(number: int, body: dict[str, Any]) -> Behaviour:
        return (
            giving('{"error": {"message": "no capacity"}}', 503) if down[0] and number >= 5 else scholar(number, body)
        )

    with serving(failing) as server:
        own = options(tmp_path, server.url, "teacher.concurrency=1", "teacher.patience=3")
        ended = stage("generate", *own, cwd=tmp_path)
        assert ended.code == 75
        assert "3 requests in a row failed, the last with status 503 (no capacity)" in ended.error
        assert "5 replies are kept in" in ended.error
        assert len(server.bodies) == 5 + 3 * 2
        assert not (tmp_path / "out/x/generate/manifest.json").exists()
        down[0] = False
        made = run("generate", *own)
        assert len(server.bodies) == 11 + 7
    assert counts(made)["kept"] == 12


def test_what_was_under_way_when_the_run_ended_is_kept(seeds: str, tmp_path: Path) -> None:
    """One request is answered late, after the others have failed so often that the run ends."""

    def late(number: int, body: dict[str, Any]) -> Behaviour:
        if "peru" in body["messages"][-1]["content"]:
            signal.sigtimedwait([], 0.5)
            return scholar(number, body)
        return giving("", 400)

    with serving(late) as server:
        own = options(tmp_path, server.url, "teacher.concurrency=4", "teacher.patience=3")
        assert "1 replies are kept" in refused(Unavailable, "generate", *own)
    [line] = (tmp_path / "out/x/replies.jsonl").read_text().splitlines()
    assert "peru" in json.loads(line)["asked"]


def test_failures_are_settled_for_a_run_and_open_again_for_the_next(seeds: str, tmp_path: Path) -> None:
    """The kill comes after the first four candidates; the failure among them stands when the run goes on."""

    def behaviour(number: int, body: dict[str, Any]) -> Behaviour:
        if number < 8 and "peru" in body["messages"][-1]["content"]:
            return giving("{}")
        return killing(tmp_path, at=6)(number, body)

    with serving(behaviour) as server:
        own = options(tmp_path, server.url, "at_once=4", "teacher.concurrency=1")
        assert stage("generate", *own, cwd=tmp_path).code == -signal.SIGKILL
        assert counts(run("generate", *own))["failed"] == {JUNK: 1}
        assert len(server.bodies) == 13
        shutil.rmtree(tmp_path / "out/x/generate")
        assert counts(run("generate", *own))["kept"] == 12
        assert len(server.bodies) == 14


def test_nothing_answered_is_an_outage_and_is_asked_again(seeds: str, tmp_path: Path) -> None:
    with serving(in_turn(*[giving("{}")] * 2, saying("Which wide streams run through there today?"))) as server:
        own = options(tmp_path, server.url, "candidates=2", "teacher.concurrency=1")
        assert "2 failed (junk" in refused(Unavailable, "generate", *own)
        assert counts(run("generate", *own))["kept"] == 1
        assert len(server.bodies) == 4


def test_nothing_kept_ends_with_3_and_the_counts(seeds: str, tmp_path: Path) -> None:
    with serving(in_turn(saying("What?"))) as server:
        ended = stage("generate", *options(tmp_path, server.url), cwd=tmp_path)
    assert ended.code == 3
    assert "12 asked, 0 kept; 12 dropped (instruction: too short 12)" in ended.error


@pytest.mark.parametrize(("status", "what"), [(401, "the key in TEACHER_KEY"), (404, "teacher.url and teacher.model")])
def test_a_teacher_that_does_not_know_us_ends_the_run_at_once(
    status: int, what: str, seeds: str, tmp_path: Path
) -> None:
    with serving(in_turn(giving(f'{{"error": {{"message": "unknown: {KEY}"}}}}', status))) as server:
        own = options(tmp_path, server.url, "teacher.concurrency=1", "teacher.key_env=TEACHER_KEY", "debug=true")
        ended = stage("generate", *own, cwd=tmp_path, environment={"TEACHER_KEY": KEY})
        assert len(server.bodies) == 1
    line = ended.stderr.splitlines()[-1]
    assert ended.code == 2 and line.startswith("error: ") and f"status {status} (unknown: [key])" in line
    assert what in line and KEY not in ended.stderr


def everything_below(folder: Path) -> bytes:
    return b"\n".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_the_key_reaches_the_teacher_and_nothing_else(seeds: str, tmp_path: Path) -> None:
    def echoing(number: int, body: dict[str, Any]) -> Behaviour:
        if number == 0:
            return giving(f'{{"error": {{"message": "bad key {KEY}"}}}}', 400)
        return saying(f"Which stream number {number} {number + 50} runs along {KEY} there?")

    with serving(echoing) as server:
        own = options(tmp_path, server.url, "teacher.key_env=TEACHER_KEY", "tracking=wandb", "debug=true")
        environment = {"TEACHER_KEY": KEY, "WANDB_MODE": "offline"}
        ended = stage("generate", *own, cwd=tmp_path, environment=environment)
    assert ended.code == 0, ended.stderr
    assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    assert KEY not in ended.stdout + ended.stderr
    kept = everything_below(tmp_path)
    assert b"[key]" in kept and list(tmp_path.rglob("*.wandb")) and KEY.encode() not in kept


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
