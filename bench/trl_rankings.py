"""The peer, TRL: python -m bench.trl_rankings <reward or dpo> <material> <folder> <options>

RewardTrainer or DPOTrainer as their documentation shows them. material: what bench.ranking_material wrote; options: of
RewardConfig or DPOConfig, in JSON. Writes outcome.json into the folder.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import datasets
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, Trainer
from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer


def main(kind: str, material: Path, folder: Path, options: str) -> None:
    rows = json.loads((material / "pairs.json").read_text())
    seconds: list[float] = []
    trainer = (reward if kind == "reward" else dpo)(material, folder, rows, json.loads(options), seconds)
    trainer.train()
    *steps, end = trainer.state.log_history
    outcome = {
        "seconds": end["train_runtime"] + sum(seconds),
        "losses": [step["loss"] for step in steps],
        "grad_norms": [step["grad_norm"] for step in steps],
    }
    (folder / "outcome.json").write_text(json.dumps(outcome))


def reward(material: Path, folder: Path, rows: list[dict], options: dict, _: list[float]) -> Trainer:
    """On the ids that ours reads."""
    columns = {name: [row[name] for row in rows] for name in ("chosen_ids", "rejected_ids")}
    return RewardTrainer(
        model=AutoModelForSequenceClassification.from_pretrained(material / "scorer"),
        args=RewardConfig(**common(folder), **options),
        train_dataset=datasets.Dataset.from_dict(columns),
        processing_class=AutoTokenizer.from_pretrained(material / "scorer"),
    )


def dpo(material: Path, folder: Path, rows: list[dict], options: dict, seconds: list[float]) -> Trainer:
    """On conversations. seconds: filled with what a reference that is asked beforehand took."""
    columns = {name: [row[name] for row in rows] for name in ("prompt", "chosen", "rejected")}
    asked = DPOTrainer._precompute_ref_logps

    def timed(*given: object) -> datasets.Dataset:
        start = time.perf_counter()
        found = asked(*given)
        seconds.append(time.perf_counter() - start)
        return found

    DPOTrainer._precompute_ref_logps = timed  # nothing but a clock
    return DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(material / "model"),
        args=DPOConfig(**common(folder), **options),
        train_dataset=datasets.Dataset.from_dict(columns),
        processing_class=AutoTokenizer.from_pretrained(material / "model"),
    )


def common(folder: Path) -> dict[str, object]:
    """What has nothing to do with speed."""
    return {
        "output_dir": str(folder),
        "max_length": None,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "num_train_epochs": 1,
        "lr_scheduler_type": "constant",
        "train_sampling_strategy": "sequential",
    }


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
