"""The benchmark of sharding runs, and its table says what was measured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command import ENVIRONMENT

from bench import zero
from bench.harness import peak_memory, python


def test_a_quick_run_writes_its_rows(tmp_path: Path) -> None:
    if any(shutil.which(tool, path=ENVIRONMENT["PATH"]) is None for tool in ("g++", "ninja")):
        pytest.skip("DeepSpeed compiles an operator and needs g++ and ninja")
    small = ("--quick", "--stages", "dpo", "--levels", "none", "zero3", "--outputs", str(tmp_path))
    peak_memory(python("bench.zero", *small), threads=1)
    rows = json.loads((tmp_path / "zero.json").read_text())["rows"]
    assert [(row["method"], row["level"]) for row in rows] == [
        (method, level) for method in ("full", "lora") for level in ("none", "zero3")
    ]
    for row in rows:
        assert row["steps"] == 3 and row["processes"] == 2
        assert row["loss_difference"] < 1e-5
    plain, sharded = rows[:2]
    assert sum(sharded["held_bytes"].values()) < 0.7 * sum(plain["held_bytes"].values())


def test_the_table_has_a_line_for_each_row() -> None:
    row = {"stage": "sft", "method": "lora", "level": "zero3", "loss_difference": 2e-7, "seconds_per_step": 0.5}
    held = {"weights": 2_000_000, "gradients": 500_000, "optimizer": 1_500_000, "frozen": 0}
    table = zero.table([row | {"held_bytes": held}])
    assert table.splitlines()[2] == "| sft | lora | zero3 | 2e-07 | 2.00 | 0.50 | 1.50 | 0.00 | 4.00 | 0.50 |"
