"""What is seen of a run of RL: in the log, on W&B and in the report. Its model seldom ends a turn, which is told."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from command import Ended, run, stage
from tiny_data import ROLLOUTS

from train.wandb_log import records

ALERT = "cut off: no end of turn"


@pytest.fixture(scope="module")
def options(tiny: Path) -> tuple[str, ...]:
    """Four rollouts of four responses, in two groups each, and one step on each."""
    made = tiny / "outputs/tiny"
    asked = ("data=prompts", f"data.path={tiny / 'prompts.jsonl'}", f"reward.path={made / 'reward'}", *ROLLOUTS)
    small = ("rl.rollouts=4", "rl.prompts=2", "rl.samples=2", "trainer.batch_size=4")
    return (*asked, f"model.path={made / 'sft'}", *small)


@pytest.fixture(scope="module")
def ended(options: tuple[str, ...], tiny: Path) -> Ended:
    offline = {"WANDB_MODE": "offline", "WANDB_API_KEY": ""}
    found = stage("ppo", *options, "name=watched", "tracking=wandb", cwd=tiny, environment=offline, limit=240)
    assert found.code == 0, found.stderr
    return found


@pytest.fixture(scope="module")
def folder(ended: Ended, tiny: Path) -> Path:
    return tiny / "outputs/watched/ppo"


@pytest.fixture(scope="module")
def lines(folder: Path) -> list[dict[str, Any]]:
    return logged(folder)


def logged(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_log_holds_numbers_alone(lines: list[dict[str, Any]]) -> None:
    assert all(isinstance(value, int | float) and math.isfinite(value) for line in lines for value in line.values())


def test_one_line_holds_all_that_belongs_to_a_rollout(lines: list[dict[str, Any]]) -> None:
    rollouts = [line for line in lines if "objective/kl" in line]
    assert [line["step"] for line in rollouts] == [1, 2, 3, 4]
    for line in rollouts:
        assert {
            "reward/helpful",
            "reward/honest",
            "reward/harmless",
            "objective/score_std",
            "objective/entropy",
        } <= set(line)
        assert {"policy/clip_fraction", "policy/loss", "value/loss", "value/explained_variance"} <= set(line)
        assert {"response/length", "response/ended", "response/repeated", "advantage/equal_groups"} <= set(line)
        assert {f"seconds/{part}" for part in ("rollout", "scoring", "evaluation", "update")} <= set(line)
        assert 1 <= line["response/length"] <= line["response/length_max"] <= 5
    assert rollouts[0]["objective/kl"] == pytest.approx(0.0, abs=1e-5)
    looks = [line for line in lines if "held_out/proxy" in line]
    assert [line["step"] for line in looks] == [0, 2, 4] and all("held_out/referee" in line for line in looks)


def test_histograms_and_samples_lie_beside_the_log(folder: Path) -> None:
    assert sorted(int(file.stem) for file in (folder / "rollouts").iterdir()) == [1, 2, 4]
    record = json.loads((folder / "rollouts/4.json").read_text())
    assert len(record["kl"]) == len(record["score"]) == len(record["length"]) == len(record["samples"]) == 4
    assert set(record["samples"][0]["scores"]) == {"helpful", "honest", "harmless"}
    [look, *_] = json.loads((folder / "looks/4.json").read_text())["answers"]
    assert set(look["scores"]) == {"referee", "proxy"}


def test_an_alert_is_said_once_and_stays_in_the_manifest(ended: Ended, folder: Path) -> None:
    [iteration] = re.findall(rf"alert after rollout (\d): .*{ALERT}", ended.stderr)
    alerts = json.loads((folder / "manifest.json").read_text())["metrics"]["alerts"]
    assert [(alert["iteration"], alert["name"]) for alert in alerts if ALERT in alert["text"]] == [
        (int(iteration), "unfinished")
    ]


def test_wandb_keeps_curves_histograms_samples_and_alerts(ended: Ended, folder: Path) -> None:
    [file] = folder.glob("wandb/offline-run-*/*.wandb")
    found = list(records(file))
    alerts = [record.alert for record in found if record.HasField("alert")]
    assert [alert.title for alert in alerts].count("unfinished") == 1 and any(ALERT in alert.text for alert in alerts)
    seen: dict[str, list[Any]] = {}
    for record in found:
        for item in record.history.item:
            name = item.key or "/".join(item.nested_key)
            seen.setdefault(name, []).append(json.loads(item.value_json))
    assert len(seen["objective/kl"]) == 4 and len(seen["held_out/proxy"]) == 3
    assert seen["rollout/kl/_type"] == seen["rollout/length/_type"] == ["histogram"] * 3
    assert seen["rollout/samples/_type"] == ["table-file"] * 3


def test_the_report_shows_the_course_of_a_policy_before_any_evaluation(folder: Path, tiny: Path) -> None:
    page = run("report", f"outputs={tiny / 'outputs'}", "name=watched").read_text(encoding="utf-8")
    assert page.index(ALERT) < page.index("Reinforcement learning: ppo") < page.index("Where the time went")
    for shown in ("explained variance", "clip fraction", "entropy", "Reward against", "KL of single responses"):
        assert shown in page
    assert "after rollout 0" in page and "after rollout 4" in page and "what is the capital of" in page


def test_two_processes_see_what_one_sees(
    options: tuple[str, ...], ended: Ended, lines: list[dict[str, Any]], tiny: Path
) -> None:
    both = stage("ppo", *options, "name=both", cwd=tiny, processes=2, limit=240)
    assert both.code == 0, both.stderr
    found = logged(tiny / "outputs/both/ppo")
    assert [line.keys() for line in found] == [line.keys() for line in lines]
    for ours, theirs in zip(found, lines, strict=True):
        numbers = {name: value for name, value in theirs.items() if not name.startswith("seconds/")}
        assert {name: ours[name] for name in numbers} == pytest.approx(numbers, rel=1e-3, abs=1e-3)
    alerts = [re.findall("alert .*", one.stderr) for one in (ended, both)]
    assert alerts[0] == alerts[1]
