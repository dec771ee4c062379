"""One of the processes that train what a list says, one after the other: torchrun … -m bench.zero_worker jobs.json

A job is {"stage": …, "options": [...]}; beside its artefact lies held.json then, what each process held in bytes.
"""

from __future__ import annotations

import gc
import importlib
import json
import sys
from pathlib import Path
from typing import Any, get_type_hints

from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore

import train.training
from bench.held_bytes import HeldBytes, frozen_beside
from train.entry import checked
from train.processes import gathered, rank
from train.schemas import schema_node
from train.trainer import StageTrainer


class Watched(StageTrainer):
    """A trainer that tells what it holds. `held` is that of the last one."""

    held = HeldBytes()

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        Watched.held = HeldBytes(frozen_beside(self.batches))
        self.add_callback(Watched.held)


def prepare(trainer: type[StageTrainer] = Watched) -> None:
    """Let every stage train with this one."""
    train.training.StageTrainer = trainer


def run(job: dict[str, Any]) -> None:
    """What `python -m stages.<stage> <options>` runs."""
    stage, options = job["stage"], job["options"]
    module = importlib.import_module(f"stages.{stage}")
    schema = get_type_hints(module.run)["cfg"]
    ConfigStore.instance().store(name=f"{stage}_schema", node=schema_node(schema, options))
    with initialize_config_module("conf", version_base="1.3"):
        artefact = module.run(checked(compose(config_name=stage, overrides=options)))
    held = gathered(Watched.held.found)
    if rank() == 0:
        (artefact.folder / "held.json").write_text(json.dumps(held))


if __name__ == "__main__":
    prepare()
    for one in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        run(one)
        gc.collect()  # an engine holds itself
