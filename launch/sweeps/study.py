"""An Optuna study in a file beside the points: it proposes settings, and is told what came of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from models.errors import ConfigError
from train.digests import digest
from train.points import Outcome

FILE = "study.jsonl"
AGAIN = "again"  # marks the trial that tries once more what failed
ABOUT = "about"  # the ranges and objectives of the study
STATES = {"sealed": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


class Study:
    """Proposes by TPE. What was proposed but not ended, because the search was cut off, comes first; what failed in an
    earlier call is proposed once more."""

    def __init__(self, folder: Path, space: Mapping[str, BaseDistribution], objectives: Mapping[str, str]) -> None:
        """objectives: `maximize` or `minimize` by metric."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.space, self.objectives = dict(space), dict(objectives)
        self.study = self._opened(folder / FILE)
        for trial in self._trials(TrialState.RUNNING):
            if trial.params.keys() != self.space.keys():  # cut off while it was being proposed
                self.study.tell(trial.number, state=TrialState.FAIL)
        self.left = self._trials(TrialState.RUNNING)
        tried = [trial.params for trial in self._trials() if trial.state is not TrialState.FAIL]
        for trial in self._trials(TrialState.FAIL):
            if trial.params not in tried:
                tried.append(trial.params)
                self.study.enqueue_trial(trial.params, user_attrs={AGAIN: True})

    def proposed(self, n: int, n_trials: int, seed: int, n_startup_trials: int) -> list[FrozenTrial | Trial]:
        """At most n trials to run next, fewer where `n_trials` have been; none at the end."""
        batch: list[FrozenTrial | Trial] = [self.left.pop(0) for _ in range(min(n, len(self.left)))]
        while len(batch) < n and (self._trials(TrialState.WAITING) or self._n_counted() < n_trials):
            # A seed for each trial: a search that was cut off proposes what an uninterrupted one would.
            own = int(digest([seed, self._n_counted()])[:8], 16)
            self.study.sampler = optuna.samplers.TPESampler(n_startup_trials=n_startup_trials, seed=own)
            batch.append(self.study.ask(self.space))
        return batch

    def first_like(self, trial: FrozenTrial | Trial) -> int:
        """The number of the first trial with the same settings, whose folder holds what is known of them."""
        return next(t.number for t in self._trials() if t.params == trial.params)

    def tell(self, trial: FrozenTrial | Trial, outcome: Outcome) -> None:
        """A sealed point whose objectives are not all numbers has failed, as far as the search goes."""
        values = [outcome.value(metric) for metric in self.objectives] if outcome.state == "sealed" else []
        usable = bool(values) and all(map(math.isfinite, values))
        state = STATES[outcome.state] if usable or not values else TrialState.FAIL
        self.study.tell(trial.number, values if usable else None, state=state)

    def best(self) -> list[int]:
        """The numbers of the trials that no other beats in every objective."""
        return [trial.number for trial in self.study.best_trials]

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states or None)

    def _n_counted(self) -> int:
        return sum(AGAIN not in trial.user_attrs for trial in self._trials())

    def _opened(self, file: Path) -> optuna.Study:
        """Raises ConfigError where the file holds trials of other ranges or other objectives."""
        storage = JournalStorage(JournalFileBackend(str(file)))
        now = {option: repr(distribution) for option, distribution in self.space.items()}
        now |= dict.fromkeys((f"{direction}=[{metric}]" for metric, direction in self.objectives.items()), "")
        make = partial(
            optuna.create_study, storage=storage, study_name="sweep", directions=list(self.objectives.values())
        )
        study = make(load_if_exists=True)
        before = study.user_attrs.get(ABOUT, now)
        if differing := [name for name in {**before, **now} if before.get(name) != now.get(name)]:
            if any(trial.state.is_finished() for trial in study.get_trials(deepcopy=False)):
                raise ConfigError(
                    f"{file}: holds a search that differs in {', '.join(differing)}; choose another name="
                )
            optuna.delete_study(study_name="sweep", storage=storage)
            study = make()
        study.set_user_attr(ABOUT, now)
        return study


def distribution(override: Override) -> BaseDistribution:
    """What an option is drawn from. Raises ConfigError where its values or tags make none."""
    value: Any = override.value()
    if unknown := value.tags - {"log"}:
        raise ConfigError(f"{override.input_line}: unknown tag {', '.join(sorted(unknown))}; there is log")
    log = "log" in value.tags
    try:
        if isinstance(value, IntervalSweep):
            whole = isinstance(value.start, int) and isinstance(value.end, int)
            kind = IntDistribution if whole else FloatDistribution
            return kind(value.start, value.end, log=log)
        if isinstance(value, RangeSweep):
            members = list(value.range())
            kind = IntDistribution if all(isinstance(m, int) for m in members) else FloatDistribution
            return kind(members[0], members[-1], step=value.step)
        if log:
            raise ConfigError(f"{override.input_line}: log belongs to an interval")
        return CategoricalDistribution(list(override.sweep_string_iterator()))
    except (ValueError, IndexError) as error:
        raise ConfigError(f"{override.input_line}: {error}") from error
