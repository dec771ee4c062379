"""Training a model within a run: from the newest checkpoint on, to the last step, watched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import nn
from transformers import Trainer, TrainerCallback, set_seed
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from models.errors import ConfigError, NumericsError
from models.objective import Objective
from train import checkpoints
from train.batches import Batches
from train.callbacks import AfterStep, Checkpoints, MetricsLog, Pace, Progress, check_weights
from train.machine import chain, is_out_of_memory
from train.memory import OutOfMemory, out_of_memory
from train.preemption import until_step_ends
from train.processes import barrier, rank, world_size
from train.pruning import pruning
from train.run import MADE_BY, Run
from train.state import load_weights
from train.trainer import StageTrainer, TrainerConfig, make_optimizer, rate_multiplier, training_arguments
from train.watch import HeldOutWatch


def train(  # noqa: PLR0913  three by name
    run: Run,
    model: nn.Module,
    batches: Batches,
    objective: Objective,
    trainer: TrainerConfig,
    *,
    rates: dict[str, float] | None = None,
    pace: Pace | None = None,
    measure: Callable[[], dict[str, float]] | None = None,
) -> dict[str, float]:
    """Train to the end, from the newest checkpoint on, and leave the weights that are to be kept.

    rates: learning rates of modules by name. measure: held-out metrics of the model as it is. Returns the last
    measurements, those of the kept weights.
    """
    pace = pace or Pace()
    divides = hasattr(batches, "share") and world_size() == 1 and run.sharding.stage is None
    if divides and (parts := run.parts or run.restored_state().get("accumulation")):
        trainer = _divided(run, batches, trainer, parts)
    n_steps = len(batches) // trainer.accumulation
    arguments = training_arguments(
        trainer, run.sharding, run.checkpoints, n_steps=n_steps, share=run.share(trainer), seed=run.cfg.seed
    )
    watch = _watch(run, model, trainer, measure)
    checkpoint, callbacks = going_on(run, batches, pace)
    if checkpoint is not None:
        load_weights(checkpoint, model)
    optimizer = make_optimizer(model, trainer, rates or {})
    schedule = rate_multiplier(trainer, n_steps)
    # The watch comes before what saves checkpoints, so that a checkpoint remembers what was measured at its step.
    callbacks = [*watch, *callbacks]
    loop = StageTrainer(model, batches, objective, arguments, optimizer, schedule, callbacks)
    loop.start = checkpoint
    try:
        complete(run, loop, trainer=trainer)
    except OutOfMemory as error:
        if not divides or error.step > batches.start_step or trainer.batch_size // trainer.accumulation % 2:
            raise
        run.say(f"{error}. Going on with micro-batches of half as many rows")
        smaller = _divided(run, batches, trainer, 2 * trainer.accumulation)
    else:
        run.training["training_targets"] = loop.n_targets
        kept = watch[0].restore_best() if watch else {}
        return {**(measure() if measure else {}), **kept}
    set_seed(run.cfg.seed)
    return train(run, model, batches, objective, smaller, rates=rates, pace=pace, measure=measure)


def _divided(run: Run, batches: Batches, trainer: TrainerConfig, parts: int) -> TrainerConfig:
    """The same steps in so many micro-batches, also after the next checkpoint."""
    run.parts, run.state["accumulation"] = parts, lambda: run.parts
    trainer = replace(trainer, accumulation=parts)
    batches.share = run.share(trainer)
    return trainer


def _watch(
    run: Run,
    model: nn.Module,
    trainer: TrainerConfig,
    measure: Callable[[], dict[str, float]] | None,
) -> list[HeldOutWatch]:
    """What measures on held-out rows under way: nothing, unless the stage can and the configuration says so."""
    if not trainer.eval_every:
        return []
    if measure is None:
        raise ConfigError(
            f"trainer.eval_every={trainer.eval_every}: nothing can be measured in this stage, or without held-out "
            "rows; say 0"
        )
    watch = HeldOutWatch(run.folder, model, trainer, measure, run.log, run.say)
    run.state["watch"] = watch.state_dict
    if (state := run.restored_state().get("watch")) is not None:
        watch.load_state_dict(state)
    return [watch]


def going_on(run: Run, batches: Batches, pace: Pace | None = None) -> tuple[Path | None, list[TrainerCallback]]:
    """The checkpoint to go on from, with log and batches set to it, and what watches the training from there."""
    checkpoint = newest_checkpoint(run)
    step = checkpoints.checkpoint_step(checkpoint) if checkpoint else 0
    log = MetricsLog(run.folder / "metrics.jsonl", run.tracker)
    log.keep_until(step)
    batches.start_step = step
    pace = pace or Pace()
    saver = Checkpoints(run.stage, run.checkpoints, run.state_now, run.files, pace.boundary)
    run.stop.boundary = pace.boundary
    watches = [AfterStep(pace.after_step), log, Progress(run.stage), *pruning(run.folder)]
    return checkpoint, [*watches, saver, run.stop, run.guard]


def newest_checkpoint(run: Run) -> Path | None:
    """Where to go on: the newest complete checkpoint. Says which newer ones were passed over, and clears them."""
    found, passed_over = run.found
    barrier()  # every process has looked
    if rank() == 0:
        for checkpoint, fault in passed_over.items():
            run.say(f"passed over {checkpoint}: {fault}")
        checkpoints.remove_incomplete(run.checkpoints, sound=found)
        passed_over.clear()
    if found is not None:
        run.say(f"going on from step {checkpoints.checkpoint_step(found)}")
        if (before := checkpoints.stage_state(found).get(MADE_BY, run.made_by)) != run.made_by:
            run.say(
                f"the checkpoint was made by {before}, this is {run.made_by}: the same rows make each step, and "
                "sums over them are rounded in another order"
            )
    return found


def complete(run: Run, loop: Trainer, resume: Path | None = None, trainer: TrainerConfig | None = None) -> None:
    """Let a trainer run to its last step, once it is sure that it sees all processes.

    resume: a checkpoint in transformers' format that it is to go on from. trainer: how its steps are divided,
    where the trainer is ours.
    """
    if loop.accelerator.num_processes != world_size():
        raise ConfigError(
            f"{world_size()} processes were launched, the trainer sees {loop.accelerator.num_processes}: "
            "every process would train on the same rows"
        )
    try:
        with until_step_ends():
            done = loop.train(resume_from_checkpoint=str(resume) if resume else None)
            run.stop.raise_if_stopped()
        check_weights(loop.model, loop.state.global_step)
    except NumericsError as error:
        error.batch = error.batch or getattr(loop, "step_batches", None)
        raise
    except Exception as error:
        if any(map(is_out_of_memory, chain(error))):
            raise out_of_memory(loop.state.global_step, getattr(loop, "step_batches", []), trainer) from error
        raise
    finally:
        unset_hf_deepspeed_config()  # or transformers would partition whatever model it loads next
    run.training["training_seconds"] = done.metrics["train_runtime"]
