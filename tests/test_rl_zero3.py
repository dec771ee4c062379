"""A policy whose weights ZeRO-3 has partitioned samples with whole weights, gathered once, whoever has prompts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command import ENVIRONMENT, ROOT


def test_weights_are_gathered_once_a_rollout_and_not_once_a_token(llama_folder: str) -> None:
    """One of the two processes has no prompt."""
    missing = [tool for tool in ("g++", "ninja") if shutil.which(tool, path=ENVIRONMENT["PATH"]) is None]
    if missing:
        pytest.skip(f"DeepSpeed compiles an operator and needs {' and '.join(missing)}")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(Path(__file__).parent / "zero3_rollout.py"), llama_folder]
    environment = {**os.environ, **ENVIRONMENT, "DS_ACCELERATOR": "cpu"}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    told = json.loads(next(line for line in ended.stdout.splitlines() if line.startswith('{"same"')))
    assert told["same"] and told["partitioned"]
    assert told["once"] <= told["weights"] < told["plain"]
    assert told["losses"][1] < told["losses"][0]  # training goes on as if nothing had been sampled
