"""RL with a sampler of its own, as a user types it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from command import stage
from teacher_server import serving
from tiny_data import ROLLOUTS
from vllm_server import Engine


@pytest.fixture
def options(tiny: Path, tmp_path: Path) -> tuple[str, ...]:
    return (
        *("data=prompts", f"data.path={tiny / 'prompts.jsonl'}", f"model.path={tiny / 'outputs/tiny/sft'}"),
        *(f"reward.path={tiny / 'outputs/tiny/reward'}", "rl.algorithm=grpo", "rl.samples=2", *ROLLOUTS),
        *(f"outputs={tmp_path}", "name=run", "rl.sampler.engine=vllm"),
    )


def test_a_policy_learns_from_what_a_server_samples(options: tuple[str, ...], tiny: Path, tmp_path: Path) -> None:
    engine = Engine(str(tiny / "outputs/tiny/sft/model"))
    with serving(engine) as server:
        at = (f"rl.sampler.url={server.url}", "rl.sampler.model=base")
        ended = stage("ppo", *options, *at, "rl.rollouts=2", cwd=tmp_path)
    assert ended.code == 0, ended.stderr
    assert engine.paths.count("/v1/completions") >= 2 * 4 and engine.paths.count("/collective_rpc") >= 2
    logged = [json.loads(line) for line in (tmp_path / "run/ppo/metrics.jsonl").read_text().splitlines()]
    gaps = [value for line in logged for name, value in line.items() if name.endswith("sampler/mean")]
    assert gaps and max(gaps) < 1e-5  # the same model and the same precision


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed here")
def test_vllm_that_is_not_there_ends_the_stage_with_one_line(options: tuple[str, ...], tmp_path: Path) -> None:
    ended = stage("ppo", *options, cwd=tmp_path)
    assert ended.code == 2 and "Traceback" not in ended.stderr
    assert "error: rl.sampler.engine=vllm: vLLM cannot be imported here" in ended.stderr.splitlines()[-1]
