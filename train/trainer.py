"""The one trainer. Every stage gives it batches and an objective; transformers gives it everything else."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from models.errors import ConfigError
from models.layout import Batch
from models.objective import Mean, Objective
from models.options import RUNTIME
from train.batches import Batches, Share
from train.checkpoints import checkpoint_step
from train.sharding import Sharding, deepspeed_config
from train.state import load_moments, save_state


@dataclass
class TrainerConfig:
    """How weights move."""

    learning_rate: float = 1e-4  # at its peak
    batch_size: int = 32  # rows of an optimizer step, over all processes and micro-batches
    accumulation: int = 1  # micro-batches of a step
    epochs: float = 1.0  # passes over the rows; not read where max_steps is set
    max_steps: int | None = None  # optimizer steps
    warmup_steps: int = 0  # linear from 0
    schedule: str = "linear"  # linear, cosine or constant, to `final_rate` of the peak
    final_rate: float = 0.0  # share of the peak rate that is left where the schedule ends, after the last step
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    bf16: bool = False  # autocast to bfloat16
    gradient_checkpointing: bool = False  # trade compute for memory
    shuffle: bool = True  # reshuffle the rows each pass
    log_every: int = field(default=10, metadata=RUNTIME)  # steps
    save_every: int = field(default=200, metadata=RUNTIME)  # steps between checkpoints; 0: none
    eval_every: int = 0  # steps between measurements on the held-out rows; 0: once, at the end
    keep: str = "last"  # weights that the stage hands on: last, or best by `metric` where it was measured
    metric: str = "eval_nll"  # of the held-out rows
    better: str = "lower"  # lower or higher values of it
    patience: int = 0  # stop after so many measurements in a row without a better one; 0: never

    def __post_init__(self) -> None:
        for name in ("learning_rate", "epsilon"):
            _require(0 < getattr(self, name) < float("inf"), name, getattr(self, name), "a number above 0")
        for name in ("batch_size", "accumulation", "log_every"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        _require(self.epochs > 0, "epochs", self.epochs, "a number above 0")
        _require(self.max_steps is None or self.max_steps >= 1, "max_steps", self.max_steps, "at least 1, or null")
        _require(self.schedule in SCHEDULES, "schedule", self.schedule, " or ".join(SCHEDULES))
        for name in ("beta1", "beta2", "final_rate"):
            _require(0 <= getattr(self, name) < 1, name, getattr(self, name), "in [0, 1)")
        _require(self.keep in ("last", "best"), "keep", self.keep, "last or best")
        _require(self.better in ("lower", "higher"), "better", self.better, "lower or higher")
        watched = self.keep == "last" and not self.patience
        _require(watched or self.eval_every > 0, "eval_every", self.eval_every, "at least 1 with keep=best or patience")
        for name in ("weight_decay", "warmup_steps", "save_every", "max_grad_norm", "eval_every", "patience"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")

    def steps(self, n_rows: int) -> int:
        """Optimizer steps for a data set of n_rows."""
        return self.max_steps or max(1, round(self.epochs * max(1, n_rows // self.batch_size)))


def _require(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        raise ConfigError(f"trainer.{name}={value}: expected {expected}")


SCHEDULES: dict[str, Callable[[float], float]] = {
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: 0.5 * (1.0 + float(torch.cos(torch.tensor(done * torch.pi)))),
    "constant": lambda done: 1.0,
}


def rate_multiplier(cfg: TrainerConfig, n_steps: int) -> Callable[[int], float]:
    """Share of the peak learning rate at a step: warm-up from 0, then the schedule down to `final_rate`."""

    def at(step: int) -> float:
        if step < cfg.warmup_steps:
            return (step + 1) / (cfg.warmup_steps + 1)
        done = (step - cfg.warmup_steps) / max(1, n_steps - cfg.warmup_steps)
        return cfg.final_rate + (1 - cfg.final_rate) * SCHEDULES[cfg.schedule](min(1.0, done))

    return at


def make_optimizer(model: nn.Module, cfg: TrainerConfig, rates: dict[str, float]) -> torch.optim.AdamW:
    """Fused AdamW. Biases and norms do not decay; `rates` gives parameters with such a part in their name, between its
    dots, a rate of their own."""
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}  # the same whatever the rates are: checkpoints hold them
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parts = name.split(".")
            part = next((part for part in rates if part in parts), "")
            groups.setdefault((part, parameter.ndim > 1), []).append(parameter)
    listed = [
        {"params": p, "lr": rates.get(part, cfg.learning_rate), "weight_decay": cfg.weight_decay if decays else 0.0}
        for (part, decays), p in groups.items()
    ]
    return torch.optim.AdamW(listed, betas=(cfg.beta1, cfg.beta2), eps=cfg.epsilon, fused=True)


class StageTrainer(Trainer):
    """`transformers.Trainer` over an objective. The whole training is one pass over `batches`.

    Checkpoints hold the state of training by name (`train.state`) in place of transformers' and DeepSpeed's own files,
    so that any number of processes can go on from them.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Batches,
        objective: Objective,
        arguments: TrainingArguments,
        optimizer: torch.optim.Optimizer,
        schedule: Callable[[int], float],
        callbacks: list[TrainerCallback],
    ) -> None:
        super().__init__(model=model, args=arguments, train_dataset=Dataset(), callbacks=callbacks)
        self.remove_callback(PrinterCallback)
        self.batches, self.objective = batches, objective
        self._our_optimizer, self._our_schedule = optimizer, schedule
        self.start: Path | None = None  # the checkpoint to go on from, whose weights the model has already
        self.loss_is_scaled_for_ga = True  # `compute_loss` divides by the units of the whole step
        self._sums: dict[str, list[Tensor]] = {}
        self.n_targets = 0  # that this process has learnt from
        self.step_batches: list[Batch] = []  # of the step that is being taken

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Ours. Transformers asks here; under DeepSpeed it forgets what it was made with, and would make its own."""
        if self.optimizer is None:
            self.optimizer = self._our_optimizer
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Ours, likewise: at the step from which the training goes on, the last thing to be made before it does."""
        if self.lr_scheduler is None:
            optimizer = optimizer or self.optimizer
            if self.start is not None:
                load_moments(self.start, self.model, optimizer)
                self.state.global_step = checkpoint_step(self.start)
            for group in optimizer.param_groups:
                group["initial_lr"] = group["lr"]
            last = self.state.global_step - 1
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self._our_schedule, last_epoch=last)
        return self.lr_scheduler

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """A checkpoint, from which `start` goes on. Transformers asks here, on every process."""
        save_state(Path(output_dir or self.args.output_dir), self.model, self.optimizer)

    def get_train_dataloader(self) -> Batches:
        return self.batches

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Tensor | None]:
        """The micro-batches of one step, with what the loss averages over in all of them, on all processes."""
        self.step_batches = []
        self.step_batches = samples = list(islice(epoch_iterator, num_batches))
        if not samples:
            return samples, None
        self.n_targets += sum(len(batch.get("target", ())) for batch in samples)
        units = torch.stack([batch["units"] for batch in samples]).sum(0).to(device)
        return samples, self.accelerator.reduce(units, "sum")

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor:
        loss, metrics = self.objective(model, inputs, num_items_in_batch)
        # Transformers' own sum of the loss stays NaN for ever after a step that was; its place is taken by this one.
        share = 1 / (self.args.gradient_accumulation_steps * self.accelerator.num_processes)
        for name, (total, count) in {**metrics, "loss": Mean(loss, share)}.items():
            entry = torch.stack([torch.as_tensor(x, dtype=torch.float64).detach().cpu() for x in (total, count)])
            self._sums[name] = [*self._sums.get(name, []), entry]
        return loss * self.accelerator.num_processes  # gradients are averaged over processes

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means of the objective's metrics since the last log."""
        for name in sorted(self._sums):
            entry = torch.stack(self._sums[name]).sum(0).to(self.args.device)
            total, count = self.accelerator.reduce(entry, "sum").tolist()
            if count:
                logs[name] = total / count
        self._sums.clear()
        super().log(logs, start_time)


STAGE_ARGUMENTS = partial(TrainingArguments, save_only_model=True)  # which is all: see `StageTrainer.save_model`


def training_arguments(
    cfg: TrainerConfig,
    sharding: Sharding,
    folder: Path,
    *,
    n_steps: int,
    share: Share,
    seed: int,
    kind: Callable[..., TrainingArguments] = STAGE_ARGUMENTS,
) -> TrainingArguments:
    """Transformers' arguments for a stage, or those of a `kind` derived from them: only what our configuration says,
    nothing reported or printed by itself."""
    use_cpu, deepspeed = not torch.cuda.is_available(), deepspeed_config(sharding, cfg.bf16, cfg.max_grad_norm)
    os.environ.pop("ACCELERATE_USE_DEEPSPEED", None)  # of a launcher, or an earlier stage of this process
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return kind(
            output_dir=str(folder),
            max_steps=n_steps,
            per_device_train_batch_size=share.rows,
            gradient_accumulation_steps=share.accumulation,
            max_grad_norm=cfg.max_grad_norm,
            learning_rate=cfg.learning_rate,
            bf16=cfg.bf16 and deepspeed is None,
            seed=seed,
            ignore_data_skip=True,  # our batches start where the checkpoint says
            logging_strategy="steps",
            logging_steps=cfg.log_every,
            logging_nan_inf_filter=False,
            save_strategy="steps" if cfg.save_every else "no",
            save_steps=cfg.save_every or 1,
            report_to=[],
            disable_tqdm=True,
            log_level="error",
            use_cpu=use_cpu,
            ddp_backend="gloo" if use_cpu and share.world > 1 else None,
            deepspeed=deepspeed,
            **_activation_checkpointing(cfg),
        )


def _activation_checkpointing(cfg: TrainerConfig) -> dict[str, Any]:
    return {"activation_checkpointing": True} if cfg.gradient_checkpointing else {}
