"""Rewards of every kind as `python -m stages.ppo` meets them: what is learnt from, and what each fault gets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command import Ended, stage
from teacher_server import giving, serving
from test_stages_reward_terms import encoder
from tiny_data import PROMPTS, ROLLOUTS, written

Ask = Callable[..., Ended]
PLAIN = ("rl.score.clip=null", "rl.score.missing_end_penalty=0")  # the score is the weighted sum of the columns
WITHOUT_CRITIC = ("rl.algorithm=grpo", "rl.samples=2", "trainer.batch_size=4")


@pytest.fixture
def ask(tmp_path: Path, tiny: Path) -> Ask:
    """Runs the stage in a folder of its own, on prompts whose rows have an answer."""
    data = written(tmp_path / "prompts.jsonl", [{**row, "answer": "lima ."} for row in PROMPTS])
    given = (f"model.path={tiny / 'outputs/tiny/sft'}", "data=prompts", f"data.path={data}", *ROLLOUTS)
    return lambda *options, **more: stage("ppo", *given, *options, cwd=tmp_path, **more)


def rollout(folder: Path) -> dict[str, float]:
    """The metrics of the first rollout."""
    lines = (folder / "outputs/default/ppo/metrics.jsonl").read_text().splitlines()
    return next(line for line in map(json.loads, lines) if "objective/score" in line)


def mine(folder: Path, lines: str) -> str:
    (folder / "my_rewards.py").write_text(lines)
    return "reward.also.mine.function=my_rewards.f"


def test_the_reward_is_the_weighted_sum_of_models_and_functions(ask: Ask, tmp_path: Path, tiny: Path) -> None:
    brevity = mine(tmp_path, "def f(completions, **_): return [-len(c[0]['content']) for c in completions]")
    reward = (f"reward.path={tiny / 'outputs/tiny/reward'}", "rl.weights.honest=0.5")
    ended = ask(*reward, f"+{brevity}", "+reward.also.mine.weight=0.1", *PLAIN)
    assert ended.code == 0, ended.stderr
    found = rollout(tmp_path)
    parts = {"helpful": 1.0, "honest": 0.5, "harmless": 1.0, "mine": 0.1}
    total = sum(weight * found[f"reward/{name}"] for name, weight in parts.items())
    assert found["objective/score"] == pytest.approx(total, abs=1e-4) and found["reward/mine"] < 0


def test_a_verifiable_reward_needs_no_reward_model(ask: Ask, tmp_path: Path) -> None:
    """The function is told the row's answer, below the system turn; a term without weight is logged alone."""
    lines = (
        "def f(prompts, answer, **_):\n"
        "    return [(p[0]['content'] == 'Be brief.') * len(a) for p, a in zip(prompts, answer)]"
    )
    right = ("reward.also.right.function=reward.functions.exact_match", "reward.also.mine.weight=0")
    ended = ask(mine(tmp_path, lines), *right, "data.system=Be brief.", *WITHOUT_CRITIC, *PLAIN)
    assert ended.code == 0, ended.stderr
    found = rollout(tmp_path)
    assert found["reward/mine"] == len("lima .") and found["objective/score"] == found["reward/right"] == 0.0
    assert "reward/helpful" not in found


def test_several_reward_models_and_a_label_of_a_classifier(ask: Ask, tmp_path: Path, tiny: Path) -> None:
    models = f"reward.models=[{tiny / 'outputs/tiny/reward'},{tiny / 'outputs/tiny/reward'}]"
    tone = encoder(tmp_path / "tone", id2label={0: "NEGATIVE", 1: "POSITIVE"})
    also = (f"reward.also.tone.path={tone}", "reward.also.tone.label=POSITIVE", "reward.also.tone.weight=2")
    ended = ask(models, "reward.combine=lower_bound", *also, *PLAIN)
    assert ended.code == 0, ended.stderr
    found = rollout(tmp_path)
    total = sum(found[f"reward/{name}"] for name in ("helpful", "honest", "harmless")) + 2 * found["reward/tone"]
    assert found["objective/score"] == pytest.approx(total, abs=1e-4) and found["reward/tone"] < 0


def test_a_remote_scorer_is_learnt_from_and_its_key_stands_nowhere(ask: Ask, tmp_path: Path) -> None:
    def lengths(_: int, body: Any) -> Callable[..., None]:
        return giving(json.dumps({"scores": [len(text) for text in body["completions"]]}))

    with serving(lengths) as server:
        ended = ask(
            f"reward.also.far.url={server.url}", *WITHOUT_CRITIC, environment={"REWARD_API_KEY": "hush-hush-hush"}
        )
        assert {headers["Authorization"] for headers in server.headers} == {"Bearer hush-hush-hush"}
    assert ended.code == 0, ended.stderr
    assert rollout(tmp_path)["reward/far"] > 0
    files = [path for path in (tmp_path / "outputs").rglob("*") if path.is_file()]
    assert not any(b"hush-hush" in path.read_bytes() for path in files) and "hush" not in ended.stderr


def test_a_function_that_was_edited_makes_another_run(ask: Ask, tmp_path: Path) -> None:
    options = (mine(tmp_path, "def f(completions, **_): return [1.0] * len(completions)"), *WITHOUT_CRITIC)
    assert ask(*options).code == 0
    assert "done already" in ask(*options).stderr
    mine(tmp_path, "def f(completions, **_): return [2.0] * len(completions)")
    ended = ask(*options)
    assert ended.code == 2 and "reward.also.mine.function (its content changed" in ended.error


@pytest.mark.parametrize(
    ("lines", "code", "message"),
    [
        ("def g(): ...", 2, "reward.also.mine.function=my_rewards.f: cannot be imported"),
        ("def f(**_): raise KeyError('tests')", 3, "raised KeyError: 'tests' (my_rewards.py:1)"),
        ("def f(prompts, **_): return [float('nan')] * len(prompts)", 5, "mine is nan for a response to prompt"),
    ],
)
def test_a_function_that_fails_ends_in_one_line(ask: Ask, tmp_path: Path, lines: str, code: int, message: str) -> None:
    ended = ask(mine(tmp_path, lines), *WITHOUT_CRITIC)
    assert ended.code == code and message in ended.error


def test_a_remote_scorer_that_keeps_failing_ends_with_75(ask: Ask) -> None:
    with serving(lambda *_: giving('{"error": "busy"}', status=503)) as server:
        fast = ("reward.also.far.limits.tries=2", "reward.also.far.limits.wait=0.01")
        ended = ask(f"reward.also.far.url={server.url}", *fast, *WITHOUT_CRITIC)
    assert ended.code == 75 and f"reward.also.far.url={server.url}: status 503 (busy), after 2 tries" in ended.error


def test_a_misspelt_option_below_a_name_is_told(ask: Ask) -> None:
    ended = ask("reward.also.x.functoin=a.b")
    assert ended.code == 2 and "did you mean reward.also.<name>.function?" in ended.error


def test_what_is_held_by_a_constraint_must_be_scored(ask: Ask) -> None:
    ended = ask("reward.also.x.function=reward.functions.length", "rl.constraint.limit=1")
    assert ended.code == 2 and "rl.constraint.axis=harmless: expected one of x" in ended.error
