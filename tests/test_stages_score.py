"""`stages.score` as a person types it: files of every kind, several models, kills, bad rows and wrong models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from command import refused, run, stage
from real_data import real
from safetensors.torch import load_file, save_file
from test_reward_ensemble import read_as_one
from tiny_data import INSTRUCTIONS, PAIRS, RANKINGS, STEPS, written
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from models.chat import Message
from models.errors import ArtifactError, ConfigError, DataError, NumericsError
from models.layout import LayoutConfig
from models.loading import ModelConfig, load_scorer
from reward.ensemble import Replies


@pytest.fixture(scope="module")
def second(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Another reward model on the same policy, from another seed."""
    folder = tmp_path_factory.mktemp("second")
    data = ("data=kwise", f"data.path={tiny / 'kwise.jsonl'}", f"model.path={tiny / 'outputs/tiny/sft'}")
    return str(run("reward", f"outputs={folder}", "name=x", "seed=1", *data, *STEPS).folder)


@pytest.fixture
def first(tiny: Path) -> str:
    return str(tiny / "outputs/tiny/reward")


def options(folder: Path, models: str, data: str, rows: list[dict[str, Any]], *more: str) -> tuple[str, ...]:
    path = written(folder / "rows.jsonl", rows)
    return (f"outputs={folder}", "name=x", f"models=[{models}]", f"data={data}", f"data.path={path}", *more)


def lines_of(folder: Path, role: str = "score") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "x" / role / "scores.jsonl").read_text().splitlines()]


def test_every_response_of_a_ranking_gets_a_line_that_says_whose_it_is(first: str, tmp_path: Path) -> None:
    rows = [{"id": f"r{i}", **row} for i, row in enumerate(RANKINGS)]
    ended = stage("score", *options(tmp_path, first, "kwise", rows), cwd=tmp_path)
    assert ended.code == 0, ended.stderr
    assert "72 responses of 24 rows scored" in ended.stderr and "helpful accuracy" in ended.stderr
    lines = lines_of(tmp_path)
    assert [(line["id"], line["row"], line["response"]) for line in lines[:4]] == [
        ("r0", 1, 0),
        ("r0", 1, 1),
        ("r0", 1, 2),
        ("r1", 2, 0),
    ]
    judges = read_as_one([load_scorer(f"{first}/model", ModelConfig(path=first))], LayoutConfig())
    texts = [r["text"] for r in RANKINGS[5]["responses"]]
    want = judges.each([Replies((Message("user", RANKINGS[5]["prompt"]),), texts)])[0]
    got = [list(line["scores"].values()) for line in lines[15:18]]
    torch.testing.assert_close(torch.tensor(got), want, atol=1e-5, rtol=0)
    assert lines[15]["overall"] == pytest.approx(sum(got[0]) / 3, abs=1e-6)
    assert "std" not in lines[0] and "members" not in lines[0]


def test_accuracy_is_that_of_the_scores_on_the_labels(first: str, tmp_path: Path) -> None:
    """Two rankings on one axis, their labels set by what the model thinks: one as it does, one against it."""
    rows = [{"prompt": f"what is {i} ?", "responses": [{"text": t} for t in ("lima .", "no .")]} for i in (3, 4)]
    blank = [{**row, "responses": [{**r, "helpful": 0.0} for r in row["responses"]]} for row in rows]
    run("score", *options(tmp_path, first, "kwise", blank, "role=before"))
    overall = [line["scores"]["helpful"] for line in lines_of(tmp_path, "before")]
    for row, agree, own in zip(blank, (True, False), (overall[:2], overall[2:]), strict=True):
        row["responses"][0]["helpful"] = float((own[0] > own[1]) == agree)
        row["responses"][1]["helpful"] = float((own[0] > own[1]) != agree)
    found = run("score", *options(tmp_path, first, "kwise", blank)).manifest["metrics"]["rankings"]
    assert list(found) == ["helpful"]
    assert found["helpful"]["pairs"] == 2 and found["helpful"]["accuracy"]["mean"] == 0.5


@pytest.mark.parametrize(
    ("data", "rows"),
    [
        ("alpaca", INSTRUCTIONS),
        ("messages", [{"messages": [{"role": "user", "content": "3 + 4"}, {"role": "assistant", "content": "7"}]}]),
        ("prompt_completion", [{"prompt": "3 + 4", "completion": "7"}]),
    ],
)
def test_conversations_are_scored_by_their_last_reply(
    data: str, rows: list[dict[str, Any]], first: str, tmp_path: Path
) -> None:
    made = run("score", *options(tmp_path, first, data, rows))
    assert [(line["row"], line["response"]) for line in lines_of(tmp_path)] == [(i + 1, 0) for i in range(len(rows))]
    assert "rankings" not in made.manifest["metrics"]


def test_the_held_out_side_is_that_of_training(first: str, tmp_path: Path) -> None:
    place = options(tmp_path, first, "alpaca", INSTRUCTIONS, "data.eval_fraction=0.3")
    both = run("score", *place), run("score", *place, "data.side=eval", "role=held")
    n_all, n_held = (made.manifest["metrics"]["rows"] for made in both)
    assert n_all == len(INSTRUCTIONS) and 0 < n_held < n_all
    none = ("data.side=eval", "data.eval_fraction=0.0", "role=none")
    assert "nothing to score" in refused(DataError, "score", *place, *none)


def test_several_models_are_read_as_one_and_say_how_far_they_differ(first: str, second: str, tmp_path: Path) -> None:
    made = run("score", *options(tmp_path, f"{first},{second}", "kwise", RANKINGS, "combine=worst"))
    for line in lines_of(tmp_path):
        one, other = line["members"]
        for axis, score in line["scores"].items():
            assert score == min(one[axis], other[axis])
            assert line["std"][axis] == pytest.approx(abs(one[axis] - other[axis]) / 2, abs=1e-6)
    found = made.manifest["metrics"]["rankings"]["helpful"]
    assert len(found["members"]) == 2 and found["gain"]["n"] == 24
    assert found["error_auroc"].keys() == {"disagreement", "spread", "closeness"}
    assert found["accuracy"]["mean"] - found["gain"]["mean"] == pytest.approx(
        sum(member["mean"] for member in found["members"]) / 2
    )


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(first: str, tmp_path: Path) -> None:
    """Killed after two chunks, with a third begun: a whole line of it and half of another."""
    place = options(tmp_path, first, "kwise", RANKINGS, "chunk=5")
    run("score", *place, f"outputs={tmp_path / 'whole'}")
    killed = stage("score", *place, cwd=tmp_path, fault="score:chunk:2")
    assert killed.code == -9
    part = tmp_path / "x/score/scores.jsonl.part"
    assert len(part.read_bytes().splitlines()) == 30
    part.write_bytes(part.read_bytes() + b'{"id": null}\n{"id": nu')
    ended = stage("score", *place, cwd=tmp_path)
    assert ended.code == 0 and "going on after 10 rows" in ended.stderr
    assert (tmp_path / "x/score/scores.jsonl").read_bytes() == (tmp_path / "whole/x/score/scores.jsonl").read_bytes()
    assert not part.exists()
    manifests = [json.loads((tmp_path / p / "manifest.json").read_text()) for p in ("x/score", "whole/x/score")]
    assert manifests[0]["metrics"] == manifests[1]["metrics"]


def test_a_finished_file_is_not_scored_again(first: str, tmp_path: Path) -> None:
    place = options(tmp_path, first, "kwise", RANKINGS)
    run("score", *place)
    before = (tmp_path / "x/score/scores.jsonl").stat().st_mtime_ns
    assert "done already" in stage("score", *place, cwd=tmp_path).stderr
    assert (tmp_path / "x/score/scores.jsonl").stat().st_mtime_ns == before
    assert "differs in combine" in refused(ConfigError, "score", *place, "combine=worst")


def test_a_scalar_reward_model_of_elsewhere_scores_as_it_does(first: str, tmp_path: Path) -> None:
    folder = tmp_path / "scalar"
    torch.manual_seed(0)
    sft = Path(first).parent / "sft/model"
    model = AutoModelForSequenceClassification.from_pretrained(sft, num_labels=1).eval()
    tokenizer = AutoTokenizer.from_pretrained(sft)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    data = ("data.axes=[helpful]",)
    made = run("score", *options(tmp_path, str(folder), "pairs", PAIRS, *data))
    [line] = [line for line in lines_of(tmp_path) if (line["row"], line["response"]) == (3, 1)]
    turns = [{"role": "user", "content": PAIRS[2]["prompt"]}, {"role": "assistant", "content": PAIRS[2]["rejected"]}]
    with torch.no_grad():
        want = model(**tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=True)).logits.item()
    assert line["scores"] == {"score": pytest.approx(want, abs=1e-5)} and line["overall"] == line["scores"]["score"]
    assert made.manifest["metrics"]["rankings"]["helpful"]["pairs"] == len(PAIRS)


def test_what_is_too_long_is_cut_and_marked(first: str, tmp_path: Path) -> None:
    rows = [INSTRUCTIONS[0], {**INSTRUCTIONS[0], "output": "lima " * 400}]
    made = run("score", *options(tmp_path, first, "alpaca", rows))
    assert [line.get("cut", False) for line in lines_of(tmp_path)] == [False, True]
    assert made.manifest["metrics"]["cut"] == 1


@pytest.mark.parametrize("policy", ["error", "skip"])
def test_bad_rows_follow_their_policy(policy: str, first: str, tmp_path: Path) -> None:
    rows = [*RANKINGS[:3], {"prompt": "3 ?", "responses": [{"text": "alone"}]}]
    place = options(tmp_path, first, "kwise", rows, f"data.on_bad_row={policy}")
    if policy == "error":
        assert "rows.jsonl:4:responses: expected 2 responses" in refused(DataError, "score", *place)
        assert not list((tmp_path / "x/score").glob("scores*"))
    else:
        made = run("score", *place)
        assert made.manifest["metrics"]["rows"] == 3 and len(lines_of(tmp_path)) == 9
        assert made.manifest["facts"]["readings"][0]["rows"] == 4


def test_a_policy_is_no_reward_model(tiny: Path, llama_folder: str, tmp_path: Path) -> None:
    for path in (str(tiny / "outputs/tiny/sft"), llama_folder):
        line = refused(ArtifactError, "score", *options(tmp_path, path, "kwise", RANKINGS))
        assert "expected a reward model" in line


def test_scores_that_are_no_numbers_end_the_run_at_their_row(first: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(f"{first}/model", broken)
    weights = load_file(broken / "model.safetensors")
    save_file({**weights, "score.weight": weights["score.weight"] * float("nan")}, broken / "model.safetensors")
    assert "rows.jsonl:1: response 0" in refused(
        NumericsError, "score", *options(tmp_path, str(broken), "kwise", RANKINGS)
    )


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("models=[]", "name at least one"),
        ("combine=median", "mean, worst, cautious"),
        ("layout.long_prompt=drop", "marked"),
        ("data.format=text", "data.format=text"),
        ("chunk=0", "at least 1"),
    ],
)
def test_options_that_cannot_be_are_refused(option: str, said: str, first: str, tmp_path: Path) -> None:
    place = options(tmp_path, first, "kwise", RANKINGS)
    assert said in refused(ConfigError, "score", *place, option)


@pytest.mark.parametrize(
    ("data", "name", "more"),
    [
        ("hh", "hh_harmless_pairs.jsonl", ()),
        ("xstest", "kwise_xstest.jsonl", ()),
        ("sharegpt_pairs", "dpo_en_demo.json", ("data.axes=[helpful]",)),
        ("alpaca", "alpaca_zh_demo.json", ()),
    ],
)
def test_real_files_are_scored_whole(data: str, name: str, more: tuple[str, ...], first: str, tmp_path: Path) -> None:
    """Every response that the file holds has one line, in its order; the tiny model cannot see all of the long ones."""
    place = (f"outputs={tmp_path}", "name=x", f"models=[{first}]", f"data={data}", f"data.path={real(name)}")
    made = run("score", *place, "data.limit=12", *more)
    lines = lines_of(tmp_path)
    found = made.manifest["metrics"]
    assert found["rows"] == 12 == len({line["row"] for line in lines}) and found["responses"] == len(lines)
    assert [line["row"] for line in lines] == sorted(line["row"] for line in lines)
    assert found["cut"] == sum("cut" in line for line in lines)
    assert ("rankings" in found) == (data != "alpaca")
