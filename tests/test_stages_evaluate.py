"""Models before and after: on questions with right answers, on earlier tasks, and on plain text."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from command import Ended, composed, refused, run, stage
from real_data import FOLDER, real
from tiny_data import INSTRUCTIONS, STEPS, written

from instruct.readers import InstructionData, read_instructions
from models.errors import ConfigError, DataError
from train.artifact import read_artifact

EARLIER = [{"messages": [{"role": "user", "content": f"{i} + 4 ?"}, {"role": "assistant", "content": f"{i + 4} ."}]}
           for i in range(6)]  # fmt: skip
SCORES = {"exact_match", "token_f1", "rouge_l", "chrf", "perplexity", "bits_per_byte", "ended", "length"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("evaluate")
    rows = {"alpaca": INSTRUCTIONS, "earlier": EARLIER, "text": [{"text": f"the library {i} ."} for i in range(8)]}
    return {name: written(folder / f"{name}.jsonl", lines) for name, lines in rows.items()}


@pytest.fixture(scope="module")
def options(files: dict[str, str], llama_folder: str, tiny: Path) -> tuple[str, ...]:
    return (
        *(f"outputs={Path(files['text']).parent}", "name=x", "max_new_tokens=4", "data.eval_fraction=0.3"),
        *(f"models.before={llama_folder}", f"models.after={tiny / 'outputs/tiny/sft'}"),
        *("data=alpaca", f"data.path={files['alpaca']}", "data.shots=[2]", "side_by_side=3"),
        *("tasks.earlier.format=messages", f"tasks.earlier.path={files['earlier']}", "tasks.earlier.side=all"),
        *("tasks.web.format=text", f"tasks.web.path={files['text']}", "tasks.web.eval_fraction=0.5"),
    )


@pytest.fixture(scope="module")
def compared(options: tuple[str, ...], files: dict[str, str]) -> Ended:
    ended = stage("evaluate", *options, cwd=Path(files["text"]).parent)
    assert ended.code == 0, ended.stderr
    return ended


@pytest.fixture(scope="module")
def results(compared: Ended, files: dict[str, str]) -> dict[str, Any]:
    return json.loads((Path(files["text"]).parent / "x/evaluate/results.json").read_text())


def test_every_model_is_measured_on_the_held_out_questions_and_on_every_task(
    results: dict[str, Any], files: dict[str, str]
) -> None:
    held_out = read_instructions(InstructionData(format="alpaca", path=files["alpaca"], eval_fraction=0.3)).eval
    for found in results.values():
        assert set(found) >= {*SCORES, "sampled", "tasks", "shots"} and set(found["shots"]["2"]) == {
            *SCORES,
            "examples",
        }
        assert {found[name]["n"] for name in SCORES} == {len(held_out)}
        assert set(found["tasks"]["earlier"]) == SCORES and found["tasks"]["earlier"]["chrf"]["n"] == len(EARLIER)
        assert set(found["tasks"]["web"]) == {"perplexity", "bits_per_byte"}
        assert 0 < found["tasks"]["web"]["perplexity"]["n"] < 8  # the held-out side alone
        assert set(found["sampled"]) >= SCORES - {"perplexity", "bits_per_byte"}


def test_changes_stand_against_before_and_are_paired(results: dict[str, Any]) -> None:
    assert "gain" not in results["before"]  # the reference, since no model is named sft
    after, gain = results["after"], results["after"]["gain"]
    for place in (
        ("rouge_l",),
        ("tasks", "web", "bits_per_byte"),
        ("tasks", "earlier", "ended"),
        ("shots", "2", "chrf"),
    ):
        before, now, change = results["before"], after, gain
        for key in place:
            before, now, change = before[key], now[key], change[key]
        assert change["mean"] == pytest.approx(now["mean"] - before["mean"])
        assert change["low"] <= change["mean"] <= change["high"] and change["n"] == now["n"]
    assert "rouge_l" in after["sampled"]["gain"]


def test_perplexity_of_the_right_answers_is_what_training_measured(
    files: dict[str, str], llama_folder: str, tmp_path: Path
) -> None:
    data = ("data=alpaca", f"data.path={files['alpaca']}", "data.eval_fraction=0.3")
    place = (f"outputs={tmp_path}", "name=x")
    run("sft", *data, *place, f"model.path={llama_folder}", *STEPS)
    run("evaluate", *data, *place, f"models.sft={tmp_path / 'x/sft'}", "max_new_tokens=2")
    training = read_artifact(tmp_path / "x/sft").manifest["metrics"]["eval_nll"]
    found = json.loads((tmp_path / "x/evaluate/results.json").read_text())["sft"]
    assert found["perplexity"]["mean"] == pytest.approx(math.exp(training), rel=1e-4)


def test_the_report_shows_before_and_after(compared: Ended, files: dict[str, str]) -> None:
    folder = Path(files["text"]).parent
    assert stage("report", f"outputs={folder}", "name=x", cwd=folder).code == 0
    page = (folder / "x/report.html").read_text(encoding="utf-8")
    assert "Before and after" in page and "paired change from before" in page and "right answer" in page
    assert all(
        f">{name}</th>" in page for name in ("earlier", "web", "held-out questions", "ROUGE-L, up to 2 examples")
    )


def test_samples_hold_the_right_answer(compared: Ended, files: dict[str, str]) -> None:
    lines = (Path(files["text"]).parent / "x/evaluate/samples.jsonl").read_text().splitlines()
    known = {f"{row['instruction']}\n\n{row['input']}".strip(): row["output"] for row in INSTRUCTIONS}
    rows = [json.loads(line) for line in lines]
    assert len(rows) == 3 and all(known[row["prompt"]] == row["right"] for row in rows)
    assert all(set(row["answers"]) == {"before", "after"} for row in rows)


def test_a_model_that_only_moved_is_the_same_and_another_one_is_not(
    compared: Ended, options: tuple[str, ...], llama_folder: str, qwen2_folder: str, tmp_path: Path
) -> None:
    shutil.copytree(llama_folder, tmp_path / "moved")
    again = stage("evaluate", *options, f"models.before={tmp_path / 'moved'}", cwd=tmp_path)
    assert again.code == 0 and "done already, unchanged" in again.stderr
    assert "models.before" in refused(ConfigError, "evaluate", *options, f"models.before={qwen2_folder}")


def test_a_model_does_not_differ_from_itself(files: dict[str, str], qwen2_folder: str, tmp_path: Path) -> None:
    models = (f"models.one={qwen2_folder}", f"models.two={qwen2_folder}", "reference=two", "max_new_tokens=3")
    data = ("data=messages", f"data.path={files['earlier']}", "data.side=all", f"outputs={tmp_path}", "name=x")
    assert stage("evaluate", *models, *data, cwd=tmp_path).code == 0
    gain = json.loads((tmp_path / "x/evaluate/results.json").read_text())["one"]["gain"]
    assert set(gain) == SCORES
    assert all((change["low"], change["mean"], change["high"]) == (0, 0, 0) for change in gain.values())


def test_rows_that_ask_the_same_are_one_question_with_several_answers(qwen2_folder: str, tmp_path: Path) -> None:
    row = {"instruction": "the capital of peru ?", "input": "", "output": "lima"}
    path = written(tmp_path / "rows.jsonl", [row, {**row, "output": "lima ."}, {**row, "instruction": "and spain ?"}])
    place = (f"outputs={tmp_path}", "name=x", "max_new_tokens=2", f"models.a={qwen2_folder}")
    assert stage("evaluate", "data=alpaca", f"data.path={path}", "data.side=all", *place, cwd=tmp_path).code == 0
    assert json.loads((tmp_path / "x/evaluate/results.json").read_text())["a"]["rouge_l"]["n"] == 2


def test_a_model_of_stories_finds_a_story_likelier_than_the_web(tmp_path: Path) -> None:
    model = FOLDER.parent / "models/stories260k"
    if not (model / "model.safetensors").is_file():
        pytest.skip(f"no model in {model}; set HHH_REAL_DATA to the folder of data beside models/")
    story = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park."
    tasks = {"story": written(tmp_path / "story.jsonl", [{"text": story}]), "web": real("c4_demo.jsonl")}
    named = [f"tasks.{name}.{option}" for name in tasks for option in ("format=text", "side=all", "limit=4")]
    paths = [f"tasks.{name}.path={path}" for name, path in tasks.items()]
    data = ("data=alpaca", f"data.path={real('identity.json')}", "max_new_tokens=2", f"models.before={model}")
    run("evaluate", *data, *named, *paths, f"outputs={tmp_path}", "name=x")
    found = json.loads((tmp_path / "x/evaluate/results.json").read_text())["before"]["tasks"]
    # The model has 512 tokens, and the pages are several times as long as its 512 positions.
    assert 1 < found["story"]["perplexity"]["mean"] < 10 < found["web"]["perplexity"]["mean"] < 512
    assert found["story"]["bits_per_byte"]["mean"] < found["web"]["bits_per_byte"]["mean"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("tasks.x.path=a", "tasks.x.format=prompts"),
        ("data=text data.path=a", "tasks.<name>"),
        ("data=alpaca data.path=a data.shots=[-1]", "0 or more"),
        ("data=alpaca data.path=a data.shots=[2] data.side=all", "data.side=eval"),
        ("data=prompts data.path=a data.shots=[2]", "no examples"),
        ("data=alpaca data.path=a data.side=train", "eval, all"),
        ("data=prompts data.path=a data.side=all", "no sides"),
        ("harness.include=/nowhere", "a folder"),
        ("harness.limit=0", "at least 1"),
    ],
)
def test_an_option_that_measures_nothing_is_refused(wrong: str, said: str) -> None:
    assert said in refused(ConfigError, "evaluate", "models.a=b", *wrong.split())


def test_a_task_is_split_by_the_seed_of_its_stage() -> None:
    task = ("tasks.x.path=a", "tasks.x.format=text")
    assert composed("evaluate", "models.a=b", "seed=5", *task).tasks["x"].seed == 5
    below = [f"evaluate.{option}" for option in task]
    assert composed("pipeline", "seed=5", *below).evaluate.tasks["x"].seed == 5
    assert composed("evaluate", "models.a=b", "seed=5", *task, "tasks.x.seed=7").tasks["x"].seed == 7


def test_without_a_model_nothing_starts() -> None:
    assert "models.before=" in refused(ConfigError, "evaluate")


def test_no_held_out_row_is_said_and_no_metric_made_up(
    files: dict[str, str], llama_folder: str, tmp_path: Path
) -> None:
    options = ("data=alpaca", f"data.path={files['alpaca']}", "data.eval_fraction=0", f"models.a={llama_folder}")
    ended = stage("evaluate", *options, f"outputs={tmp_path}", "name=x", cwd=tmp_path)
    assert ended.code == 3 and "held out" in ended.error and "side=all" in ended.error
    assert not list(tmp_path.rglob("results.json"))


def test_more_examples_than_there_are_is_said(files: dict[str, str], llama_folder: str, tmp_path: Path) -> None:
    options = (f"outputs={tmp_path}", f"models.a={llama_folder}", f"data.path={files['alpaca']}", "data.shots=[99]")
    assert "99" in refused(DataError, "evaluate", "data=alpaca", "data.eval_fraction=0.3", *options)
