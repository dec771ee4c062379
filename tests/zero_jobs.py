"""bench.zero_worker with faults, for tests: python -m zero_jobs jobs.json

A job may say {"cut": step}, to be cut off before that step ends, and {"spoil": [rank, step]}, whose gradient there is
not a number.
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerState, TrainingArguments

from bench import zero_worker
from train.processes import rank


class Cut(Exception):
    """In the place of whatever cuts a run off."""


class Faulty(zero_worker.Watched):
    """The trainer of a job with faults."""

    job: ClassVar[dict[str, Any]] = {}

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if "cut" in Faulty.job:
            self.add_callback(CutOff(Faulty.job["cut"]))

    def compute_loss(self, *args: Any, **options: Any) -> Tensor:
        loss = super().compute_loss(*args, **options)
        spoilt = Faulty.job.get("spoil") == [rank(), self.state.global_step]
        return loss * torch.nan if spoilt else loss


class CutOff(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        if state.global_step == self.step:
            raise Cut


def run(job: dict[str, Any]) -> None:
    Faulty.job = job
    try:
        zero_worker.run(job)
    except Cut:
        assert "cut" in job


if __name__ == "__main__":
    zero_worker.prepare(Faulty)
    for one in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        run(one)
        gc.collect()
