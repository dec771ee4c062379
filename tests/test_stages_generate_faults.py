"""`stages.generate` against teachers that are ill and gone: what is counted, what is paid for, what is lost."""

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
from command import refused, run, stage
from teacher_runs import KEY, SEEDS, counts, options, rows_of, scholar, timeless
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
from tiny_data import NAMES, written

from models.errors import ArtifactError, ConfigError, Unavailable


@pytest.fixture
def seeds(tmp_path: Path) -> str:
    return written(tmp_path / "seeds.jsonl", SEEDS)


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
