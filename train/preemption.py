"""Being asked to stop by a scheduler: by SIGTERM, SIGUSR1 or SIGUSR2.

A training saves a checkpoint at the next step that all processes can, other work ends at once; both end with exit code
75, after which the same command goes on. A second signal ends the process where it stands.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from models.errors import Preempted
from train.callbacks import check_weights
from train.processes import any_of

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)  # USR2 is submitit's
ECHO = 0.5  # seconds in which a signal that comes again is the same request: srun and its daemon both deliver one


class _Request:
    """What this process was asked. One, as signals come to a process."""

    number: int | None = None  # the signal
    waits: bool = False  # it is heeded at a step's end


@contextlib.contextmanager
def heeded() -> Iterator[None]:
    """Inside, a signal raises Preempted, at once or at the end of a step.

    Whoever handled such signals before is told of this one once all is saved: submitit then queues the job again.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals come to the main thread, and are its business
        return
    _Request.number, _Request.waits = None, False
    before = {number: signal.signal(number, _heard) for number in SIGNALS}
    try:
        with _second_ends_at_once():
            yield
    except Preempted:
        if callable(tell := before.get(_Request.number)):
            with contextlib.suppress(SystemExit):  # they would end this process; it ends, and says why
                tell(_Request.number, None)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def until_step_ends() -> Iterator[None]:
    """Inside, a request waits for whoever asks `requested`; one that is still there at the end is heeded then."""
    _Request.waits = True
    try:
        yield
    finally:
        _Request.waits = False
    if requested():
        raise Preempted(f"stopped by {requested()} after the last step; the same command ends it")


def requested() -> str | None:
    """The name of the signal by which this process was asked to stop."""
    return None if _Request.number is None else signal.Signals(_Request.number).name


class StopWhenAsked(TrainerCallback):
    """Saves and stops at the first multiple of `boundary` steps after any process was asked to. It comes after what
    saves by schedule."""

    def __init__(self, boundary: int = 1) -> None:
        self.boundary, self.asked = boundary, False
        self.stopped_at: int | None = None

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> TrainerControl:
        self.asked = self.asked or any_of(requested() is not None)
        ends = control.should_training_stop and state.global_step < state.max_steps  # by patience, which has its say
        if self.asked and not ends and state.global_step % self.boundary == 0:
            check_weights(model, state.global_step)
            control.should_save = control.should_training_stop = True
            self.stopped_at = state.global_step
        return control

    def raise_if_stopped(self) -> None:
        """Raise Preempted where the training ended here."""
        if self.stopped_at is not None:
            by = requested() or "another process's signal"
            raise Preempted(f"stopped by {by}, saved at step {self.stopped_at}; the same command goes on from there")


def _heard(number: int, _: object) -> None:
    if _Request.number is None:
        _Request.number = number
        if not _Request.waits:
            raise Preempted(f"stopped by {signal.Signals(number).name}; the same command goes on, or starts again")


@contextlib.contextmanager
def _second_ends_at_once() -> Iterator[None]:
    """A thread hears signals even while the main one waits for another process."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_listen, args=(reading,), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writing)


def _listen(reading: int) -> None:
    first: float | None = None
    with open(reading, "rb", buffering=0) as signals:
        while heard := signals.read(1):
            if heard[0] in SIGNALS:
                first = first or time.monotonic()
                if time.monotonic() - first > ECHO:
                    os._exit(128 + heard[0])


def _forget_in_child() -> None:
    """A worker that a library forks ends by a signal as any process does, and tells this one nothing of it."""
    if signal.getsignal(SIGNALS[0]) is _heard:
        signal.set_wakeup_fd(-1)
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)


os.register_at_fork(after_in_child=_forget_in_child)
