"""A run: one stage, in one folder, from lock to seal. Seeds, inputs, log, tracking, checkpoints and the manifest."""

from __future__ import annotations

import logging
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed
from transformers.utils import logging as transformers_logging

from models.errors import NumericsError
from models.loading import template_digest, tokenizer_digest
from train import checkpoints
from train.artifact import RUN_RECORD, Artifact, base_of, model_folder, read_artifact, save_model, seal, write_json
from train.batches import Share
from train.callbacks import MetricsLog, NumbersGuard
from train.checkpoints import CHECKPOINTS
from train.config import StageConfig
from train.digests import digest
from train.faults import check_faults_allowed, fault_point
from train.lock import FolderLock
from train.machine import machine_fault
from train.preemption import StopWhenAsked
from train.processes import barrier, from_main, join, rank, world_size
from train.records import record_of, standing
from train.secrets import without_secrets
from train.sharding import Sharding
from train.state import savable
from train.surroundings import fall_back, forget_peak_memory, peak_memory_mb, surroundings
from train.tracking import NoTracker, Tracker, break_off, conclude, open_tracker
from train.trainer import TrainerConfig

MADE_BY = "made_by"  # in a checkpoint's state: the processes that saved it
RUNTIME_OPTIONS = ("name", "outputs", "threads", "tracking", "deepspeed")  # no part of what a run is


class Run:
    """`with Run(cfg, stage="sft") as run:` — inside, `run.sealed` tells whether there is nothing left to do."""

    def __init__(self, cfg: StageConfig, stage: str) -> None:
        check_faults_allowed()
        self.cfg, self.stage = cfg, stage
        self.folder = Path(cfg.outputs) / cfg.name / stage
        self.checkpoints = self.folder / CHECKPOINTS
        self.lock = FolderLock(self.folder)
        # What a checkpoint remembers of the stage, and the files of its own that it holds.
        self.state: dict[str, Callable[[], Any]] = {MADE_BY: lambda: self.made_by}
        self.files: dict[str, Callable[[Path], None]] = {}
        self.sealed: Artifact | None = None
        self.tracker: Tracker = NoTracker()
        self.guard, self.stop = NumbersGuard(), StopWhenAsked()
        self.sharding = Sharding()  # what of the configured one has a meaning here
        self.parts: int | None = None  # micro-batches of a step, where those of the configuration did not fit
        self.training: dict[str, float] = {}  # seconds and targets of what this process trained

    def __enter__(self) -> Run:
        quiet_libraries()
        join(self.cfg.process_timeout)
        if rank() == 0:
            self.lock.acquire()
        try:
            self._open()
        except BaseException as error:
            self._end(error)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if isinstance(error, NumericsError) and error.batch:
            path = self.folder / f"failed_batch-{rank()}.pt"
            torch.save(error.batch, path)
            self.say(f"what was no number came of the batch in {path}")
        self._end(error)

    def input(self, path: str, kind: str) -> str:
        """The model folder behind a path, after checking that what a stage made is whole and of the expected kind."""
        return model_folder(path, kind)

    def generator(self, purpose: str) -> torch.Generator:
        """Random numbers of one purpose, the same whatever else was drawn before."""
        return torch.Generator().manual_seed(self.random_seed(purpose))

    def random_seed(self, purpose: str) -> int:
        """A whole number for one purpose of this run's seed."""
        return int(digest([self.cfg.seed, purpose])[:12], 16)

    @property
    def made_by(self) -> str:
        """How many processes work here, and how they share."""
        return f"{world_size()} process{'es' if world_size() > 1 else ''}, deepspeed={self.sharding.name}"

    def share(self, trainer: TrainerConfig) -> Share:
        """This process's part of each optimizer step."""
        return Share(trainer.batch_size, trainer.accumulation, rank(), world_size())

    def state_now(self) -> dict[str, Any]:
        """What a checkpoint remembers of the stage."""
        return {name: read() for name, read in self.state.items()}

    @cached_property
    def found(self) -> tuple[Path | None, dict[Path, str]]:
        """The checkpoint that training goes on from, and what is wrong with newer ones. Looked for once: every file of
        it is digested."""
        return checkpoints.newest(self.checkpoints)

    def restored_state(self) -> dict[str, Any]:
        """What the stage saved of its own in the checkpoint that `train` will go on from."""
        return checkpoints.stage_state(self.found[0]) if self.found[0] else {}

    def restored_file(self, name: str) -> Path:
        """Where a file of the stage's own lies in that checkpoint; it need not be there."""
        return (self.found[0] or self.checkpoints) / name

    def begin_log(self) -> None:
        """Forget what was logged by a run that was cut off before its first checkpoint."""
        MetricsLog(self.folder / "metrics.jsonl", self.tracker).keep_until(-1)

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Metrics beside the trainer's own."""
        if rank() == 0:
            MetricsLog(self.folder / "metrics.jsonl", self.tracker).write(metrics, step)

    def say(self, line: str) -> None:
        """One line for the person who waits."""
        if rank() == 0:
            sys.stderr.write(f"[{self.stage}] {without_secrets(line)}\n")  # at once: other processes write there, too
            sys.stderr.flush()

    def warn(self, title: str, text: str) -> None:
        """Something that should worry whoever watches: to the person who waits, and to the tracker."""
        self.say(f"alert {text}")
        if rank() == 0:
            self.tracker.alert(title, without_secrets(text))

    def write(self, name: str, write: Callable[[Path], object]) -> None:
        """A file beside the model, whole or absent, written by the main process."""
        if rank() == 0:
            aside = self.folder / f".{name}.tmp"
            write(aside)
            aside.replace(self.folder / name)

    def seal(
        self,
        kind: str,
        *,
        metrics: dict[str, Any],
        model: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        facts: dict[str, Any] | None = None,
        beside: dict[str, str] | None = None,
    ) -> Artifact:
        """Save the model aside, rename it, write the manifest last, and let the checkpoints go.

        beside: texts by the names of the files that hold them in the model's folder.
        """
        if model is not None and tokenizer is not None:
            with savable(model) as weights:
                if rank() == 0:
                    save_model(self.folder, model, tokenizer, weights, beside or {}, root=Path(self.cfg.outputs))
        if rank() == 0:
            fault_point(f"{self.stage}:seal:0")
            base = base_of(self.folder / "model") if model is not None else None
            self.sealed = seal(self.folder, {**self._manifest(kind, metrics, tokenizer, facts or {}), "base": base})
            (self.folder / RUN_RECORD).unlink(missing_ok=True)
            shutil.rmtree(self.checkpoints, ignore_errors=True)
            if said := conclude(self.tracker, self.sealed):
                self.say(said)
        barrier()
        return self.sealed or read_artifact(self.folder, verify=False)

    def _open(self) -> None:
        self.record = record_of(self.stage, self.cfg)
        held = from_main(standing(self.folder, self.record, self.cfg.resume) if rank() == 0 else None)
        if held == "sealed":
            self.sealed = read_artifact(self.folder, verify=False)
            self.say("done already, unchanged")
            return
        self.started = time.monotonic()
        forget_peak_memory()
        if self.cfg.threads:
            torch.set_num_threads(self.cfg.threads)
        set_seed(self.cfg.seed)
        asked = getattr(self.cfg, "deepspeed", self.sharding)
        self.sharding = asked.here()
        if self.sharding.stage != asked.stage:
            self.say(f"deepspeed={asked.name}: one process has nobody to share with, so it trains without DeepSpeed")
        if line := fall_back():
            self.say(line)
        if rank() == 0:
            write_json(self.folder / RUN_RECORD, self.record)
            self.tracker = open_tracker(
                self.cfg.tracking, self.folder, experiment=self.cfg.name, stage=self.stage, config=self.record["config"]
            )
            if self.tracker.where:
                self.say(self.tracker.where)

    def _end(self, error: BaseException | None) -> None:
        """Let the folder go. What the machine did is said in words of its own."""
        fault = machine_fault(error, self.folder) if error is not None else None
        if rank() == 0:
            if not self.sealed:
                break_off(self.tracker, self.stage, fault or error)
            self.lock.release()
        if fault is not None:
            raise fault from error

    def _manifest(
        self, kind: str, metrics: dict[str, Any], tokenizer: PreTrainedTokenizerBase | None, facts: dict[str, Any]
    ) -> dict[str, Any]:
        seconds = time.monotonic() - self.started
        return {
            **self.record,
            "kind": kind,
            "seed": self.cfg.seed,
            **surroundings(),
            "wall_seconds": round(seconds, 2),
            **self.training,
            "peak_memory_mb": peak_memory_mb(),
            "wandb_run_id": self.tracker.run_id,
            "tokenizer_digest": tokenizer_digest(tokenizer) if tokenizer is not None else None,
            "template_digest": template_digest(tokenizer.chat_template) if tokenizer is not None else None,
            "run": {k: v for k, v in asdict(self.cfg).items() if k in RUNTIME_OPTIONS},
            "steps_skipped": self.guard.skipped,
            "facts": facts,
            "metrics": metrics,
        }


def quiet_libraries() -> None:
    """Their progress bars and notes are not ours to show."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
